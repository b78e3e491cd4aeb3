"""DNS messages, as much of them as a server needs that answers addresses and nothing else (RFC 1035, RFC 6891, RFC 8914).

Layout of a query, the only one accepted::

    Int16 id · Int16 flags · Int16 counts: 1 question, 0 answers, 0 authorities, 0 or 1 additional
    question    labels (length byte 1..63, bytes) ... 0 · Int16 type · Int16 class
    additional  OPT: 0 · Int16 41 · Int16 payload size · Byte extended rcode · Byte version · Int16 flags · Int16 length · options

Over a stream each message has an Int16 length in front.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from hostagent.model.errors import RemoteWireError

CLASS_IN: Final = 1
UDP_SIZE: Final = 512
EDNS_SIZE: Final = 4096
"""The most we send in one datagram, however much the client would take."""

_HEADER: Final = Struct(">HHHHHH")
_UINT16: Final = Struct(">H")
_OPT_REST: Final = Struct(">HHBBHH")
_RECORD: Final = Struct(">HHIH")
_RESPONSE = 0x8000
_OPCODE = 0x7800
_AUTHORITATIVE = 0x0400
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_RECURSION_AVAILABLE = 0x0080
_CHECKING_DISABLED = 0x0010
_MAX_NAME = 255
_MAX_LABEL = 63
_EXTENDED_ERROR = 15
_MAX_QUERY = 4096
_NAME_POINTER = 0xC00C  # the question's name, which starts right after the header


class Kind(enum.IntEnum):
    """Record types that mean something here."""

    A = 1
    AAAA = 28
    OPT = 41


class Code(enum.IntEnum):
    """Response codes (RFC 1035 §4.1.1, RFC 6891 §9)."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class ExtendedError(enum.IntEnum):
    """Why, for people who look (RFC 8914 §4)."""

    PROHIBITED = 18
    NETWORK = 23


class QueryError(RemoteWireError):
    """A query that is not answered with data. ``reply`` is what to send back; empty for what is no query at all."""

    def __init__(self, message: str, reply: bytes = b"") -> None:
        """Keep the reply."""
        super().__init__(message, "FORMERR")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Query:
    r"""One question. ``name`` is lower-cased without the final dot; labels that are no plain ASCII are escaped (``\\ddd``).

    ``question`` is its exact bytes, echoed in the answer. ``size`` is the largest datagram the client takes; ``edns`` whether
    it sent an OPT record, ``flags`` its header flags.
    """

    identifier: int
    flags: int
    name: str
    kind: int
    question: bytes
    edns: bool = False
    size: int = UDP_SIZE


def parse_query(data: bytes) -> Query:
    """Return the query in ``data``.

    Raises:
        QueryError: not exactly one well-formed question of class IN; its ``reply`` is FORMERR, NOTIMP or BADVERS.
    """
    if len(data) < _HEADER.size or len(data) > _MAX_QUERY:
        raise QueryError(f"a DNS message of {len(data)} bytes")
    identifier, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise QueryError("a DNS response where a query belongs")
    if flags & _OPCODE:
        raise _complaint(identifier, flags, Code.NOTIMP, "only standard queries are answered")
    if (questions, answers, authorities) != (1, 0, 0) or additional > 1:
        raise _complaint(identifier, flags, Code.FORMERR, "a query must hold one question and nothing else")
    try:
        name, end = _name(data, _HEADER.size)
        kind, kind_class = _UINT16.unpack(_take(data, end, 2))[0], _UINT16.unpack(_take(data, end + 2, 2))[0]
        end += 4
        question = data[_HEADER.size : end]
        version = 0
        size = UDP_SIZE
        if additional:
            size, version, end = _opt(data, end)
        if end != len(data):
            raise ValueError("trailing bytes")
    except ValueError as error:
        raise _complaint(identifier, flags, Code.FORMERR, f"malformed query: {error}") from error
    query = Query(identifier, flags, name, kind, question, bool(additional), min(max(size, UDP_SIZE), EDNS_SIZE))
    if version:
        raise QueryError("unknown EDNS version", build_response(query, Code.BADVERS))
    if kind_class != CLASS_IN:
        raise QueryError(f"class {kind_class}", build_response(query, Code.REFUSED))
    return query


def _take(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ValueError("ends early")
    return data[offset : offset + size]


def _name(data: bytes, offset: int) -> tuple[str, int]:
    """Return the name at ``offset`` and where it ends; compression, which a lone question cannot need, is malformed."""
    start = offset
    labels: list[str] = []
    while length := _take(data, offset, 1)[0]:
        if length > _MAX_LABEL:
            raise ValueError("compressed or overlong label")
        labels.append(_label(_take(data, offset + 1, length)))
        offset += 1 + length
        if offset - start >= _MAX_NAME:
            raise ValueError("overlong name")
    return ".".join(labels), offset + 1


def _label(raw: bytes) -> str:
    plain = raw.lower()
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in plain)


_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


def _opt(data: bytes, offset: int) -> tuple[int, int, int]:
    """Return (payload size, EDNS version, end) of the OPT record at ``offset``. Its options are not looked at."""
    if _take(data, offset, 1) != b"\0":
        raise ValueError("the additional record is not OPT")
    kind, size, _, version, _, length = _OPT_REST.unpack(_take(data, offset + 1, _OPT_REST.size))
    if kind != Kind.OPT:
        raise ValueError("the additional record is not OPT")
    end = offset + 1 + _OPT_REST.size
    _take(data, end, length)
    return size, version, end + length


def _complaint(identifier: int, flags: int, code: Code, reason: str) -> QueryError:
    reply = _HEADER.pack(identifier, _RESPONSE | (flags & (_OPCODE | _RECURSION_DESIRED)) | code, 0, 0, 0, 0)
    return QueryError(reason, reply)


def build_response(
    query: Query,
    code: Code,
    addresses: Sequence[str] = (),
    *,
    ttl: int = 0,
    limit: int = 65_535,
    explanation: tuple[ExtendedError, str] | None = None,
) -> bytes:
    """Return the answer to ``query``: its addresses of the asked type, none for NODATA or an error.

    Args:
        query: what was asked.
        code: the response code.
        addresses: textual; every one must be of the type asked for.
        ttl: seconds the client may keep them.
        limit: most bytes the transport takes; above it the answer is empty and marked truncated.
        explanation: put into an extended error if the client speaks EDNS.
    """
    flags = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | (int(code) & 0xF)
    flags |= query.flags & (_RECURSION_DESIRED | _CHECKING_DISABLED)
    records = [_address_record(query.kind, address, ttl) for address in addresses]
    opt = _build_opt(code, explanation) if query.edns else b""
    body = b"".join(records)
    if _HEADER.size + len(query.question) + len(body) + len(opt) > limit:
        records, body, flags = [], b"", flags | _TRUNCATED
    header = _HEADER.pack(query.identifier, flags, 1, len(records), 0, 1 if opt else 0)
    return header + query.question + body + opt


def _address_record(kind: int, address: str, ttl: int) -> bytes:
    packed = ipaddress.ip_address(address).packed
    if len(packed) != (4 if kind == Kind.A else 16):
        raise ValueError(f"{address} is no answer to a question of type {kind}")
    return _UINT16.pack(_NAME_POINTER) + _RECORD.pack(kind, CLASS_IN, ttl, len(packed)) + packed


def _build_opt(code: Code, explanation: tuple[ExtendedError, str] | None) -> bytes:
    options = b""
    if explanation is not None:
        text = explanation[1].encode()[:200]
        options = _UINT16.pack(_EXTENDED_ERROR) + _UINT16.pack(2 + len(text)) + _UINT16.pack(explanation[0]) + text
    return b"\0" + _OPT_REST.pack(Kind.OPT, EDNS_SIZE, int(code) >> 4, 0, 0, len(options)) + options


def read_frame(buffer: bytes) -> tuple[bytes, int] | None:
    """Return the first message of a stream and how many bytes it took, None while incomplete (RFC 1035 §4.2.2).

    Raises:
        QueryError: longer than any query we accept.
    """
    if len(buffer) < 2:
        return None
    (length,) = _UINT16.unpack_from(buffer)
    if length > _MAX_QUERY:
        raise QueryError(f"a DNS message of {length} bytes")
    if len(buffer) < 2 + length:
        return None
    return bytes(buffer[2 : 2 + length]), 2 + length


def build_frame(message: bytes) -> bytes:
    """Return ``message`` as it goes over a stream."""
    return _UINT16.pack(len(message)) + message
