"""The opening of a WebSocket (RFC 6455 §4): what a client must ask, what goes to the target instead, and what both are answered.

The two connections are opened apart, each with a key of its own; extensions (compression) are offered to nobody.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from hostagent.inspectors.http.fields import Listed
from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.head import RequestHead, ResponseHead, tokens

VERB: Final = "WEBSOCKET"
"""What policy calls a WebSocket, in place of its opening's GET."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OPENING: Final = frozenset({"sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-accept"})


def asks(head: RequestHead) -> bool:
    """Return whether ``head`` asks for a WebSocket."""
    return head.method == "GET" and tokens(head.values("upgrade")) == ["websocket"]


def objection(head: RequestHead) -> str:
    """Return why what ``head`` asks for is no WebSocket that can be opened here, empty if it is."""
    keys = head.values("sec-websocket-key")
    try:
        whole = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        whole = False
    framed = head.values("transfer-encoding") or head.values("content-length") not in ([], ["0"])
    if not whole or head.values("sec-websocket-version") != ["13"] or "upgrade" not in tokens(head.values("connection")):
        return "a WebSocket is opened with Connection: Upgrade, one Sec-WebSocket-Key and version 13"
    return "the opening of a WebSocket has a body" if framed or not head.minor else ""


def opening(own: Listed, key: str) -> Listed:
    """Return the fields of the opening towards the target, given the workload's own."""
    kept = [each for each in own if each[0].lower() not in _OPENING]
    return [*kept, ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]


def accept(key: str) -> str:
    """Return the answer to ``key`` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID).digest()).decode()


def opened(asked: RequestHead, head: ResponseHead, key: str) -> Listed:
    """Return the fields of the answer to the client, given the target's ``head``, which must be that of a WebSocket with ``key``.

    Raises:
        RemoteWireError: it is another protocol, or nobody's WebSocket (502).
    """
    said = head.values("sec-websocket-protocol")
    offered = [word.strip() for value in asked.values("sec-websocket-protocol") for word in value.split(",")]
    if tokens(head.values("upgrade")) != ["websocket"] or head.values("sec-websocket-accept") != [accept(key)]:
        raise RemoteWireError("the target wants to change the protocol to something that was not asked for", "502")
    if head.values("sec-websocket-extensions") or len(said) > 1 or not set(said).issubset(offered):
        raise RemoteWireError("the target opens the WebSocket with what nobody offered", "502")
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", accept(asked.values("sec-websocket-key")[0]))]
    return [*fields, *(("Sec-WebSocket-Protocol", each) for each in said)]
