"""The request socket's connections: who is at the other end by the kernel's word, and packets in and out."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from hostagent.ipc import MAXIMUM_PACKET, Body, Packet, Role, State, Table, decode, encode
from hostagent.model.errors import RemoteWireError

_CREDENTIALS = struct.Struct("=iii")
_CONNECTIONS_PER_USER = 16
_IDLE_S = 30.0
_REQUESTS_AT_ONCE = 40.0
_REQUESTS_PER_S = 5.0


class Peer:
    """One connection."""

    def __init__(self, connection: socket.socket, proxy_uid: int) -> None:
        """Ask the kernel who connected."""
        connection.setblocking(False)
        self.connection = connection
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, _ = _CREDENTIALS.unpack(raw)
        self.table = Table(_role(self.uid, proxy_uid))
        self.worker = ""

    @property
    def name(self) -> str:
        """The unix user name at the other end, or its uid as text where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def idle(self) -> bool:
        """Whether no workload and no proxy stands behind it."""
        return self.table.state in (State.FRESH, State.ENDED)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self.connection.fileno()

    def receive(self) -> Packet | None:
        """Return the next packet, None at the end of the connection.

        Raises:
            RemoteWireError: not a packet, or not permitted. Fatal.
            BlockingIOError: nothing there.
        """
        data, _, flags, _ = self.connection.recvmsg(MAXIMUM_PACKET + 1)
        if not data:
            return None
        if flags & socket.MSG_TRUNC:
            raise RemoteWireError("packet over the limit")
        packet = decode(data)
        self.table.permit(packet.id, packet.body)
        return packet

    def send(self, packet_id: int, body: Body, descriptors: Sequence[int] = ()) -> bool:
        """Send a packet; return whether the peer took it. One that is gone or does not read gets no second chance."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.connection, [encode(packet_id, body)], descriptors)
            return True
        return False

    def ask(self, packet_id: int, body: Body, answer: type[Body], descriptors: Sequence[int] = ()) -> bool:
        """Send a request that ``answer`` answers; return whether the peer took it."""
        self.table.asked(packet_id, answer)
        return self.send(packet_id, body, descriptors)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class Door:
    """Bounds what one user can take of enforcerd without a workload running: connections, and requests per second.

    Root and the proxy are not counted.
    """

    def __init__(self) -> None:
        """Nobody is there."""
        self._since: dict[Peer, float] = {}
        self._budgets: dict[int, tuple[float, float]] = {}

    def enter(self, peer: Peer, now: float) -> bool:
        """Return whether ``peer`` may come in, and remember it until ``leave``."""
        same = [each for each in self._since if each.uid == peer.uid and each.idle]
        if peer.table.role is Role.USER and len(same) >= _CONNECTIONS_PER_USER:
            return False
        self._since[peer] = now
        return True

    def leave(self, peer: Peer) -> None:
        """Forget ``peer``."""
        self._since.pop(peer, None)

    def overdue(self, now: float) -> list[Peer]:
        """Return those that have kept a connection for longer than a request takes, without a workload."""
        idle = [each for each in self._since if each.table.role is Role.USER and each.idle]
        return [each for each in idle if now - self._since[each] > _IDLE_S]

    def allows(self, peer: Peer, now: float) -> bool:
        """Return whether ``peer`` may ask something now; a workload's own launcher may always."""
        if peer.table.role is not Role.USER or not peer.idle:
            return True
        tokens, at = self._budgets.get(peer.uid, (_REQUESTS_AT_ONCE, now))
        tokens = min(_REQUESTS_AT_ONCE, tokens + (now - at) * _REQUESTS_PER_S)
        allowed = tokens >= 1
        self._budgets[peer.uid] = (tokens - 1 if allowed else tokens, now)
        return allowed


def _role(uid: int, proxy_uid: int) -> Role:
    if uid == 0:
        return Role.ROOT
    return Role.PROXY if uid == proxy_uid else Role.USER


def listen(path: str) -> socket.socket:
    """Return the listening request socket at ``path``, replacing a stale one. Anybody may connect; the table decides."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    umask = os.umask(0o111)
    try:
        made.bind(path)
    finally:
        os.umask(umask)
    made.listen(64)
    return made
