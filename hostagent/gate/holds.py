"""Held operations: the ticket, the notices while it waits, and its one end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hostagent.gate.context import SessionContext
from hostagent.gate.evidence import Evidence
from hostagent.inspectors.ports import Earlier, Held
from hostagent.model.command import Command, Detach, Hold, Withdraw
from hostagent.model.event import EventKind
from hostagent.model.operation import Operation
from hostagent.model.ticket import Answer, Ticket
from hostagent.model.verdict import Verdict

# Seconds between two notices to a waiting client, as pgbouncer's query_wait_notify.
NOTICE_INTERVAL = 5.0


def canonical(operations: Sequence[Operation]) -> list[object]:
    """Return everything that fixes what ``operations`` will do, as JSON-compatible values.

    The redacted text, the effects and the objects are part of it, so that a name which has come to mean something else
    (a prepared statement redefined meanwhile) changes it.
    """
    return [
        [
            operation.protocol,
            operation.verb,
            sorted(operation.judged_effects),
            [[each.kind, each.name, each.access.value] for each in operation.resources],
            operation.text,
            operation.fingerprint,
            dict(operation.attributes),
            [
                [type(value).__name__, value.hex() if isinstance(value, bytes) else value]
                for value in operation.parameters
            ],
        ]
        for operation in operations
    ]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Holds:
    """The pending hold of one session; there is at most one, because nothing behind it is interpreted."""

    def __init__(self, context: SessionContext, evidence: Evidence) -> None:
        """Start with nothing held."""
        self._context = context
        self._evidence = evidence
        self._contents = ""
        self._key = ""
        self._statement = ""
        self._expires = 0.0
        self._next_notice = 0.0
        self._notice = ""
        self.pending: Ticket | None = None
        self.database = ""
        self.user = ""

    def new_id(self) -> str:
        """Return an unguessable ticket id."""
        return self._context.random(8).hex()

    def open(
        self,
        ticket_id: str,
        verdict: Verdict,
        operations: tuple[Operation, ...],
        statement: str,
        now: float,
        out: list[Command],
        *,
        notice_s: float | None = None,
    ) -> Held:
        """Register a hold and say what the client is to be told."""
        ticket = self._ticket(ticket_id, verdict, operations, now)
        self.pending = ticket
        self._contents = _digest(canonical(operations))
        self._statement = statement
        wait = ticket.expires_at - ticket.created_at
        self._expires = now + wait
        self._next_notice = now + (NOTICE_INTERVAL if notice_s is None else notice_s)
        self._key = self._same(verdict, operations)
        self._notice = (
            f"hostagent: held by rule {ticket.rule}, waiting for approval by group {ticket.approvers}, "
            f"ticket {ticket_id}"
        )
        fields = {
            "ticket": ticket_id,
            "statement": statement,
            "rule": ticket.rule,
            "approvers": ticket.approvers,
            "digest": ticket.digest,
            "expires_at": ticket.expires_at,
            "reason": ticket.reason,
        }
        out.append(self._evidence.event(EventKind.HOLD, fields, now))
        out.append(Hold(ticket))
        return Held(ticket_id, f"{self._notice}; it ends in {wait:.0f} s")

    def _ticket(self, ticket_id: str, verdict: Verdict, operations: tuple[Operation, ...], now: float) -> Ticket:
        context = self._context
        terms = verdict.hold
        created = context.at(now) / 1e9
        contents = {
            "flow": context.flow.flow_id,
            "workload": context.flow.workload,
            "target": context.target.name,
            "database": self.database,
            "user": self.user,
            "policy": verdict.policy,
            "operations": canonical(operations),
        }
        return Ticket(
            ticket_id=ticket_id,
            flow_id=context.flow.flow_id,
            workload=context.flow.workload,
            launcher=context.launcher,
            identity=context.identity,
            target=context.target.name,
            database=self.database,
            user=self.user,
            operations=operations,
            digest=_digest(contents),
            rule=terms.rule if terms is not None else "",
            reason=verdict.reason,
            approvers=terms.approvers if terms is not None else "",
            created_at=created,
            expires_at=created + (terms.timeout if terms is not None else 0.0),
        )

    @property
    def deadline(self) -> float | None:
        """When something is due (monotonic seconds), or None."""
        return None if self.pending is None else min(self._next_notice, self._expires)

    def expired(self, now: float) -> bool:
        """Return whether the pending hold has waited long enough."""
        return self.pending is not None and now >= self._expires

    def due(self, now: float) -> str:
        """Return the notice that is due, or an empty string."""
        if self.pending is None or now < self._next_notice:
            return ""
        self._next_notice = now + NOTICE_INTERVAL
        return f"{self._notice}; it ends in {max(0.0, self._expires - now):.0f} s"

    def _same(self, verdict: Verdict, operations: tuple[Operation, ...]) -> str:
        """Return what must be equal for a request to be the one that was asked about before."""
        context = self._context
        contents = {
            "leaf": context.flow.leaf,
            "subject": [context.identity.issuer, context.identity.subject],
            "target": repr(context.target),
            "terms": repr(verdict.hold),
            "operations": canonical(operations),
        }
        return _digest(contents)

    def earlier(self, verdict: Verdict, operations: tuple[Operation, ...], now: float) -> Earlier | None:
        """Return what was kept when the same was asked before; a grant is used up by this."""
        kept = self._context.book.find(self._same(verdict, operations), self._context.at(now) / 1e9)
        return None if kept is None else Earlier(kept.ticket, kept.answer)

    def keep(self, now: float, out: list[Command]) -> Ticket | None:
        """Keep the pending hold for whoever asks the same again. None: there are too many, so it is void."""
        ticket = self.pending
        if ticket is None:
            return None
        if not self._context.book.keep(self._key, self._context.flow.leaf, ticket, self._statement):
            self.withdraw("too many requests of this program wait for an answer", now, out)
            return None
        self.pending = None
        out.append(Detach(ticket.ticket_id))
        return ticket

    def unchanged(self, operations: tuple[Operation, ...]) -> bool:
        """Return whether ``operations`` are exactly what the last ticket shows."""
        return self._contents == _digest(canonical(operations))

    def answered(self, answer: Answer, now: float, out: list[Command]) -> bool:
        """Record the answer to the pending hold. False: it is not the answer to that, and nothing happens."""
        ticket = self.pending
        if ticket is None or ticket.ticket_id != answer.ticket_id:
            return False
        self.pending = None
        self._record(ticket, answer, now, out)
        return True

    def withdraw(self, reason: str, now: float, out: list[Command]) -> None:
        """Void the pending hold: record it and take the ticket off the desk."""
        ticket = self.pending
        if ticket is None:
            return
        self.pending = None
        self._record(ticket, Answer(ticket.ticket_id, granted=False, by="", reason=reason), now, out)
        out.append(Withdraw(ticket.ticket_id, reason))

    def _record(self, ticket: Ticket, answer: Answer, now: float, out: list[Command]) -> None:
        fields = {
            "ticket": ticket.ticket_id,
            "statement": self._statement,
            "granted": answer.granted,
            "by": answer.by,
            "reason": answer.reason,
        }
        out.append(self._evidence.event(EventKind.ANSWER, fields, now))
