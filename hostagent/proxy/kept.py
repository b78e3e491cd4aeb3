"""Answers to tickets that no connection waits for: recorded, and kept for the request to come again."""

from __future__ import annotations

import logging
import time

from hostagent.approval import Book, Desk, Kept
from hostagent.model.errors import JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.ports import Journal
from hostagent.model.ticket import Answer

log = logging.getLogger(__name__)


class KeptTickets:
    """The book of the proxy's sessions, and what happens to it from outside of them."""

    def __init__(self, desk: Desk, journal: Journal) -> None:
        """Start with an empty book."""
        self.book = Book()
        self._desk = desk
        self._journal = journal

    def answered(self, answer: Answer) -> None:
        """Record an answer and note it in the book. What cannot be recorded does not count."""
        kept = self.book.of(answer.ticket_id)
        if kept is not None and self._record(kept, answer):
            self.book.answer(kept, answer, time.time())

    def void(self, leaf: str) -> None:
        """A leaf has ended: nobody can send its requests again."""
        for kept in self.book.void(leaf):
            ticket_id = kept.ticket.ticket_id
            self._desk.withdraw(ticket_id, "the workload ended")
            self._record(kept, Answer(ticket_id, granted=False, by="", reason="the workload ended"))

    def _record(self, kept: Kept, answer: Answer) -> bool:
        ticket = kept.ticket
        fields = {
            "ticket": ticket.ticket_id,
            "statement": kept.statement,
            "granted": answer.granted,
            "by": answer.by,
            "reason": answer.reason,
        }
        try:
            self._journal.append([Event(EventKind.ANSWER, time.time_ns(), ticket.flow_id, ticket.workload, fields)])
        except JournalError as error:
            log.critical("an answer could not be recorded and does not count: %s", error, extra={"flow": ticket.flow_id})
            return False
        return True
