"""Sees that the host's table is the one that was loaded, and loads it again where somebody or something changed it."""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Callable

from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.fence import Fence
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.settings import Settings
from hostagent.enforcer.slicewatch import SliceWatch
from hostagent.model.errors import HostagentError

log = logging.getLogger(__name__)

CONTESTED_S = 20.0
"""How long rules that somebody changes again and again while they are loaded are loaded anew, before shared placement ends."""


class FenceWatch:
    """Hears of changes of the table and of the slice; ``look`` is for what nobody tells. ``end`` ends one leaf."""

    def __init__(
        self,
        settings: Settings,
        evidence: Evidence,
        fence: Fence,
        live: Callable[[], list[Governed]],
        end: Callable[[Governed, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is heard before ``begin``."""
        self._settings = settings
        self._evidence = evidence
        self._fence = fence
        self._live = live
        self._end = end
        self._clock = clock
        self._contested_at: float | None = None

    def begin(self, selector: selectors.BaseSelector, slice_: Slice) -> None:
        """Listen, once the slice exists and the table is loaded."""
        if self._fence.table.watch is not None:
            selector.register(self._fence.table.watch, selectors.EVENT_READ, self._table_changed)
        slice_watch = SliceWatch(slice_.path)
        selector.register(slice_watch, selectors.EVENT_READ, lambda: self._slice_changed(slice_watch))

    def look(self) -> None:
        """Load the fence again if it is not in force, unless it was taken down on purpose."""
        if not self._fence.current and not self._fence.removed:
            self._restore("the slice was recreated" if self._fence.stale else "the fence is not in force")

    def _slice_changed(self, slice_watch: SliceWatch) -> None:
        if slice_watch.changed():
            self.look()

    def _table_changed(self) -> None:
        """Somebody else changed the host's table, which this kernel cannot protect."""
        changed = self._fence.tampering()
        if changed:
            self._restore(f"table inet {self._settings.table} was changed by {_names(changed)}")

    def _restore(self, cause: str) -> None:
        """Load the fence again, and only then write."""
        try:
            took = self._fence.restore(self._live())
        except (HostagentError, OSError) as error:
            self._not_restored(cause, error)
            return
        self._contested_at = None
        detail = f"{cause}; loaded again within {took * 1000:.0f} ms of being seen"
        self._evidence.service("failed", detail)
        log.error("%s", detail)

    def _not_restored(self, cause: str, error: Exception) -> None:
        """If the rules cannot be loaded, nothing in shared placement may go on; if somebody was in between, the next ``look`` tries again.

        Meanwhile nothing is admitted, and what shared leaves send is held by the programs on their cgroups (``rules/backstop``).
        """
        now = self._clock()
        self._contested_at = now if self._contested_at is None else self._contested_at
        others = self._fence.tampering()
        if others and now - self._contested_at < CONTESTED_S:
            detail = f"{cause}; while it was loaded again it was changed by {_names(others)}, to be loaded again: {error}"
            self._evidence.service("failed", detail)
            log.error("%s", detail)
            return
        self._contested_at = None
        self._evidence.service("failed", f"{cause}; the rules cannot be loaded again: {error}")
        log.critical("%s; the rules cannot be loaded again, shared placement ends: %s", cause, error)
        for each in self._live():
            if not each.isolated:
                self._end(each, f"{cause}, and the fence could not be loaded again")


def _names(changed: list[str]) -> str:
    return ", ".join(list(dict.fromkeys(changed))[:8])
