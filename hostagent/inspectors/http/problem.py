"""What a client is told instead of a response: a problem document (RFC 9457)."""

from __future__ import annotations

import json
from typing import Final

from hostagent.inspectors.ports import Denial
from hostagent.inspectors.transfers import LimitPassedError
from hostagent.model.errors import RemoteWireError
from hostagent.model.ticket import Answer, Ticket
from hostagent.model.verdict import Verdict
from hostagent.wire.http1.head import build_response

RETRY_AFTER_S: Final = 10
"""What a client that is told a ticket is told to wait before it asks again."""

REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


Problem = tuple[int, dict[str, object]]
"""A status and the document that says why."""


def status_of(error: RemoteWireError) -> int:
    """Return the status that ``error`` names, 400 if it names none."""
    if isinstance(error, LimitPassedError):
        return 403
    status = int(error.code) if error.code.isdigit() else 0
    return status if status in REASONS else 400


def refused(status: int, reason: str, next_step: str = "", **more: object) -> Problem:
    """Return the status and document of a refusal that no policy can change."""
    document: dict[str, object] = {
        "type": "urn:hostagent:refused",
        "title": REASONS[status],
        "status": status,
        "detail": f"hostagent: {reason}",
        "reason": reason,
        "next_step": next_step,
    }
    return status, document | more


def denied(verdict: Verdict) -> Problem:
    """Return the status and document of a verdict that denies."""
    by = f"rule {verdict.rules[0]}" if verdict.rules else "default"
    status, document = refused(403, verdict.reason, verdict.hint or "Ask whoever keeps the policy for a rule that allows this.")
    document["type"] = "urn:hostagent:denied"
    document["detail"] = f"hostagent: denied by {by}: {verdict.reason}"
    document["rule"] = verdict.rules[0] if verdict.rules else ""
    document["rules"] = list(verdict.rules)
    document["policy"] = verdict.policy[:12]
    return status, document


def answered(denial: Denial, rule: str, ticket: str) -> Problem:
    """Return the status and document of a held request that was not let through."""
    status, document = refused(403, denial.message.removeprefix("hostagent: "), denial.hint, rule=rule, ticket=ticket)
    document["type"] = "urn:hostagent:denied"
    return status, document


def was_refused(ticket: Ticket, answer: Answer) -> Problem:
    """Return the status and document for a request that a human has decided against."""
    why = f": {answer.reason}" if answer.reason else ""
    status, document = refused(403, f"denied by {answer.by}{why}", "Do without it.", rule=ticket.rule, ticket=ticket.ticket_id)
    document["type"] = "urn:hostagent:denied"
    return status, document


def waiting(ticket: Ticket, now: float) -> Problem:
    """Return the status and document for a request that a human has not yet decided about."""
    reason = f"held by rule {ticket.rule}, waiting for approval by group {ticket.approvers}: {ticket.reason}"
    step = "Send exactly the same request again once it is approved; it is then carried out once."
    status, document = refused(403, reason, step, rule=ticket.rule, ticket=ticket.ticket_id, retry_after=RETRY_AFTER_S)
    document["type"] = "urn:hostagent:held"
    document["expires_in"] = max(0, round(ticket.expires_at - now))
    return status, document


def as_document(problem: Problem) -> tuple[str, bytes]:
    """Return the problem document and its media type."""
    return "application/problem+json", json.dumps(problem[1]).encode() + b"\n"


def build(problem: Problem, method: str, *, close: bool, written: tuple[str, bytes] | None = None) -> bytes:
    """Return the whole response to a ``method`` request of HTTP/1.1; ``written`` is its body in another form, with the media type."""
    status, fields, body = build_parts(problem, method, written)
    if close:
        fields.append(("Connection", "close"))
    return build_response(status, REASONS[status], fields) + body


def build_parts(problem: Problem, method: str, written: tuple[str, bytes] | None = None) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, fields and body of the response to a ``method`` request."""
    status, document = problem
    kind, body = written or as_document(problem)
    fields = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    if "retry_after" in document:
        fields.append(("Retry-After", str(document["retry_after"])))
    return status, fields, b"" if method == "HEAD" else body
