"""The first bytes of a client: whether TLS begins, and whether for a name that is the target's (RFC 6066 §3, RFC 7301)."""

from __future__ import annotations

from typing import Final

from hostagent.model.target import Target
from hostagent.wire.tls_hello import ClientHello

ALPN: Final = "http/1.1"
ALPN_2: Final = "h2"

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
    if hello.alpn and chosen(hello, target) not in hello.alpn:
        offered = ", ".join(hello.alpn)
        reason = f"only {ALPN} is spoken here, and the client offers only {offered}"
        if ALPN_2 in hello.alpn:
            reason += f" (target {target.name} does not say http2: true)"
        return reason, _NO_APPLICATION_PROTOCOL
    return "", 0


def chosen(hello: ClientHello, target: Target) -> str:
    """Return the version of HTTP to speak with this client: the higher one if the target speaks it too."""
    return ALPN_2 if target.http2 and ALPN_2 in hello.alpn else ALPN
