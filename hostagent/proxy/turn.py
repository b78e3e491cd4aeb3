"""One turn of the event loop: what every session forwards in it waits for one append of all their records.

Sockets that are ready at the same time are read one after the other. Each read gives records and bytes to forward; instead of
one journal write for each, there is one for the turn. Nothing is forwarded before it, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from hostagent.model.command import Command
from hostagent.model.errors import JournalError, UnwritableEventError
from hostagent.model.event import Event

if TYPE_CHECKING:
    from hostagent.model.ports import Journal


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

    def __init__(self, journal: Journal, soon: Callable[[Callable[[], None]], object]) -> None:
        """Append to ``journal``; ``soon`` has the loop call something when this turn's sockets were heard."""
        self._journal = journal
        self._soon = soon
        self._events: list[Event] = []
        self._waiting: list[tuple[Waiting, list[Event], Sequence[Command]]] = []

    def add(self, session: Waiting, events: list[Event], commands: Sequence[Command]) -> None:
        """Have ``commands`` carried out at the end of this turn, after ``events`` are in the journal."""
        self._events += events
        self._waiting.append((session, events, commands))
        if len(self._waiting) == 1:
            self._soon(self.settle)

    def settle(self) -> None:
        """Append and carry out what has been collected; afterwards nothing waits. Never raises."""
        waiting, events = self._waiting, self._events
        if not waiting:
            return
        self._waiting, self._events = [], []
        try:
            self._journal.append(events)
        except UnwritableEventError:
            self._one_by_one(waiting)
            return
        except JournalError as error:
            for session in dict.fromkeys(session for session, _, _ in waiting):
                session.unrecorded(error)
            return
        for session, _, commands in waiting:
            session.carry_out(commands)

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
        if events:
            self._journal.append(events)
