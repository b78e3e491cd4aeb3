"""Tickets that outlive the connection they came on: the same request, sent again by the same running program, finds its answer.

Clients of HTTP give up within seconds, a human does not answer within seconds. So the client is told the ticket at once, and
whoever sends exactly the same again (the key says what that is) gets the answer, and a grant only once.
"""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.model.ticket import Answer, Ticket

GRANT_S = 300.0
"""How long after an approval the request must be sent again."""
MOST = 16
"""Most tickets kept for one leaf: each holds a whole request."""


@dataclass(slots=True)
class Kept:
    """One ticket, the statement it was recorded for, until when it counts (unix seconds), and the answer if there is one."""

    leaf: str
    ticket: Ticket
    statement: str
    until: float
    answer: Answer | None = None


class Book:
    """The kept tickets of one proxy, by key."""

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[str, Kept] = {}

    def keep(self, key: str, leaf: str, ticket: Ticket, statement: str) -> bool:
        """Keep ``ticket`` for whoever comes with ``key``; False: the leaf has too many already, or the key has one."""
        self._forget_old(ticket.created_at)
        if key in self._kept or sum(each.leaf == leaf for each in self._kept.values()) >= MOST:
            return False
        self._kept[key] = Kept(leaf, ticket, statement, ticket.expires_at)
        return True

    def find(self, key: str, now: float) -> Kept | None:
        """Return what is kept for ``key``. A grant is returned once and is then used up."""
        self._forget_old(now)
        found = self._kept.get(key)
        if found is not None and found.answer is not None and found.answer.granted:
            del self._kept[key]
        return found

    def of(self, ticket_id: str) -> Kept | None:
        """Return the kept ticket with this id."""
        return next((each for each in self._kept.values() if each.ticket.ticket_id == ticket_id), None)

    def answer(self, kept: Kept, answer: Answer, now: float) -> None:
        """Note the answer to ``kept``; only the first counts. What nobody answered in time may be asked anew at once."""
        if kept.answer is None:
            kept.answer = answer
            kept.until = now + GRANT_S if answer.by else now

    def void(self, leaf: str) -> list[Kept]:
        """Forget the tickets of ``leaf``, which has ended; return those without an answer."""
        gone = [key for key, each in self._kept.items() if each.leaf == leaf]
        return [each for each in map(self._kept.pop, gone) if each.answer is None]

    def _forget_old(self, now: float) -> None:
        for key in [key for key, each in self._kept.items() if now >= each.until]:
            del self._kept[key]
