"""A ticket: one held operation waiting for a human, and the human's answer."""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.model.identity import Identity
from hostagent.model.operation import Operation


@dataclass(frozen=True, slots=True)
class Ticket:
    """A held operation. ``operations`` are exact (statement and bind values) and live only in memory.

    ``digest`` is hex SHA-256 over the canonical form of everything the approver is shown and everything that fixes
    what will run (flow, target, database, user, statements, parameters and their types). Times are unix seconds.
    """

    ticket_id: str
    flow_id: str
    workload: str
    launcher: str
    identity: Identity
    target: str
    database: str
    user: str
    operations: tuple[Operation, ...]
    digest: str
    rule: str
    reason: str
    approvers: str
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """How a ticket ended: ``granted`` by ``by``; a refusal, timeout or withdrawal is ``granted=False``."""

    ticket_id: str
    granted: bool
    by: str
    reason: str = ""
