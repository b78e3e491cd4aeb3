"""The attached proxy: what it was asked about which leaf, and whether it is there at all."""

from __future__ import annotations

from hostagent.enforcer import doors
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.peers import Peer
from hostagent.ipc import Admit, Admitted, Listen, Listening, Retire, Retired
from hostagent.model.errors import HostagentError

QUEUE_S = 60.0
"""How long who dials between two proxies waits at most, when the first one said that it would go; then dials are refused."""


class ProxyLink:
    """Asks the proxy and remembers what an answer is about. ``peer`` is None while there is none; ``attachments`` counts arrivals."""

    def __init__(self) -> None:
        """No proxy yet."""
        self.peer: Peer | None = None
        self.attachments = 0
        self._asked: dict[int, tuple[Governed, bool]] = {}
        self._next_id = 100
        self._leaving = False
        self._shut_at = 0.0

    def attached(self, peer: Peer) -> None:
        """A proxy is there."""
        self.peer = peer
        self.attachments += 1
        self._leaving = False
        self._shut_at = 0.0

    def expected(self, now: float) -> None:
        """We are new here, and listeners are open: a proxy is to come as after one that said that it would go."""
        self._leaving = True
        self.detached(now)

    def leaving(self) -> None:
        """It has said that it is about to go, and that another will follow."""
        self._leaving = True

    def detached(self, now: float) -> bool:
        """It is gone; what it was asked will not be answered. Return whether dials may wait for another (see ``waited``)."""
        self.peer = None
        self._asked.clear()
        self._shut_at = now + QUEUE_S if self._leaving else 0.0
        return self._leaving

    def waited(self, now: float) -> bool:
        """Return, once, that dials have waited for another proxy for as long as they may."""
        if not self._shut_at or now < self._shut_at:
            return False
        self._shut_at = 0.0
        return True

    def admit(self, governed: Governed, *, again: bool) -> None:
        """Ask whether the leaf's workload may run (``again``: a new proxy is asked about one that runs).

        Raises:
            HostagentError: it cannot be asked.
        """
        body = Admit(governed.workload.name, governed.launcher, governed.leaf.name, again)
        self._ask(governed, body, Admitted, [], again=again)

    def hand_over(self, governed: Governed, *, again: bool) -> None:
        """Give it the leaf's listeners.

        Raises:
            HostagentError: it cannot be asked.
        """
        assert governed.listeners is not None
        self._ask(governed, doors.announce(governed, governed.listeners), Listening, governed.listeners.descriptors, again=again)

    def retire(self, leaf: str) -> None:
        """Tell it, if there is one, that a leaf has ended."""
        if self.peer is not None:
            self._next_id += 1
            self.peer.ask(self._next_id, Retire(leaf), Retired)

    def subject(self, packet_id: int) -> tuple[Governed | None, bool]:
        """Return which leaf an answer is about, None for nobody's, and whether it was asked ``again``."""
        return self._asked.pop(packet_id, (None, False))

    def _ask(
        self, governed: Governed, body: Admit | Listen, answer: type[Admitted | Listening], fds: list[int], *, again: bool
    ) -> None:
        if self.peer is None:
            raise HostagentError("the proxy is not running")
        self._next_id += 1
        self._asked[self._next_id] = (governed, again)
        if not self.peer.ask(self._next_id, body, answer, fds):
            raise HostagentError("the proxy does not take requests")
