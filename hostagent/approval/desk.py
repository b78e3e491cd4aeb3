"""The approvals desk: pending tickets, and the rules of answering them.

A ticket is pending until the first of: an answer, its end of time, its withdrawal. That ends it for good, so it can be released
at most once. To grant, a person must be in the group that the rule names, sit outside the governed slice, be a known user of
this host, not be the one who launched the workload, and mean exactly what was shown (the digest, if they name it). To refuse,
being in that group and outside the slice is enough: a refusal releases nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hostagent.model.errors import HostagentError
from hostagent.model.ticket import Answer, Ticket

REMEMBERED = 1_000
"""How many ended tickets are remembered, by id and outcome only, so that a late answer gets a clear message."""

SHORTEST_DIGEST = 8
"""Fewest characters of the digest that name it."""

_HEX = frozenset("0123456789abcdef")


class ApprovalRefused(HostagentError):  # noqa: N818 - an outcome more than an error
    """This person's answer does not count; the ticket is as it was. ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Approver:
    """A person at the control socket, as the kernel describes them.

    ``user`` is empty for a uid without an account. ``governed``: inside the slice, or not to be told apart from it.
    """

    user: str
    uid: int
    groups: frozenset[str]
    governed: bool


class Desk:
    """The pending tickets of one proxy."""

    def __init__(self) -> None:
        """Start empty."""
        self._pending: dict[str, Ticket] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()

    def open(self, ticket: Ticket, now: float | None = None) -> None:
        """Put ``ticket`` on the desk. ``now`` is not needed: the ticket itself says until when it waits.

        Raises:
            ApprovalRefused: a ticket with this id was here before, which must never happen.
        """
        if ticket.ticket_id in self._pending or ticket.ticket_id in self._ended:
            raise ApprovalRefused(f"ticket {ticket.ticket_id} exists already")
        self._pending[ticket.ticket_id] = ticket

    def pending(self, now: float, approver: Approver | None = None) -> tuple[Ticket, ...]:
        """Return what can still be answered, the oldest first; with ``approver``, only what that person may see."""
        tickets = (ticket for ticket in self._pending.values() if now < ticket.expires_at)
        visible = (ticket for ticket in tickets if approver is None or _entitled(ticket, approver))
        return tuple(sorted(visible, key=lambda ticket: (ticket.created_at, ticket.ticket_id)))

    def find(self, ticket_id: str, approver: Approver, now: float) -> Ticket:
        """Return the pending ticket with this id, or whose id alone begins with it, if this person may see it.

        Raises:
            ApprovalRefused: none, several, ended, or not for this person's eyes.
        """
        ticket = self._resolve(ticket_id, approver)
        if now >= ticket.expires_at:
            raise ApprovalRefused(f"ticket {ticket.ticket_id} has expired")
        return ticket

    def answer(
        self,
        ticket_id: str,
        approver: Approver,
        granted: bool,
        reason: str,
        now: float,
        digest: str = "",
    ) -> Answer:
        """End a pending ticket with this person's answer and return it.

        Args:
            ticket_id: the whole id, or its beginning if no other visible one begins so.
            approver: who answers, by the kernel's word.
            granted: whether the operation may run.
            reason: free text for the records.
            now: unix seconds.
            digest: the ticket's digest as the person saw it, or its beginning; empty if they do not name it.

        Raises:
            ApprovalRefused: it does not count, and the ticket is as it was.
        """
        ticket = self.find(ticket_id, approver, now)
        if granted:
            _check_grant(ticket, approver)
        _check_digest(ticket, digest)
        self._end(ticket.ticket_id, f"{'approved' if granted else 'denied'} by {approver.user or approver.uid}")
        return Answer(ticket.ticket_id, granted, approver.user or f"uid {approver.uid}", reason)

    def withdraw(self, ticket_id: str, reason: str) -> bool:
        """Void a ticket whose operation is gone; return whether it was still pending."""
        if ticket_id not in self._pending:
            return False
        self._end(ticket_id, f"withdrawn: {reason}")
        return True

    def expire(self, now: float) -> tuple[Answer, ...]:
        """End every ticket whose time is over and return the refusals, the oldest first."""
        over = [ticket for ticket in self._pending.values() if now >= ticket.expires_at]
        over.sort(key=lambda ticket: (ticket.expires_at, ticket.ticket_id))
        for ticket in over:
            self._end(ticket.ticket_id, "expired")
        return tuple(
            Answer(ticket.ticket_id, granted=False, by="", reason="nobody answered in time") for ticket in over
        )

    def next_expiry(self) -> float | None:
        """Return when ``expire`` will next have something to do (unix seconds)."""
        return min((ticket.expires_at for ticket in self._pending.values()), default=None)

    def _resolve(self, ticket_id: str, approver: Approver) -> Ticket:
        if approver.governed:
            raise ApprovalRefused("a governed process has no part in approvals")
        if ticket_id in self._ended:
            raise ApprovalRefused(f"ticket {ticket_id} was {self._ended[ticket_id]}")
        ticket = self._pending.get(ticket_id)
        if ticket is not None:
            if not _entitled(ticket, approver):
                raise ApprovalRefused(
                    f"{_name(approver)} is not in group {ticket.approvers}, which rule {ticket.rule} names for this"
                )
            return ticket
        found = [item for item in self._pending.values() if ticket_id and item.ticket_id.startswith(ticket_id)]
        found = [item for item in found if _entitled(item, approver)]
        if len(found) != 1:
            raise ApprovalRefused(f"{'several tickets begin' if found else 'there is no ticket'} {ticket_id!r}")
        return found[0]

    def _end(self, ticket_id: str, outcome: str) -> None:
        del self._pending[ticket_id]
        self._ended[ticket_id] = outcome
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)


def _name(approver: Approver) -> str:
    return approver.user or f"uid {approver.uid}"


def _entitled(ticket: Ticket, approver: Approver) -> bool:
    return not approver.governed and ticket.approvers != "" and ticket.approvers in approver.groups


def _check_grant(ticket: Ticket, approver: Approver) -> None:
    """Two different people are needed: who set the workload going, and who lets its operation pass."""
    if not approver.user:
        raise ApprovalRefused(
            f"uid {approver.uid} has no account on this host, so an approval could not be put to a name"
        )
    if not ticket.launcher:
        raise ApprovalRefused("it is not known who launched the workload, so nobody can be told apart from them")
    if approver.user == ticket.launcher:
        raise ApprovalRefused(f"{approver.user} launched workload {ticket.workload} and cannot approve for it")


def _check_digest(ticket: Ticket, digest: str) -> None:
    if not digest:
        return
    if len(digest) < SHORTEST_DIGEST or not _HEX.issuperset(digest.lower()):
        raise ApprovalRefused(f"a digest is at least {SHORTEST_DIGEST} hexadecimal digits")
    if not ticket.digest.lower().startswith(digest.lower()):
        raise ApprovalRefused("the digest is not that of this ticket: look at it again before you answer")
