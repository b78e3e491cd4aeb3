"""The ClientHello of TLS, read without answering it (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301, RFC 9849).

Layout::

    record     Byte type 0x16 · Int16 version · Int16 length (1 .. 2^14) · fragment           one or several
    handshake  Byte type 1 · Int24 length · body                                              over the fragments
    body       Int16 version · 32 random · session id <0..32> · ciphers <2..2^16-2> · compressions <1..255> · extensions <0..2^16-1>
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hostagent.model.errors import RemoteWireError

RECORD_HANDSHAKE: Final = 0x16
MAX_HELLO: Final = 65_536
"""Longest ClientHello accepted; with post-quantum key shares they reach a few thousand bytes."""

_RECORD_HEADER = 5
_MAX_FRAGMENT = 1 << 14
_HANDSHAKE_HEADER = 4
_CLIENT_HELLO = 1
_MAX_RECORDS = 64
_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_ECH = 0xFE0D


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for. ``server_name`` lower-cased, empty if it sent none (or an address).

    ``versions`` as numbers (0x0304 is TLS 1.3). ``has_ech``: an encrypted ClientHello is inside, so ``server_name`` may be a
    front.
    """

    server_name: str
    alpn: tuple[str, ...]
    versions: tuple[int, ...]
    has_ech: bool


class _Reader:
    """Reads length-prefixed vectors; any shortfall is a malformed message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def more(self) -> bool:
        return self._offset < len(self._data)

    def take(self, size: int) -> bytes:
        stop = self._offset + size
        if stop > len(self._data):
            raise RemoteWireError("malformed ClientHello: a field ends beyond its message")
        found = self._data[self._offset : stop]
        self._offset = stop
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Reader:
        """Return a reader of the vector whose length has ``size`` bytes."""
        return _Reader(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._offset)

    def finish(self) -> None:
        if self.more:
            raise RemoteWireError("malformed ClientHello: trailing bytes")


def read_client_hello(buffer: bytes) -> ClientHello | None:
    """Return the ClientHello that ``buffer`` starts with, or None while it is incomplete.

    Raises:
        RemoteWireError: not a ClientHello, malformed, or longer than ``MAX_HELLO``.
    """
    message = _handshake_message(buffer)
    if message is None:
        return None
    body = _Reader(message)
    legacy_version = body.number(2)
    body.take(32)
    if len(body.vector(1).rest()) > 32:
        raise RemoteWireError("malformed ClientHello: session id")
    ciphers = body.vector(2).rest()
    if len(ciphers) < 2 or len(ciphers) % 2:
        raise RemoteWireError("malformed ClientHello: cipher suites")
    if not body.vector(1).more:
        raise RemoteWireError("malformed ClientHello: compression methods")
    extensions = _extensions(body.vector(2)) if body.more else {}
    body.finish()
    versions = _versions(extensions[_SUPPORTED_VERSIONS]) if _SUPPORTED_VERSIONS in extensions else (legacy_version,)
    return ClientHello(
        server_name=_server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else "",
        alpn=_alpn(extensions[_ALPN]) if _ALPN in extensions else (),
        versions=versions,
        has_ech=_ECH in extensions,
    )


def _handshake_message(buffer: bytes) -> bytes | None:
    """Return the first handshake message's body, put together from records; None while incomplete."""
    collected = bytearray()
    offset = 0
    for _ in range(_MAX_RECORDS):
        if len(buffer) > offset and buffer[offset] != RECORD_HANDSHAKE:
            raise RemoteWireError("not a TLS handshake record")
        if len(buffer) < offset + _RECORD_HEADER:
            return None
        if buffer[offset + 1] != 3:
            raise RemoteWireError("not a TLS record")
        length = int.from_bytes(buffer[offset + 3 : offset + 5], "big")
        if not 0 < length <= _MAX_FRAGMENT:
            raise RemoteWireError(f"TLS record of impossible length {length}")
        offset += _RECORD_HEADER
        collected += buffer[offset : offset + length]
        offset += length
        found = _complete(collected)
        if found is not None:
            return found
        if len(buffer) < offset:
            return None
    raise RemoteWireError("ClientHello in too many records")


def _complete(collected: bytearray) -> bytes | None:
    if collected and collected[0] != _CLIENT_HELLO:
        raise RemoteWireError("the first TLS message is not a ClientHello")
    if len(collected) < _HANDSHAKE_HEADER:
        return None
    length = int.from_bytes(collected[1:4], "big")
    if length > MAX_HELLO:
        raise RemoteWireError(f"ClientHello of {length} bytes is longer than {MAX_HELLO}")
    if len(collected) < _HANDSHAKE_HEADER + length:
        return None
    if len(collected) > _HANDSHAKE_HEADER + length:
        raise RemoteWireError("malformed ClientHello: something follows it in its record")
    return bytes(collected[_HANDSHAKE_HEADER:])


def _extensions(reader: _Reader) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while reader.more:
        kind = reader.number(2)
        if kind in found:
            raise RemoteWireError("malformed ClientHello: an extension occurs twice")
        found[kind] = reader.vector(2).rest()
    return found


def _server_name(data: bytes) -> str:
    outer = _Reader(data)
    names = outer.vector(2)
    outer.finish()
    found = ""
    while names.more:
        kind = names.number(1)
        raw = names.vector(2).rest()
        if kind != 0:
            continue
        if found:
            raise RemoteWireError("malformed ClientHello: two server names")
        found = _host_name(raw)
    return found


def _host_name(raw: bytes) -> str:
    if not 0 < len(raw) <= 255 or not all(0x21 <= byte < 0x7F for byte in raw):
        raise RemoteWireError("malformed ClientHello: server name")
    return raw.decode("ascii").lower().rstrip(".")


def _alpn(data: bytes) -> tuple[str, ...]:
    outer = _Reader(data)
    names = outer.vector(2)
    outer.finish()
    found: list[str] = []
    while names.more:
        name = names.vector(1).rest()
        if not name:
            raise RemoteWireError("malformed ClientHello: empty protocol name")
        found.append(name.decode("latin-1"))
    return tuple(found)


def _versions(data: bytes) -> tuple[int, ...]:
    outer = _Reader(data)
    versions = outer.vector(1)
    outer.finish()
    found: list[int] = []
    while versions.more:
        found.append(versions.number(2))
    return tuple(found)
