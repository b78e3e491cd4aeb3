"""What a PostgreSQL client sends after start-up: parsers and builders (PostgreSQL 17 §53.7).

Every parser takes a message *body* (after the length) and raises ``RemoteWireError`` unless it is used up exactly, as the
server itself does. Every builder returns a whole message. ``parse(build(x)) == x`` for each pair.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, final

from hostagent.model.errors import RemoteWireError
from hostagent.wire.postgres.messages import INT32, UINT16, UINT32, Client, Fields, frame

SYNC: Final = b"S\0\0\0\x04"
FLUSH: Final = b"H\0\0\0\x04"
TERMINATE: Final = b"X\0\0\0\x04"
COPY_DONE: Final = b"c\0\0\0\x04"

_SHORT: Final = "insufficient data left in message"
_TEXT: Final = (0,)
_BINARY: Final = (1,)
_NULL: Final = 0xFFFFFFFF
_LONGEST: Final = 0x7FFFFFFF


class Parse(NamedTuple):
    """Prepare ``text`` as statement ``name``; ``types`` are parameter type OIDs (0: let the server decide)."""

    name: bytes
    text: bytes
    types: tuple[int, ...]


class Bind(NamedTuple):
    """Make portal ``portal`` of ``statement``. Format lists hold none, one (for all) or one per value: 0 text, 1 binary."""

    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


class Named(NamedTuple):
    """Describe or Close: ``kind`` is ``b"S"`` for a statement, ``b"P"`` for a portal."""

    kind: bytes
    name: bytes


class Execute(NamedTuple):
    """Run ``portal``; at most ``limit`` rows, 0 for all."""

    portal: bytes
    limit: int


class FunctionCall(NamedTuple):
    """The fast path: call function ``oid`` directly (PostgreSQL 17 §53.2.6)."""

    oid: int
    formats: tuple[int, ...]
    arguments: tuple[bytes | None, ...]
    result_format: int


def parse_query(body: bytes) -> bytes:
    """Return the statement text of a Query."""
    if not body or body.find(b"\0") != len(body) - 1:
        raise RemoteWireError("invalid message format: Query is not one string")
    return body[:-1]


def build_query(text: bytes) -> bytes:
    """Return a Query."""
    return frame(Client.QUERY, text + b"\0")


def parse_parse(body: bytes) -> Parse:
    """Return the fields of a Parse."""
    fields = Fields(body)
    name = fields.string()
    text = fields.string()
    types = tuple(fields.oid() for _ in range(fields.count()))
    fields.finish()
    return Parse(name, text, types)


def build_parse(message: Parse) -> bytes:
    """Return a Parse."""
    types = UINT16.pack(len(message.types)) + b"".join(UINT32.pack(oid) for oid in message.types)
    return frame(Client.PARSE, message.name + b"\0" + message.text + b"\0" + types)


def _count(body: bytes, offset: int) -> int:
    """Return the unsigned 16-bit count at ``offset``."""
    if offset + 2 > len(body):
        raise RemoteWireError(_SHORT)
    return (body[offset] << 8) | body[offset + 1]


def _format_codes(body: bytes, offset: int) -> tuple[tuple[int, ...], int]:
    """Return (format codes, offset after them). Read in place: this is on the way of every Bind."""
    count = _count(body, offset)
    offset += 2
    if not count:
        return (), offset
    stop = offset + 2 * count
    if stop > len(body):
        raise RemoteWireError(_SHORT)
    if count == 1 and not body[offset] and body[offset + 1] <= 1:
        return _BINARY if body[offset + 1] else _TEXT, stop
    codes = body[offset:stop]
    found = tuple(codes[1::2])
    if codes[0::2].strip(b"\0") or any(code > 1 for code in found):
        raise RemoteWireError("unsupported format code", "22023")
    return found, stop


def _value_list(body: bytes, offset: int, formats: tuple[int, ...]) -> tuple[tuple[bytes | None, ...], int]:
    """Return (values, offset after them)."""
    count = _count(body, offset)
    offset += 2
    size = len(body)
    values: list[bytes | None] = []
    for _ in range(count):
        if offset + 4 > size:
            raise RemoteWireError(_SHORT)
        length = (body[offset] << 24) | (body[offset + 1] << 16) | (body[offset + 2] << 8) | body[offset + 3]
        offset += 4
        if length == _NULL:
            values.append(None)
            continue
        if length > _LONGEST:
            raise RemoteWireError("invalid value length in message")
        values.append(body[offset : offset + length])
        offset += length
    if offset > size:
        raise RemoteWireError(_SHORT)
    if len(formats) > 1 and len(formats) != count:
        raise RemoteWireError(f"message has {len(formats)} formats but {count} values")
    return tuple(values), offset


def _build_formats(codes: tuple[int, ...]) -> bytes:
    return UINT16.pack(len(codes)) + b"".join(UINT16.pack(code) for code in codes)


def _build_values(values: tuple[bytes | None, ...]) -> bytes:
    parts = [UINT16.pack(len(values))]
    parts += [INT32.pack(-1) if value is None else INT32.pack(len(value)) + value for value in values]
    return b"".join(parts)


def parse_bind(body: bytes) -> Bind:
    """Return the fields of a Bind."""
    first = body.find(b"\0")
    second = body.find(b"\0", first + 1)
    if first < 0 or second < 0:
        raise RemoteWireError("invalid string in message")
    bound = parse_bound(body, second + 1)
    return Bind(body[:first], body[first + 1 : second], bound.formats, bound.values, bound.result_formats)


@final
class Bound:
    """What a Bind says behind its two names; ``raw`` are the values as they came, each behind its length, without their count."""

    __slots__ = ("formats", "raw", "result_formats", "values")

    def __init__(
        self, formats: tuple[int, ...], values: tuple[bytes | None, ...], raw: bytes, result_formats: tuple[int, ...]
    ) -> None:
        """Keep the parts."""
        self.formats = formats
        self.values = values
        self.raw = raw
        self.result_formats = result_formats


def parse_bound(body: bytes, offset: int) -> Bound:
    """Return the fields of a Bind whose names end before ``offset``."""
    formats, offset = _format_codes(body, offset)
    values, stop = _value_list(body, offset, formats)
    result_formats, end = _format_codes(body, stop)
    if end != len(body):
        raise RemoteWireError("invalid message format: trailing bytes")
    return Bound(formats, values, body[offset + 2 : stop], result_formats)


def build_bind(message: Bind) -> bytes:
    """Return a Bind."""
    body = message.portal + b"\0" + message.statement + b"\0" + _build_formats(message.formats)
    return frame(Client.BIND, body + _build_values(message.values) + _build_formats(message.result_formats))


def parse_named(body: bytes) -> Named:
    """Return the fields of a Describe or Close."""
    kind = body[:1]
    if kind not in (b"S", b"P") or body.find(b"\0", 1) != len(body) - 1:
        raise RemoteWireError("invalid Describe or Close message")
    return Named(kind, body[1:-1])


def build_describe(message: Named) -> bytes:
    """Return a Describe."""
    return frame(Client.DESCRIBE, message.kind + message.name + b"\0")


def build_close(message: Named) -> bytes:
    """Return a Close."""
    return frame(Client.CLOSE, message.kind + message.name + b"\0")


def parse_execute(body: bytes) -> Execute:
    """Return the fields of an Execute."""
    stop = len(body) - 5
    if stop < 0 or body.find(b"\0") != stop:
        raise RemoteWireError("invalid Execute message")
    return Execute(body[:stop], int(INT32.unpack_from(body, stop + 1)[0]))


def build_execute(message: Execute) -> bytes:
    """Return an Execute."""
    return frame(Client.EXECUTE, message.portal + b"\0" + INT32.pack(message.limit))


def parse_function_call(body: bytes) -> FunctionCall:
    """Return the fields of a FunctionCall."""
    try:
        oid = int(UINT32.unpack_from(body)[0])
        formats, offset = _format_codes(body, 4)
        arguments, offset = _value_list(body, offset, formats)
        result_format = _count(body, offset)
    except struct.error:
        raise RemoteWireError("insufficient data left in message") from None
    if offset + 2 != len(body) or result_format > 1:
        raise RemoteWireError("invalid message format: FunctionCall")
    return FunctionCall(oid, formats, arguments, result_format)


def build_function_call(message: FunctionCall) -> bytes:
    """Return a FunctionCall."""
    body = UINT32.pack(message.oid) + _build_formats(message.formats) + _build_values(message.arguments)
    return frame(Client.FUNCTION_CALL, body + UINT16.pack(message.result_format))


def parse_copy_fail(body: bytes) -> bytes:
    """Return the reason of a CopyFail."""
    if not body or body.find(b"\0") != len(body) - 1:
        raise RemoteWireError("invalid CopyFail message")
    return body[:-1]


def build_copy_fail(reason: bytes) -> bytes:
    """Return a CopyFail."""
    return frame(Client.COPY_FAIL, reason + b"\0")


def build_copy_data(data: bytes) -> bytes:
    """Return a CopyData (the same in both directions)."""
    return frame(Client.COPY_DATA, data)
