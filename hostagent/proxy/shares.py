"""The event loop's time, shared between workloads: none is served for longer than its share while others wait.

Every workload is served by the same loop. What one sends can be made to cost much (long pipelines, dense rows, hundreds of
connections at once), so whoever has used its share of a turn waits until the others have had theirs. Nobody else waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

SHARE_S: Final = 0.002
"""How long one workload is served at a stretch. One step more may begin just before: see ``session.STEP``."""


class Share:
    """One workload's part of the loop. ``spent`` is the time used since it last had to wait."""

    __slots__ = ("_shares", "spent", "waiting")

    def __init__(self, shares: Shares) -> None:
        """Start with a whole share."""
        self._shares = shares
        self.spent = 0.0
        self.waiting: deque[Callable[[], None]] = deque()

    @property
    def used_up(self) -> bool:
        """Whether others come first."""
        return self.spent >= SHARE_S

    def wait(self, go_on: Callable[[], None]) -> None:
        """Have ``go_on`` called, which must not raise, when it is this workload's turn again."""
        self.waiting.append(go_on)
        self._shares.schedule()


class Shares:
    """All shares of one loop. ``longest`` is the longest stretch, in seconds, that one workload was served (for status)."""

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        """``soon`` has the loop call something after it looked for what is ready."""
        self._soon = soon
        self._shares: dict[str, Share] = {}
        self._scheduled = False
        self.longest = 0.0

    def of(self, workload: str) -> Share:
        """Return the share that all sessions of ``workload`` have together."""
        found = self._shares.get(workload)
        if found is None:
            found = self._shares[workload] = Share(self)
        return found

    def schedule(self) -> None:
        """Look after those that wait, as soon as the loop has heard everybody else."""
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """Give every workload a new share and let those that wait use it."""
        self._scheduled = False
        again = False
        for share in list(self._shares.values()):
            self.longest = max(self.longest, share.spent)
            share.spent = 0.0
            for _ in range(len(share.waiting)):
                if share.used_up:
                    break
                share.waiting.popleft()()
            again = again or bool(share.waiting)
        if again:
            self.schedule()
