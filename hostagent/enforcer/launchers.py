"""Who launched what: the connection that each leaf's beginning and end is told to."""

from __future__ import annotations

from hostagent.enforcer.governed import Governed
from hostagent.enforcer.peers import Peer
from hostagent.enforcer.status import weaker_points
from hostagent.ipc import Exited, Failed, Launched, State

REFUSED_CODE = 77
"""The command line's exit status for a launch that is not permitted (EX_NOPERM)."""


class Launchers:
    """The launchers' connections, by leaf. A leaf of ours, or one whose launcher went away, has none."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self._asked: dict[str, tuple[Peer, int]] = {}

    def begin(self, governed: Governed, peer: Peer, packet_id: int) -> None:
        """``peer`` asked for this leaf by its request ``packet_id``."""
        self._asked[governed.leaf.name] = (peer, packet_id)
        peer.table.state = State.LAUNCHING

    def returned(self, leaf: str, peer: Peer, packet_id: int) -> None:
        """``peer`` launched this leaf, which runs, by its request ``packet_id`` to an earlier enforcerd."""
        self._asked[leaf] = (peer, packet_id)

    def asked(self, leaf: str) -> tuple[Peer, int] | None:
        """Return who launched it, and by which request; None: nobody who is there still."""
        return self._asked.get(leaf)

    def leaves_of(self, peer: Peer) -> list[str]:
        """Return the names of the leaves that ``peer`` launched."""
        return [name for name, (launcher, _) in self._asked.items() if launcher is peer]

    def forget(self, leaf: str) -> None:
        """Its launcher went away."""
        self._asked.pop(leaf, None)

    def started(self, governed: Governed, descriptors: list[int]) -> bool:
        """Give its launcher the program's standard descriptors; return whether there is one."""
        peer, packet_id = self._asked.get(governed.leaf.name, (None, 0))
        if peer is None:
            return False
        peer.table.state = State.RUNNING
        peer.send(packet_id, Launched(governed.leaf.name, governed.main_pid, weaker_points(governed)), descriptors)
        return True

    def ended(self, governed: Governed, status: int) -> None:
        """Tell its launcher how a program that ran has ended."""
        self._last(governed, Exited(governed.leaf.name, status, governed.reason))

    def refused(self, governed: Governed, reason: str, code: int = REFUSED_CODE) -> None:
        """Tell its launcher why nothing was started."""
        self._last(governed, Failed(reason, code))

    def _last(self, governed: Governed, body: Exited | Failed) -> None:
        peer, packet_id = self._asked.pop(governed.leaf.name, (None, 0))
        if peer is not None:
            peer.table.state = State.ENDED
            peer.send(packet_id, body)
