"""PostgreSQL protocol 3: framing of typed messages, read in place (PostgreSQL 17 §53.7, §53.8).

Layout of every typed message::

    Byte1  type
    Int32  length, including itself, excluding the type byte
    ...    body of length - 4 bytes

Nothing here allocates per message: callers walk a received buffer with ``HEADER`` and look only at what they must judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from hostagent.model.errors import RemoteWireError

COMPILED: Final = not __file__.endswith(".py")
HEADER: Final = Struct(">Bi").unpack_from
HEADER_SIZE: Final = 5
_SIGN: Final = 1 << 31
INT32: Final = Struct(">i")
INT16: Final = Struct(">h")
UINT16: Final = Struct(">H")
UINT32: Final = Struct(">I")

# Longest body we accept of a message that carries statements, values or rows. PostgreSQL itself stops at 1 GiB.
LARGE: Final = 256 * 1024 * 1024
# Longest of everything else; PostgreSQL's PQ_SMALL_MESSAGE_LIMIT is 10,000 for the client's, errors may be longer.
SMALL: Final = 10_000
MEDIUM: Final = 4 * 1024 * 1024


class Client:
    """Type bytes of messages sent by the client (PostgreSQL 17 §53.7)."""

    QUERY: Final = 0x51  # Q
    PARSE: Final = 0x50  # P
    BIND: Final = 0x42  # B
    DESCRIBE: Final = 0x44  # D
    EXECUTE: Final = 0x45  # E
    CLOSE: Final = 0x43  # C
    FLUSH: Final = 0x48  # H
    SYNC: Final = 0x53  # S
    FUNCTION_CALL: Final = 0x46  # F
    COPY_DATA: Final = 0x64  # d
    COPY_DONE: Final = 0x63  # c
    COPY_FAIL: Final = 0x66  # f
    TERMINATE: Final = 0x58  # X


class Server:
    """Type bytes of messages sent by the server (PostgreSQL 17 §53.7)."""

    AUTHENTICATION: Final = 0x52  # R
    BACKEND_KEY: Final = 0x4B  # K
    NEGOTIATE: Final = 0x76  # v
    PARAMETER_STATUS: Final = 0x53  # S
    READY: Final = 0x5A  # Z
    ROW_DESCRIPTION: Final = 0x54  # T
    PARAMETER_DESCRIPTION: Final = 0x74  # t
    NO_DATA: Final = 0x6E  # n
    DATA_ROW: Final = 0x44  # D
    COMMAND_COMPLETE: Final = 0x43  # C
    EMPTY_QUERY: Final = 0x49  # I
    ERROR: Final = 0x45  # E
    NOTICE: Final = 0x4E  # N
    NOTIFICATION: Final = 0x41  # A
    PARSE_COMPLETE: Final = 0x31  # 1
    BIND_COMPLETE: Final = 0x32  # 2
    CLOSE_COMPLETE: Final = 0x33  # 3
    PORTAL_SUSPENDED: Final = 0x73  # s
    FUNCTION_RESULT: Final = 0x56  # V
    COPY_IN: Final = 0x47  # G
    COPY_OUT: Final = 0x48  # H
    COPY_BOTH: Final = 0x57  # W
    COPY_DATA: Final = 0x64  # d
    COPY_DONE: Final = 0x63  # c


# Longest body accepted by type. A type that is absent is not a message of this phase: refuse and close.
CLIENT_CAPS: Final[dict[int, int]] = {
    Client.QUERY: LARGE,
    Client.PARSE: LARGE,
    Client.BIND: LARGE,
    Client.FUNCTION_CALL: LARGE,
    Client.COPY_DATA: LARGE,
    Client.DESCRIBE: SMALL,
    Client.EXECUTE: SMALL,
    Client.CLOSE: SMALL,
    Client.FLUSH: 0,
    Client.SYNC: 0,
    Client.COPY_DONE: 0,
    Client.COPY_FAIL: SMALL,
    Client.TERMINATE: 0,
}
SERVER_CAPS: Final[dict[int, int]] = {
    Server.DATA_ROW: LARGE,
    Server.COPY_DATA: LARGE,
    Server.FUNCTION_RESULT: LARGE,
    Server.ROW_DESCRIPTION: MEDIUM,
    Server.PARAMETER_DESCRIPTION: MEDIUM,
    Server.ERROR: LARGE,
    Server.NOTICE: LARGE,
    Server.NOTIFICATION: MEDIUM,
    Server.PARAMETER_STATUS: MEDIUM,
    Server.COMMAND_COMPLETE: SMALL,
    Server.COPY_IN: SMALL,
    Server.COPY_OUT: SMALL,
    Server.COPY_BOTH: SMALL,
    Server.AUTHENTICATION: SMALL,
    Server.BACKEND_KEY: SMALL,
    Server.NEGOTIATE: SMALL,
    Server.READY: 1,
    Server.NO_DATA: 0,
    Server.EMPTY_QUERY: 0,
    Server.PARSE_COMPLETE: 0,
    Server.BIND_COMPLETE: 0,
    Server.CLOSE_COMPLETE: 0,
    Server.PORTAL_SUSPENDED: 0,
    Server.COPY_DONE: 0,
}


def refuse_frame(kind: int, length: int, caps: Mapping[int, int]) -> RemoteWireError:
    """Return the error for a header that ``caps`` does not allow: unknown type, impossible or excessive length."""
    name = chr(kind) if 0x20 < kind < 0x7F else f"0x{kind:02x}"
    if kind not in caps:
        return RemoteWireError(f"message type {name!r} is not part of this phase of the protocol")
    return RemoteWireError(f"message {name!r} of length {length} is outside 4..{caps[kind] + 4}")


def header(buffer: bytes, offset: int) -> tuple[int, int]:
    """Return (type, length) of the message at ``offset``, of which ``HEADER_SIZE`` bytes are there; as ``HEADER``, and quicker where compiled."""
    if not COMPILED:
        kind, length = HEADER(buffer, offset)
        return kind, length
    length = (
        (buffer[offset + 1] << 24) | (buffer[offset + 2] << 16) | (buffer[offset + 3] << 8) | buffer[offset + 4]
    )
    return buffer[offset], length if length < _SIGN else length - 2 * _SIGN


def run_end(buffer: bytes, offset: int, end: int, kind: int, cap: int) -> tuple[int, int]:
    """Return (offset after, count of) the complete consecutive messages of type ``kind`` that start at ``offset``.

    Raises:
        RemoteWireError: a header in the run has an impossible or excessive length.
    """
    if COMPILED:
        return run_end_by_bytes(buffer, offset, end, kind, cap)
    count = 0
    header = HEADER
    last = end - HEADER_SIZE
    while offset <= last:
        found, length = header(buffer, offset)
        if found != kind:
            break
        if length < 4 or length - 4 > cap:
            raise refuse_frame(found, length, {kind: cap})
        stop = offset + length + 1
        if stop > end:
            break
        offset = stop
        count += 1
    return offset, count


def run_end_by_bytes(buffer: bytes, offset: int, end: int, kind: int, cap: int) -> tuple[int, int]:
    """Return the same as ``run_end``: several times as fast where mypyc compiled it, half as fast where it did not."""
    count = 0
    last = end - HEADER_SIZE
    longest = cap + 4
    while offset <= last:
        if buffer[offset] != kind:
            break
        length = (
            (buffer[offset + 1] << 24) | (buffer[offset + 2] << 16) | (buffer[offset + 3] << 8) | buffer[offset + 4]
        )
        if length < 4 or length > longest:  # from 2 ** 31 on it is negative, and excessive here all the same
            raise refuse_frame(kind, HEADER(buffer, offset)[1], {kind: cap})
        if offset + length >= end:
            break
        offset += length + 1
        count += 1
    return offset, count


def frame(kind: int, body: bytes) -> bytes:
    """Return one message of type ``kind``."""
    return bytes((kind,)) + INT32.pack(len(body) + 4) + body


class Fields:
    """Reads the fields of one message body in order; every shortfall is the sender's protocol violation."""

    __slots__ = ("_body", "_end", "_offset")

    def __init__(self, body: bytes) -> None:
        """Read from the start of ``body``."""
        self._body = body
        self._offset = 0
        self._end = len(body)

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        start = self._offset
        stop = start + size
        if size < 0 or stop > self._end:
            raise RemoteWireError("insufficient data left in message")
        self._offset = stop
        return self._body[start:stop]

    def int16(self) -> int:
        """Return the next signed 16-bit integer."""
        return int(INT16.unpack(self.take(2))[0])

    def count(self) -> int:
        """Return the next 16-bit count, which PostgreSQL 14 and newer read as unsigned."""
        return int(UINT16.unpack(self.take(2))[0])

    def int32(self) -> int:
        """Return the next signed 32-bit integer."""
        return int(INT32.unpack(self.take(4))[0])

    def oid(self) -> int:
        """Return the next unsigned 32-bit integer."""
        return int(UINT32.unpack(self.take(4))[0])

    def string(self) -> bytes:
        """Return the next NUL-terminated string, without its NUL."""
        stop = self._body.find(b"\0", self._offset, self._end)
        if stop < 0:
            raise RemoteWireError("invalid string in message")
        found = self._body[self._offset : stop]
        self._offset = stop + 1
        return found

    def value(self) -> bytes | None:
        """Return the next length-prefixed value; length -1 is NULL."""
        length = self.int32()
        if length == -1:
            return None
        return self.take(length)

    @property
    def more(self) -> bool:
        """Whether unread bytes are left."""
        return self._offset < self._end

    def finish(self) -> None:
        """Check that the body is used up.

        Raises:
            RemoteWireError: bytes are left over.
        """
        if self._offset != self._end:
            raise RemoteWireError("invalid message format: trailing bytes")
