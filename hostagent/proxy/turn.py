"""One turn of the event loop: what every session forwards in it waits for one append of all their records.

Sockets that are ready at the same time are read one after the other. Each read gives records and bytes to forward; instead of
one journal write for each, there is one for the turn. Nothing is forwarded before it, as ever.

How a statement ended is not worth a write of its own: where a turn has nothing else to record, its results go with the next
append, of whichever session, at the latest ``PUT_OFF_S`` later. Killed within that time, the process leaves statements without
results; never an operation without its statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from hostagent.model.command import Command
from hostagent.model.errors import JournalError, UnwritableEventError
from hostagent.model.event import Event, EventKind

if TYPE_CHECKING:
    from hostagent.model.ports import Journal


PUT_OFF_S: Final = 0.1
"""Seconds."""

_RESULT: Final = EventKind.RESULT
# Results that wait for an append; so many make one.
_MOST_PUT_OFF: Final = 500


class Waiting(Protocol):
    """A session, as a turn sees it."""

    def carry_out(self, commands: Sequence[Command]) -> None:
        """Do what stands in ``commands``; their records are in the journal. Must not raise."""

    def unrecorded(self, error: JournalError) -> None:
        """The records could not be written: nothing of this turn may pass. Must not raise."""


class Turn:
    """Collects commands until the loop has heard all sockets that were ready, or somebody cannot wait.

    One per event loop, shared by its sessions.
    """

    def __init__(
        self,
        journal: Journal,
        soon: Callable[[Callable[[], None]], object],
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """Append to ``journal``; ``soon`` has the loop call something when this turn's sockets were heard.

        ``later`` has it call something after so many seconds; None: nothing is put off.
        """
        self._journal = journal
        self._soon = soon
        self._later = later
        self._events: list[Event] = []
        self._waiting: list[tuple[Waiting, list[Event], Sequence[Command]]] = []
        self._put_off: list[tuple[Waiting, list[Event]]] = []
        self._timed = False

    def add(self, session: Waiting, events: list[Event], commands: Sequence[Command]) -> None:
        """Have ``commands`` carried out at the end of this turn, after ``events`` are in the journal or, results alone, put off."""
        self._events += events
        self._waiting.append((session, events, commands))
        if len(self._waiting) == 1:
            self._soon(self.settle)

    def put_off(self, session: Waiting, events: list[Event]) -> bool:
        """Keep ``events`` for the next append, if they are results: what goes with them need not wait for the end of this turn."""
        if not self._can_wait(events):
            return False
        self._put_off.append((session, events))
        return True

    def settle(self) -> None:
        """Append and carry out what has been collected; afterwards nothing waits. Never raises."""
        waiting, events = self._waiting, self._events
        if not waiting:
            return
        self._waiting, self._events = [], []
        if self._can_wait(events):
            self._put_off += [(session, each) for session, each, _ in waiting if each]
            for session, _, commands in waiting:
                session.carry_out(commands)
            return
        put_off = self._taken()
        try:
            self._journal.append([*chain.from_iterable([each for _, each in put_off]), *events] if put_off else events)
        except UnwritableEventError:
            self._append_each(put_off)
            self._one_by_one(waiting)
            return
        except JournalError as error:
            for session in dict.fromkeys([*(session for session, _ in put_off), *(session for session, _, _ in waiting)]):
                session.unrecorded(error)
            return
        for session, _, commands in waiting:
            session.carry_out(commands)

    def _can_wait(self, events: list[Event]) -> bool:
        """Return whether ``events`` are results, and see to it that they are appended in time."""
        if self._later is None or len(self._put_off) >= _MOST_PUT_OFF:
            return False
        for event in events:
            if event.kind is not _RESULT:
                return False
        if events and not self._timed:
            self._timed = True
            self._later(PUT_OFF_S, self._overdue)
        return True

    def _overdue(self) -> None:
        self._timed = False
        self._append_results()

    def _append_results(self) -> None:
        """Append what was put off; sessions whose results cannot be recorded end. Never raises."""
        put_off = self._taken()
        if not put_off:
            return
        try:
            self._journal.append([*chain.from_iterable([each for _, each in put_off])])
        except UnwritableEventError:
            self._append_each(put_off)
        except JournalError as error:
            for session in dict.fromkeys([session for session, _ in put_off]):
                session.unrecorded(error)

    def _append_each(self, put_off: Sequence[tuple[Waiting, list[Event]]]) -> None:
        for session, events in put_off:
            try:
                self._journal.append(events)
            except JournalError as error:
                session.unrecorded(error)

    def _taken(self) -> list[tuple[Waiting, list[Event]]]:
        taken, self._put_off = self._put_off, []
        return taken

    def _one_by_one(self, waiting: Sequence[tuple[Waiting, list[Event], Sequence[Command]]]) -> None:
        """Append what each session has by itself: whoever makes an event that nobody can write ends alone."""
        cut: set[Waiting] = set()
        for session, events, commands in waiting:
            try:
                if events:
                    self._journal.append(events)
            except JournalError as error:
                if session not in cut:
                    cut.add(session)
                    session.unrecorded(error)
            else:
                if session not in cut:
                    session.carry_out(commands)

    def append(self, events: list[Event]) -> None:
        """Append ``events`` now, behind everything that waits.

        Raises:
            JournalError: they were not written.
        """
        self.settle()
        self._append_results()
        if events:
            self._journal.append(events)
