"""How a refusal reaches a PostgreSQL client as if the server itself had said it.

What is refused is replaced by something the server is sure to reject, and the server's error is rewritten. So the
transaction state, the rollback of an implicit transaction, the skipping of a pipeline up to Sync and ReadyForQuery are the
server's own. A refused Query becomes a Query no grammar can parse; a refused extended message becomes a failing Parse under
a reserved name, which leaves the client's unnamed statement alone; a refused FunctionCall becomes a call of function 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from hostagent.inspectors.ports import Denial, Outcome
from hostagent.model.verdict import Verdict
from hostagent.wire.postgres.backend import build_error, build_notice
from hostagent.wire.postgres.frontend import (
    FunctionCall,
    Parse,
    build_function_call,
    build_parse,
    build_query,
)

POISON_QUERY: Final = build_query(b"hostagent refused this statement")
POISON_PARSE: Final = build_parse(Parse(b"hostagent:refused", b"hostagent refused this statement", ()))
POISON_CALL: Final = build_function_call(FunctionCall(0, (), (), 0))

INSUFFICIENT_PRIVILEGE: Final = "42501"
QUERY_CANCELED: Final = "57014"
UNKNOWN_STATEMENT: Final = "26000"
UNKNOWN_PORTAL: Final = "34000"
PROTOCOL_VIOLATION: Final = "08P01"
TERMINATED: Final = "57P01"
WITHDRAWN: Final = Outcome("withdrawn")

# SQLSTATE classes whose messages quote names of objects, and the one code among them that quotes the statement's own words.
_QUOTES_NAMES: Final = ("23", "25", "26", "2B", "34", "3D", "3F", "42", "55", "57")
_QUOTES_LITERALS: Final = frozenset({"42601"})
_QUOTED: Final = re.compile(r'"(?:[^"]|"")*"')


def denied(verdict: Verdict) -> Denial:
    """Return what to say about a verdict that denies."""
    if verdict.rules:
        message = f"hostagent: denied by rule {verdict.rules[0]}: {verdict.reason}"
    else:
        message = f"hostagent: denied by default: {verdict.reason}"
    detail = f"Matching rules: {', '.join(verdict.rules) or 'none'}; policy {verdict.policy[:12]}."
    hint = verdict.hint or "Ask whoever owns the policy for a rule that allows this; the session goes on."
    return Denial(INSUFFICIENT_PRIVILEGE, message, detail, hint)


def forbidden(reason: str) -> Denial:
    """Return what to say about something that no policy can allow on this protocol."""
    return Denial(INSUFFICIENT_PRIVILEGE, f"hostagent: denied: {reason}", "", "The session goes on without it.")


def unknown(kind: str, name: bytes) -> Denial:
    """Return what to say about a prepared statement or portal that this session never made."""
    shown = name.decode("utf-8", "replace")
    state = UNKNOWN_PORTAL if kind == "portal" else UNKNOWN_STATEMENT
    label = f'"{shown}"' if shown else "(unnamed)"
    return Denial(state, f"hostagent: {kind} {label} does not exist in this session", "", f"Create the {kind} again.")


def cancelled() -> Denial:
    """Return what to say to a client that cancelled its own held statement."""
    return Denial(
        QUERY_CANCELED, "canceling statement due to user request", "It was waiting for approval.", "", "cancelled"
    )


def error_fields(denial: Denial) -> dict[str, str]:
    """Return the ErrorResponse fields of ``denial``."""
    fields = {"S": "ERROR", "V": "ERROR", "C": denial.sqlstate, "M": denial.message}
    if denial.detail:
        fields["D"] = denial.detail
    if denial.hint:
        fields["H"] = denial.hint
    return fields


def error(denial: Denial) -> bytes:
    """Return the ErrorResponse of ``denial``."""
    return build_error(error_fields(denial))


def recordable(fields: Mapping[str, str]) -> str:
    """Return an error's message as it may be kept: the server quotes literals of the statement, which never are.

    Names (of relations, constraints, columns) are what most errors quote, and stay. What server-side code raises
    (class P0) can be any text at all.
    """
    code, message = fields.get("C", ""), fields.get("M", "")
    if code.startswith("P0"):
        return "[raised by server-side code]"
    if code in _QUOTES_LITERALS or not code.startswith(_QUOTES_NAMES):
        return _QUOTED.sub('"…"', message)
    return message


def fatal(message: str, sqlstate: str = PROTOCOL_VIOLATION) -> bytes:
    """Return a FATAL ErrorResponse; the connection must be closed after it."""
    return build_error({"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": message})


def notice(message: str) -> bytes:
    """Return a NoticeResponse (SQLSTATE 00000)."""
    return build_notice({"S": "NOTICE", "V": "NOTICE", "C": "00000", "M": message})


def is_fatal(fields: Mapping[str, str]) -> bool:
    """Return whether the server ends the connection after this error."""
    return fields.get("V", fields.get("S", "")) in ("FATAL", "PANIC")
