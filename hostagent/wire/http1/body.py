"""Bodies: how long one is (RFC 9112 §6), its reading from a buffer, and its writing in chunks (§7.1).

Layout of a chunked body::

    *(1*15HEXDIG CRLF octets CRLF) 1*"0" CRLF *(field CRLF) CRLF

A chunk extension is refused: no client or server in use sends one, and readers disagree about where it ends.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.head import END, Fields, RequestHead, ResponseHead, parse_fields, take_head

MAX_TRAILER: Final = 16_384
"""Longest trailer section, in bytes."""

LAST_CHUNK: Final = b"0\r\n"

_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_LONGEST_SIZE_LINE = 17
_LINE_END = b"\r\n"

# RFC 9110 §6.5.1: what frames, routes, authenticates or describes a message may not come after it.
_NOT_IN_TRAILER: Final = frozenset(
    {
        *("content-length", "transfer-encoding", "host", "connection", "upgrade", "te", "trailer", "expect", "range"),
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "content-type", "content-encoding"),
        *("content-range", "cache-control", "location", "keep-alive", "age", "vary", "date", "expires", "max-forwards"),
    }
)


class Body(Protocol):
    """A body that is being read."""

    @property
    def done(self) -> bool:
        """Whether all of it was read."""

    @property
    def left(self) -> int:
        """How many octets of content come next, whatever stands in them."""

    @property
    def trailers(self) -> Fields:
        """What came after a chunked body."""

    def read(self, buffer: bytearray) -> bytes:
        """Remove from the start of ``buffer`` what belongs to the body and return its content.

        Raises:
            RemoteWireError: the framing is broken.
        """


class SizedBody:
    """``Content-Length`` octets; also none at all."""

    trailers: Fields = ()

    def __init__(self, size: int) -> None:
        """``size`` octets are to come."""
        self.size = size
        self._left = size

    @property
    def done(self) -> bool:
        """Whether all of it was read."""
        return not self._left

    @property
    def left(self) -> int:
        """How many octets are still to come."""
        return self._left

    def read(self, buffer: bytearray) -> bytes:
        """Return what is there of it."""
        found = bytes(buffer[: self._left])
        del buffer[: len(found)]
        self._left -= len(found)
        return found


class CloseBody:
    """Everything until the connection ends: responses only."""

    trailers: Fields = ()
    done = False
    left = 1 << 62

    def read(self, buffer: bytearray) -> bytes:
        """Return what is there."""
        found = bytes(buffer)
        buffer.clear()
        return found


class ChunkedBody:
    """A body in chunks. What it returns does not show where chunks ended."""

    def __init__(self) -> None:
        """Begin before the first size line."""
        self.done = False
        self.trailers: Fields = ()
        self._left = 0
        self._behind_data = False
        self._last = False

    @property
    def left(self) -> int:
        """How many octets of the chunk that is being read are still to come."""
        return self._left

    def read(self, buffer: bytearray) -> bytes:
        """Return the content of the chunks, or parts of chunks, that are there."""
        parts: list[bytes] = []
        while not self.done:
            if self._left:
                part = bytes(buffer[: self._left])
                if not part:
                    break
                del buffer[: len(part)]
                self._left -= len(part)
                parts.append(part)
            elif not self._step(buffer):
                break
        return b"".join(parts)

    def _step(self, buffer: bytearray) -> bool:
        """Read what stands between two pieces of content; False: not all of it is there."""
        if self._last:
            return self._trailer(buffer)
        if self._behind_data:
            if len(buffer) < len(_LINE_END):
                return False
            if not buffer.startswith(_LINE_END):
                raise RemoteWireError("a chunk does not end where its size says", "400")
            del buffer[: len(_LINE_END)]
            self._behind_data = False
        return self._size(buffer)

    def _size(self, buffer: bytearray) -> bool:
        stop = buffer.find(_LINE_END, 0, _LONGEST_SIZE_LINE)
        line = bytes(buffer[:_LONGEST_SIZE_LINE] if stop < 0 else buffer[:stop])
        if stop < 0 and len(line) < _LONGEST_SIZE_LINE and (not line or _CHUNK_SIZE.fullmatch(line.removesuffix(b"\r"))):
            return False
        if stop < 0 or not _CHUNK_SIZE.fullmatch(line):
            raise RemoteWireError("malformed chunk size (extensions are not taken)", "400")
        del buffer[: stop + len(_LINE_END)]
        self._left = int(line, 16)
        self._behind_data = True
        self._last = not self._left
        return True

    def _trailer(self, buffer: bytearray) -> bool:
        if len(buffer) < len(_LINE_END):
            return False
        if buffer.startswith(_LINE_END):
            del buffer[: len(_LINE_END)]
            self.done = True
            return False
        if len(buffer) > MAX_TRAILER and buffer.find(END) < 0:
            raise RemoteWireError(f"the trailer is longer than {MAX_TRAILER} bytes", "431")
        section = take_head(buffer, MAX_TRAILER)
        if section is None:
            return False
        self.trailers = parse_fields(section.split(_LINE_END))
        for name, _ in self.trailers:
            if name.lower().replace("_", "-") in _NOT_IN_TRAILER:
                raise RemoteWireError(f"{name} may not stand in a trailer", "400")
        self.done = True
        return False


def request_body(head: RequestHead) -> SizedBody | ChunkedBody:
    """Return the reader of the body that follows a request (RFC 9112 §6.3).

    Raises:
        RemoteWireError: the framing can be read in two ways (400), or is of a kind nobody needs (501).
    """
    body = _framed(head.values("transfer-encoding"), head.values("content-length"), head.minor)
    return SizedBody(0) if body is None else body


def response_body(head: ResponseHead, method: str) -> Body:
    """Return the reader of the body that follows the response to a ``method`` request (RFC 9112 §6.3).

    Raises:
        RemoteWireError: the framing can be read in two ways.
    """
    body = _framed(head.values("transfer-encoding"), head.values("content-length"), head.minor)
    if method == "HEAD" or head.status < 200 or head.status in (204, 304):
        return SizedBody(0)
    return CloseBody() if body is None else body


def _framed(codings: list[str], lengths: list[str], minor: int) -> SizedBody | ChunkedBody | None:
    if codings:
        if lengths:
            raise RemoteWireError("Transfer-Encoding and Content-Length together", "400")
        if not minor:
            raise RemoteWireError("Transfer-Encoding in HTTP/1.0", "400")
        if len(codings) > 1 or codings[0].lower() != "chunked":
            raise RemoteWireError("a Transfer-Encoding other than chunked", "501")
        return ChunkedBody()
    if not lengths:
        return None
    if len(lengths) > 1:
        raise RemoteWireError("Content-Length is given twice", "400")
    if not _LENGTH.fullmatch(lengths[0]):
        raise RemoteWireError("malformed Content-Length", "400")
    return SizedBody(int(lengths[0]))


def build_chunk(content: bytes) -> bytes:
    """Return ``content``, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def build_last_chunk(trailers: Fields) -> bytes:
    """Return the end of a chunked body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return LAST_CHUNK + lines.encode("latin-1") + _LINE_END
