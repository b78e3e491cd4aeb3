"""The first bytes of a client: whether TLS begins, and whether for a name that is the target's (RFC 6066 §3, RFC 7301)."""

from __future__ import annotations

from typing import Final

from hostagent.model.target import Target
from hostagent.wire.tls_hello import ClientHello

ALPN: Final = "http/1.1"

_UNRECOGNIZED_NAME: Final = 112
_NO_APPLICATION_PROTOCOL: Final = 120


def alert(number: int) -> bytes:
    """Return a fatal TLS alert (RFC 8446 §6.2)."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes([number])


def objection(hello: ClientHello, target: Target) -> tuple[str, int]:
    """Return why TLS must not begin and the alert that says so, or nothing and 0."""
    if not hello.server_name:
        return "a TLS client that does not say which name it wants (SNI) cannot be governed", _UNRECOGNIZED_NAME
    if hello.server_name not in target.hosts:
        return f"the name {hello.server_name} is not one of target {target.name}", _UNRECOGNIZED_NAME
    if hello.alpn and ALPN not in hello.alpn:
        offered = ", ".join(hello.alpn)
        return f"only {ALPN} is spoken here, and the client offers only {offered}", _NO_APPLICATION_PROTOCOL
    return "", 0
