"""The enforcer's request table as a pure codec: who may ask enforcerd for what, and what the packets look like.

One packet of a ``SOCK_SEQPACKET`` unix socket is one message: a MessagePack array ``[number, id, body]``. Requests have even
numbers, their answers the odd number after (OpenSSH's monitor protocol). Descriptors travel beside a packet (``SCM_RIGHTS``)
and are named in the message's own docstring. Nothing here opens a socket; anything that opens, binds or launches belongs to
``hostagent.enforcer`` (enforcerd's end), ``hostagent.cli`` and ``hostagent.proxy`` (the other ends).

How a peer uses it: ``send(encode(id, body))``; on reading a packet, ``decode(packet)``; anything that raises
``RemoteWireError`` means the connection is to be closed.
"""

from __future__ import annotations

from hostagent.ipc.codec import MAXIMUM_DESCRIPTORS, MAXIMUM_PACKET, Packet, decode, encode
from hostagent.ipc.messages import (
    Admit,
    Admitted,
    Attach,
    Attached,
    Body,
    Draw,
    Drawn,
    Exited,
    Failed,
    Kill,
    Killed,
    Launch,
    Launched,
    Leave,
    Listen,
    Listening,
    Quarantine,
    Quarantined,
    Release,
    Released,
    Reload,
    Reloaded,
    Renew,
    Renewed,
    Retire,
    Retired,
    Signal,
    Signalled,
    Status,
    StatusReport,
    Uninstall,
    Uninstalled,
    Verified,
    Verify,
)
from hostagent.ipc.table import Role, State, Table

__all__ = [
    "MAXIMUM_DESCRIPTORS",
    "MAXIMUM_PACKET",
    "Admit",
    "Admitted",
    "Attach",
    "Attached",
    "Body",
    "Draw",
    "Drawn",
    "Exited",
    "Failed",
    "Kill",
    "Killed",
    "Launch",
    "Launched",
    "Leave",
    "Listen",
    "Listening",
    "Packet",
    "Quarantine",
    "Quarantined",
    "Release",
    "Released",
    "Reload",
    "Reloaded",
    "Renew",
    "Renewed",
    "Retire",
    "Retired",
    "Role",
    "Signal",
    "Signalled",
    "State",
    "Status",
    "StatusReport",
    "Table",
    "Uninstall",
    "Uninstalled",
    "Verified",
    "Verify",
    "decode",
    "encode",
]
