"""Which protocol the first bytes of a connection look like. A guess for a record and a clear message, never for a verdict."""

from __future__ import annotations

import enum
from typing import Final

_METHODS: Final = (
    b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ", b"PRI * HTTP/2.0",
)  # fmt: skip
_SSH: Final = b"SSH-"
_POSTGRES_CODES: Final = (80877102, 80877103, 80877104)
_ENOUGH: Final = 16


class Sniffed(enum.StrEnum):
    """What the bytes look like. ``INCOMPLETE``: more of them could still tell."""

    TLS = "tls"
    POSTGRES = "postgres"
    HTTP = "http"
    SSH = "ssh"
    UNKNOWN = "unknown"
    INCOMPLETE = "incomplete"


def sniff(data: bytes) -> Sniffed:
    """Return what ``data``, the first bytes a client sent, look like; decided after 16 bytes at the latest."""
    if data[:1] == b"\x16":
        return _prefix(data[1:2], (b"\x03",), Sniffed.TLS)
    if data[:1] == b"\0":
        return _postgres(data)
    if data.startswith(_SSH):
        return Sniffed.SSH
    if any(data.startswith(method) for method in _METHODS):
        return Sniffed.HTTP
    undecided = any(word.startswith(data) for word in (_SSH, *_METHODS))
    return Sniffed.INCOMPLETE if undecided and len(data) < _ENOUGH else Sniffed.UNKNOWN


def _prefix(data: bytes, wanted: tuple[bytes, ...], found: Sniffed) -> Sniffed:
    if not data:
        return Sniffed.INCOMPLETE
    return found if data in wanted else Sniffed.UNKNOWN


def _postgres(data: bytes) -> Sniffed:
    """A start-up packet: a length below 64 KiB, then protocol 3.x or a request code."""
    if data[1:2] not in (b"", b"\0"):
        return Sniffed.UNKNOWN
    if len(data) < 8:
        return Sniffed.INCOMPLETE
    code = int.from_bytes(data[4:8], "big")
    return Sniffed.POSTGRES if code >> 16 == 3 or code in _POSTGRES_CODES else Sniffed.UNKNOWN
