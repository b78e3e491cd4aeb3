"""Refused connections of a workload that dials without end: each a row up to a rate, beyond it counted per destination.

A workload must not be able to fill the disk with its own refusals; that would stop everybody else's work too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint

_ROWS_PER_WINDOW = 100
_WINDOW_S = 1.0
_MAXIMUM_KEYS = 64


class Flood:
    """Counts one leaf's refused connections."""

    def __init__(self, leaf: str, workload: str, append: Callable[[Sequence[Event]], object]) -> None:
        """``append`` writes events; what it raises at the end of a window is the event loop's to log."""
        self._leaf = leaf
        self._workload = workload
        self._append = append
        self._rows = 0
        self._counts: dict[tuple[str, str], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def takes(self, destination: Endpoint, reason: str, *, quiet: bool = False) -> bool:
        """Return whether this refusal is counted here; if not, it is the caller's to record. ``quiet``: it surely is."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WINDOW_S, self.flush)
        if not quiet and self._rows < _ROWS_PER_WINDOW:
            self._rows += 1
            return False
        key = (str(destination), reason)
        if key not in self._counts and len(self._counts) >= _MAXIMUM_KEYS:
            key = ("various", "various")
        self._counts[key] = self._counts.get(key, 0) + 1
        return True

    def flush(self) -> None:
        """Write one row per counted destination and begin the next window.

        Raises:
            JournalError: it could not be written.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts, self._rows = self._counts, {}, 0
        if counts:
            self._append([self._event(*key, count) for key, count in counts.items()])

    def _event(self, destination: str, reason: str, count: int) -> Event:
        fields: dict[str, object] = {
            "layer": "proxy",
            "leaf": self._leaf,
            "source": "",
            "destination": destination,
            "transport": "unix" if destination.startswith("/") else "tcp",
            "reason": f"beyond the rate that is recorded one by one: {reason}",
            "count": count,
        }
        return Event(EventKind.REFUSAL, time.time_ns(), "", self._workload, fields)
