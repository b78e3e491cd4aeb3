"""Heads of HTTP/2 in the form of HTTP/1.1's (RFC 9113 §8.2, §8.3), and back.

As strict as ``hostagent.wire.http1.head``, and besides: pseudo fields first, each once, none unknown; nothing about a connection; ``host``
only if it says what ``:authority`` says. So nothing in a head of HTTP/2 can be a line end, another field or another framing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.head import MAX_TARGET, Fields, RequestHead, ResponseHead, parse_fields

Block = list[tuple[bytes, bytes]]
"""A header block once it is decompressed."""

_METHOD = re.compile(rb"[A-Z][A-Z0-9-]{0,31}")
_PATH = re.compile(rb"/[\x21-\x7e]*|\*")
_AUTHORITY = re.compile(rb"[\x21-\x7e]{1,512}")
_STATUS = re.compile(rb"[1-5][0-9]{2}")
_CONNECTION: Final = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings"})
_ASKED: Final = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})


def _taken_apart(block: Iterable[tuple[bytes, bytes]], known: frozenset[bytes]) -> tuple[dict[bytes, bytes], Fields]:
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    for name, value in block:
        if name.startswith(b":"):
            if lines or name in pseudo or name not in known:
                raise RemoteWireError("an HTTP/2 pseudo field that is unknown, given twice or out of order", "400")
            pseudo[name] = value
        elif name != name.lower() or name in _CONNECTION or (name == b"te" and value != b"trailers"):
            raise RemoteWireError(f"the field {name.decode('latin-1')!r} may not stand in a head of HTTP/2", "400")
        else:
            lines.append(name + b": " + value)
        if b"\r" in name + value or b"\n" in name + value:
            raise RemoteWireError("a line end in a field of HTTP/2", "400")
    return pseudo, parse_fields(lines)


def request_head(block: Iterable[tuple[bytes, bytes]], scheme: str) -> RequestHead:
    """Return the request that ``block`` begins.

    Raises:
        RemoteWireError: malformed (400), too long (414, 431), a way of asking that nobody needs (501).
    """
    pseudo, fields = _taken_apart(block, _ASKED)
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method):
        raise RemoteWireError("malformed method", "400")
    if method == b"CONNECT":
        path = path or b"/"
    elif b":protocol" in pseudo or pseudo.get(b":scheme") != scheme.encode():
        raise RemoteWireError(f"the scheme of the request is not {scheme}", "400")
    if not _PATH.fullmatch(path):
        raise RemoteWireError("malformed path", "400")
    if len(path) > MAX_TARGET:
        raise RemoteWireError(f"the path is longer than {MAX_TARGET} bytes", "414")
    return RequestHead(method.decode(), path.decode(), 1, (("Host", _host(pseudo, fields)), *(each for each in fields if each[0] != "host")))


def _host(pseudo: dict[bytes, bytes], fields: Fields) -> str:
    named = [value for name, value in fields if name == "host"]
    if b":authority" in pseudo:
        named.append(pseudo[b":authority"].decode("latin-1"))
    if len(set(named)) != 1 or len(named) > 2 or not _AUTHORITY.fullmatch(named[0].encode("latin-1")):
        raise RemoteWireError("a request needs one authority, and host must say the same", "400")
    return named[0]


def response_head(block: Iterable[tuple[bytes, bytes]]) -> ResponseHead:
    """Return the response that ``block`` begins.

    Raises:
        RemoteWireError: malformed.
    """
    pseudo, fields = _taken_apart(block, frozenset({b":status"}))
    status = pseudo.get(b":status", b"")
    if not _STATUS.fullmatch(status):
        raise RemoteWireError("malformed status", "502")
    return ResponseHead(int(status), "", 1, fields)


def trailer(block: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Return the fields that came after a body.

    Raises:
        RemoteWireError: malformed.
    """
    return _taken_apart(block, frozenset())[1]


def request_block(method: str, scheme: str, authority: str, path: str, fields: Sequence[tuple[str, str]]) -> Block:
    """Return the block of a request."""
    asked = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
    return [*((name, value.encode("latin-1")) for name, value in asked), *block(fields)]


def response_block(status: int, fields: Sequence[tuple[str, str]]) -> Block:
    """Return the block of a response."""
    return [(b":status", str(status).encode()), *block(fields)]


def block(fields: Sequence[tuple[str, str]]) -> Block:
    """Return ``fields`` as a block has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
