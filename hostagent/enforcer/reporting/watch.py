"""Turns the kernel's packet logs into refusal events: one log per isolated leaf, one for the host."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable

from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.rules.firewall import choose
from hostagent.enforcer.rules.refusals import PacketLog, Tally
from hostagent.enforcer.rules.ruleset import MARK_MASK, MARK_PREFIX
from hostagent.enforcer.settings import Settings
from hostagent.model.event import EventKind

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0


class RefusalWatch:
    """Counts what was refused and writes it down once a second. ``problem`` says why the host's log cannot be read."""

    def __init__(
        self,
        settings: Settings,
        evidence: Evidence,
        selector: selectors.BaseSelector,
        live: Callable[[], list[Governed]],
    ) -> None:
        """Nothing is read until ``begin``; ``live`` names the leaves that marks in shared placement stand for."""
        self.problem = ""
        self._group = settings.log_group
        self._firewall = settings.firewall
        self._evidence = evidence
        self._selector = selector
        self._live = live
        self._tally = Tally()
        self._workloads: dict[str, str] = {}
        self._due = 0.0
        self._host: PacketLog | None = None

    def begin(self) -> None:
        """Read the host's log, if nobody else does."""
        try:
            self._host = PacketLog(self._group)
        except OSError as error:
            self.problem = f"refusals in shared placement are not recorded: log group {self._group}: {error.strerror}"
            log.warning("%s", self.problem)
            return
        self._selector.register(self._host, selectors.EVENT_READ, self._read_host)

    def add(self, governed: Governed) -> None:
        """Watch a leaf from now on."""
        self._workloads[governed.leaf.name] = governed.workload.name
        if governed.log is not None:
            self._selector.register(governed.log, selectors.EVENT_READ, lambda: self._read(governed))

    def end(self, governed: Governed) -> None:
        """Take what is left of a leaf's log and stop watching it; call before its log is closed."""
        if governed.log is not None and governed.leaf.name in self._workloads:
            self._read(governed)
            self._selector.unregister(governed.log)
        else:
            self._read_host()
        self.flush()
        self._workloads.pop(governed.leaf.name, None)

    def forget(self) -> None:
        """Drop what is waiting in the host's log: the canary's attempts."""
        if self._host is not None:
            list(self._host.read())

    def tick(self, now: float) -> None:
        """Write down what was counted, once a second (``now``: monotonic seconds)."""
        if now >= self._due:
            self.flush()
            self._due = now + _INTERVAL_S

    def flush(self) -> None:
        """Write down what was counted."""
        for leaf, fields in self._tally.take(choose(self._firewall).value):
            self._evidence.note(EventKind.REFUSAL, self._workloads.get(leaf, ""), fields)

    def _read(self, governed: Governed) -> None:
        if governed.log is not None:
            for refused in governed.log.read():
                self._tally.add(governed.leaf.name, refused)

    def _read_host(self) -> None:
        if self._host is None:
            return
        names = {each.number: each.leaf.name for each in self._live() if not each.isolated}
        for refused in self._host.read():
            ours = refused.mark & MARK_MASK == MARK_PREFIX
            self._tally.add(names.get(refused.mark & ~MARK_MASK, "") if ours else "", refused)
