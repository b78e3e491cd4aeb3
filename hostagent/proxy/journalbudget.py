"""How much of the journal each workload may fill: counted as it is written, in three steps.

A workload that may ask can ask without end, and everything it does is recorded; a full disk would stop everybody. So what it makes us
write counts against a budget of so many bytes an hour, which comes back evenly. Beyond that its statements are *refused* by a verdict
that says why, and its new connections likewise. That is recorded too; a sixteenth of the budget later it is *stopped*: its sessions
end, and its dials are refused and counted without a row each, as are its questions for names. While less of the disk is free than is kept for everybody,
every workload's budget is a sixteenth of that: those that write little go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from hostagent.model.errors import UnwritableEventError
from hostagent.model.event import Event, EventKind
from hostagent.model.verdict import Decision, Verdict
from hostagent.proxy.memory import MIB

if TYPE_CHECKING:
    from hostagent.policy import Policy, PolicyContext

log = logging.getLogger(__name__)

HOUR_S: Final = 3600.0
_PART: Final = 16
_BEGINNINGS: Final = frozenset({EventKind.CONNECTION, EventKind.LOGIN, EventKind.STATEMENT, EventKind.HOLD})
_EVENT: Final = 256
"""About how many bytes an event takes beside the texts in it."""


class QuotaError(UnwritableEventError):
    """Nothing of this workload begins any more, because of what it has made us write."""


class Counted(Protocol):
    """A journal that says how much it has written."""

    written: int

    def append(self, events: Sequence[Event]) -> None:
        """Append in order, all or nothing."""


class Step(IntEnum):
    """What a workload may do."""

    FREE = 0
    REFUSED = 1
    STOPPED = 2


class JournalBudget:
    """Implements ``hostagent.model.ports.Journal`` by another journal, and counts. Workloads are known by name.

    ``changed`` hears of every change of a workload's step, after the append that caused it: it must not append, nor raise.
    ``tight``: less of the disk is free than is kept.
    """

    def __init__(self, journal: Counted, each_mib: int, kept_mib: int) -> None:
        """``each_mib`` is the budget of a workload for an hour, ``kept_mib`` what is kept free."""
        self.uncounted: Counted = journal
        """The journal itself, for what no workload causes."""
        self._journal = journal
        self._each = each_mib
        self._kept = kept_mib
        self._written = journal.written
        self._spent: dict[str, int] = {}
        self._steps: dict[str, Step] = {}
        self._stopped: set[str] = set()
        self.tight = False
        self._most = 0
        self._measure()
        self.changed: Callable[[str, Step], None] = lambda _workload, _step: None

    # -- the hot path ----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event]) -> None:
        """Append ``events`` and count them.

        Raises:
            QuotaError: with one of them something of a workload would begin that is stopped; none was written.
            JournalError: they were not written.
        """
        if self._stopped:
            self._check(events)
        journal = self._journal
        journal.append(events)
        size = journal.written - self._written
        self._written += size
        name = events[0].workload if events else ""
        for event in events:
            if event.workload != name:
                self._divide(events, size)
                return
        if name:
            spent = self._spent[name] = self._spent.get(name, 0) + size
            if spent > self._most:
                self._step(name)

    def _check(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.workload in self._stopped and event.kind in _BEGINNINGS:
                raise QuotaError(self.reason(event.workload))

    def _divide(self, events: Sequence[Event], size: int) -> None:
        """Count ``size`` bytes against several workloads, in proportion to about how much each event takes."""
        weights: dict[str, int] = {}
        for event in events:
            weights[event.workload] = weights.get(event.workload, 0) + _weight(event)
        total = sum(weights.values())
        for name, weight in weights.items():
            if name:
                self._spent[name] = self._spent.get(name, 0) + size * weight // total
                self._step(name)

    # -- steps -----------------------------------------------------------------------------------------------------------

    def step(self, workload: str) -> Step:
        """Return what ``workload`` may do now."""
        return self._steps.get(workload, Step.FREE)

    def reason(self, workload: str) -> str:
        """Return in one sentence why something of ``workload`` is refused, empty if it is not."""
        if self.step(workload) is Step.FREE:
            return ""
        if self.tight:
            return f"less than {self._kept} MiB are free for the journal, and workload {workload} has filled more than {self._most // MIB} MiB of it in the last hour"
        return f"workload {workload} has used up its budget of the journal, {self._each} MiB an hour"

    def report(self) -> dict[str, object]:
        """Return what ``hostagent status`` shows."""
        used = {name: {"mib": round(spent / MIB, 1), "step": self.step(name).name.lower()} for name, spent in self._spent.items()}
        return {"budget_mib": self._most // MIB, "tight": self.tight, "workloads": used}

    def _step(self, workload: str) -> None:
        spent, most = self._spent.get(workload, 0), self._most
        step = Step.STOPPED if spent > most + most // _PART else Step.REFUSED if spent > most else Step.FREE
        before = self.step(workload)
        if before is not Step.FREE and step is Step.FREE and spent > most - most // _PART:
            return  # not to and fro
        if before is Step.STOPPED and step is Step.REFUSED:
            return
        if step is before:
            return
        self._steps[workload] = step
        (self._stopped.add if step is Step.STOPPED else self._stopped.discard)(workload)
        self.changed(workload, step)

    def configure(self, each_mib: int, kept_mib: int) -> None:
        """Count by these from now on."""
        self._each, self._kept = each_mib, kept_mib
        self._measure()

    # -- time ------------------------------------------------------------------------------------------------------------

    def passed(self, seconds: float, free: int) -> None:
        """So much time has passed, and ``free`` bytes of the journal's disk are free."""
        back = int(self._each * MIB * seconds / HOUR_S)
        self._spent = {name: spent - back for name, spent in self._spent.items() if spent > back}
        self.tight = free < self._kept * MIB
        self._measure()
        for name in {*self._spent, *self._steps}:
            self._step(name)
        self._steps = {name: step for name, step in self._steps.items() if step is not Step.FREE}

    def _measure(self) -> None:
        most = self._each * MIB
        self._most = min(most, self._kept * MIB // _PART) if self.tight else most


class Refusing:
    """A policy source for the sessions of a workload that has used up its budget: everything is denied, and said why."""

    def __init__(self, source: Callable[[], Policy], reason: str, context: Callable[[], PolicyContext]) -> None:
        """``source`` is the policy in force, whose hash the verdicts name."""
        self._source = source
        self._reason = reason
        self._context = context

    @property
    def current(self) -> Policy:
        """Return what stands where a policy does."""
        return self  # type: ignore[return-value]

    @property
    def context(self) -> PolicyContext:
        """The time now, and what the context providers last said."""
        return self._context()

    @property
    def hash(self) -> str:
        """The hash of the policy in force."""
        return self._source().hash

    def evaluate(self, *_: object) -> Verdict:
        """Return a denial."""
        hint = "Wait until some of it has come back, or ask whoever runs hostagent for a larger limits.journal_per_workload_mib."
        return Verdict(Decision.DENY, (), self._reason, self.hash, hint=hint)


def _weight(event: Event) -> int:
    """Return about how many bytes ``event`` took, once it was appended: a row that refers to another says what is shared no second time."""
    row = event.row
    own = (getattr(row, "parameters", ()),)
    texts = own if row is not None and row.like else (*own, *event.shared.values())
    size = _EVENT
    for text in texts:
        if type(text) is str:
            size += len(text)
        elif isinstance(text, (list, tuple)):
            size += sum(len(item) if type(item) is str else _EVENT // 8 for item in text)
    return size
