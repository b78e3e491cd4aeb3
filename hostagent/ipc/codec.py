"""Packets: ``[number, id, body]`` in MessagePack, one per datagram. Bytes in, typed messages out."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from hostagent.ipc import messages
from hostagent.ipc.messages import Body
from hostagent.model.errors import LocalWireError, RemoteWireError

MAXIMUM_PACKET = 180_000
"""Bytes. Fits an unprivileged peer's default send buffer, so a packet is never refused half way."""

MAXIMUM_UNIX_SOCKETS = 64
"""Of all targets together: every leaf gets a listener for each."""

MAXIMUM_INBOUND = 16
"""Ports of one workload into which connections are let."""

MAXIMUM_DESCRIPTORS = 6 + MAXIMUM_UNIX_SOCKETS + MAXIMUM_INBOUND
"""With one packet; the kernel's own limit is 253 (SCM_MAX_FD)."""

NUMBERS: dict[int, type[Body]] = {
    0: messages.Failed,
    2: messages.Launch,
    3: messages.Launched,
    4: messages.Signal,
    5: messages.Signalled,
    6: messages.Status,
    7: messages.StatusReport,
    8: messages.Kill,
    9: messages.Killed,
    10: messages.Uninstall,
    11: messages.Uninstalled,
    12: messages.Reload,
    13: messages.Reloaded,
    14: messages.Quarantine,
    15: messages.Quarantined,
    16: messages.Release,
    17: messages.Released,
    18: messages.Verify,
    19: messages.Verified,
    20: messages.Attach,
    21: messages.Attached,
    22: messages.Admit,
    23: messages.Admitted,
    24: messages.Listen,
    25: messages.Listening,
    26: messages.Retire,
    27: messages.Retired,
    28: messages.Renew,
    29: messages.Renewed,
    30: messages.Draw,
    31: messages.Drawn,
    32: messages.Leave,
    33: messages.Exited,
}
_BY_TYPE = {body: number for number, body in NUMBERS.items()}
_ENCODER = msgspec.msgpack.Encoder()
_ENVELOPE = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
_BODIES = {number: msgspec.msgpack.Decoder(body) for number, body in NUMBERS.items()}


class Packet(NamedTuple):
    """One message. ``id`` is chosen by whoever asks and comes back with the answer."""

    id: int
    body: Body


def encode(packet_id: int, body: Body) -> bytes:
    """Return the packet.

    Raises:
        LocalWireError: larger than ``MAXIMUM_PACKET``.
    """
    data = _ENCODER.encode((_BY_TYPE[type(body)], packet_id, body))
    if len(data) > MAXIMUM_PACKET:
        raise LocalWireError(f"{type(body).__name__} of {len(data)} bytes is over the limit of {MAXIMUM_PACKET}")
    return data


def decode(data: bytes) -> Packet:
    """Return the message in one packet.

    Raises:
        RemoteWireError: not MessagePack, an unknown number, or a body of the wrong shape. Fatal for the connection.
    """
    if len(data) > MAXIMUM_PACKET:
        raise RemoteWireError(f"packet of {len(data)} bytes is over the limit of {MAXIMUM_PACKET}")
    try:
        number, packet_id, raw = _ENVELOPE.decode(data)
        if number not in _BODIES:
            raise RemoteWireError(f"unknown message number {number}")
        return Packet(packet_id, _BODIES[number].decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteWireError(f"malformed packet: {error}") from error
