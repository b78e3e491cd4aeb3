"""What workloads make this process keep, counted, and who has to go when it is too much.

Every session says now and then about how much it keeps: unfinished messages, prepared statements, unanswered requests, what could
not be sent yet. A workload has a budget for all its sessions together; the session that goes over it ends. All workloads together
have a limit too; then the largest session of the workload that keeps the most ends, whoever it was that asked for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

MIB = 1 << 20


class Keeper(Protocol):
    """A session, as far as what it keeps goes."""

    def cut(self, reason: str) -> None:
        """End it now; ends in ``Memory.forget``."""


class Memory:
    """Counts. ``total`` is in bytes, about right: what Python adds to each object is estimated, not measured."""

    def __init__(self, limits: Callable[[], tuple[int, int]], refused: Callable[[Keeper, str], None]) -> None:
        """``limits`` gives the budget of a workload and that of all, in MiB; ``refused`` hears of a session about to be ended."""
        self._limits = limits
        self._refused = refused
        self._kept: dict[str, dict[Keeper, int]] = {}
        self._sums: dict[str, int] = {}
        self.total = 0

    def note(self, workload: str, session: Keeper, size: int) -> None:
        """``session`` keeps ``size`` bytes now. Ends whoever must go."""
        kept = self._kept.setdefault(workload, {})
        change = size - kept.get(session, 0)
        kept[session] = size
        self._sums[workload] = self._sums.get(workload, 0) + change
        self.total += change
        each, everybody = self._limits()
        if self._sums[workload] > each * MIB:
            self._end(workload, session, f"the memory budget of workload {workload} ({each} MiB) is used up")
        elif self.total > everybody * MIB:
            largest = max(self._sums, key=lambda name: self._sums[name])
            victim = max(self._kept[largest], key=lambda one: self._kept[largest][one])
            self._end(largest, victim, f"the proxy's memory ({everybody} MiB) is used up, and workload {largest} uses the most of it")

    def full(self, workload: str) -> bool:
        """Return whether nothing new may begin: nearly all of the workload's budget is used."""
        return self._sums.get(workload, 0) > self._limits()[0] * MIB * 15 // 16

    def forget(self, workload: str, session: Keeper) -> None:
        """The session is over."""
        kept = self._kept.get(workload)
        if kept is None or session not in kept:
            return
        size = kept.pop(session)
        self._sums[workload] -= size
        self.total -= size
        if not kept:
            del self._kept[workload], self._sums[workload]

    def _end(self, workload: str, session: Keeper, reason: str) -> None:
        self._refused(session, reason)
        session.cut(reason)
        self.forget(workload, session)
