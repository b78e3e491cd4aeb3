"""Ends a leaf from outside in good order: nothing in it moves any more, the proxy cuts its sessions, and then it is killed.

In this order because a server that only computes does not notice that its client is gone: the proxy has it stop, and that it
can do only while it still has the session, which the end of the client would take away.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from hostagent.enforcer.governed import Governed, Stage
from hostagent.enforcer.peers import Peer
from hostagent.ipc import Retire, Retired

_PATIENCE_S = 0.3
_FIRST_ID = 1 << 30
"""Beyond every other request's number."""


class Cutting:
    """Leaves that are being cut. Call ``tick`` every half second: a proxy that does not answer delays no end for longer."""

    def __init__(self, proxy: Callable[[], Peer | None], end: Callable[[Governed, str], None]) -> None:
        """``proxy`` is the attached proxy; ``end`` ends a leaf and gives the reason to its launcher."""
        self._proxy = proxy
        self._end = end
        self._ids = itertools.count(_FIRST_ID)
        self._asked: dict[int, tuple[Governed, float]] = {}

    def cut(self, governed: Governed, reason: str) -> None:
        """Stop a leaf at once and end it when the proxy has cut its sessions, or without a proxy at once."""
        proxy = self._proxy()
        if governed.stage is not Stage.RUNNING or proxy is None:
            self._end(governed, reason)
            return
        governed.reason = governed.reason or reason
        governed.leaf.freeze()
        number = next(self._ids)
        self._asked[number] = (governed, time.monotonic() + _PATIENCE_S)
        if not proxy.ask(number, Retire(governed.leaf.name), Retired):
            self.answered(number)

    def answered(self, packet_id: int) -> bool:
        """Kill the leaf whose sessions the proxy has cut; return whether ``packet_id`` was about one."""
        governed, _ = self._asked.pop(packet_id, (None, 0.0))
        if governed is None:
            return packet_id >= _FIRST_ID
        if governed.stage is Stage.RUNNING:
            self._end(governed, governed.reason)
        return True

    def tick(self, now: float) -> None:
        """Kill what the proxy took too long for (``now``: monotonic seconds)."""
        for number, (_, until) in list(self._asked.items()):
            if now >= until or self._proxy() is None:
                self.answered(number)
