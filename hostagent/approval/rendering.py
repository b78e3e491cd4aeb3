"""How a ticket is shown to the person who answers it: exactly, completely, and with nothing invisible.

Every character that a terminal would obey, hide or reorder is shown as ``⟦U+202E⟧``; the brackets themselves are shown that way
too, so that nobody can write a fake one. Lines of workload text are set off by a bar, so that none can pass for ours. Nothing is
ever cut short: what a person approves, they could read.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence

from hostagent.model.operation import Completeness, Operation
from hostagent.model.ticket import Ticket

_OPEN, _CLOSE = "⟦", "⟧"
# Categories: control, format (bidi, zero-width, tags), surrogate, private use, unassigned, line and paragraph separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Letters and marks that are drawn as nothing or as blank, and the mark that hides what stands before it.
_HIDDEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + _OPEN + _CLOSE) | frozenset(
    chr(code) for code in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
)
_LONG_BLANK = 40
_LONG_MARKS = 4
_EMPTY_LINES = 5


def visible_text(text: str) -> str:
    """Return ``text`` with every character that is not plainly visible replaced by its name in brackets.

    Line feeds stay; a run of more than 40 blanks, which would push what follows out of sight, is shown as a count. The result
    is different for different texts.
    """
    shown: list[str] = []
    marks = blanks = 0
    for letter in text:
        if letter == " ":
            blanks += 1
            continue
        shown.append(_blank(blanks))
        blanks = 0
        marks = marks + 1 if unicodedata.combining(letter) else 0
        shown.append(f"{_OPEN}U+{ord(letter):04X}{_CLOSE}" if _is_hidden(letter) or marks > _LONG_MARKS else letter)
    shown.append(_blank(blanks))
    return "".join(shown)


def _blank(count: int) -> str:
    return " " * count if count <= _LONG_BLANK else f"{_OPEN}{count} blanks{_CLOSE}"


def _is_hidden(letter: str) -> bool:
    if letter in "\n ":
        return False
    category = unicodedata.category(letter)
    return category in _HIDDEN_CATEGORIES or category == "Zs" or letter in _HIDDEN


def describe(ticket: Ticket, now: float) -> dict[str, object]:
    """Return everything the approver needs, as JSON-compatible values. Texts are exact; escape them before showing.

    Keys: ticket, workload, launcher, identity {issuer, subject, groups, purpose, token_id, claims}, target, database, user,
    operations [{verb, effects, completeness, resources, text, parameters, attributes}], rule, reason, approvers, digest,
    created_at, expires_at (unix seconds), remaining_s, flow, warnings.
    """
    identity = ticket.identity
    return {
        "ticket": ticket.ticket_id,
        "workload": ticket.workload,
        "launcher": ticket.launcher,
        "identity": {
            "issuer": identity.issuer,
            "subject": identity.subject,
            "groups": sorted(identity.groups),
            "purpose": identity.purpose,
            "token_id": identity.token_id,
            "claims": dict(identity.claims),
        },
        "target": ticket.target,
        "database": ticket.database,
        "user": ticket.user,
        "operations": [_operation(operation) for operation in ticket.operations],
        "rule": ticket.rule,
        "reason": ticket.reason,
        "approvers": ticket.approvers,
        "digest": ticket.digest,
        "created_at": ticket.created_at,
        "expires_at": ticket.expires_at,
        "remaining_s": max(0, round(ticket.expires_at - now)),
        "flow": ticket.flow_id,
        "warnings": _warnings(ticket),
    }


def _operation(operation: Operation) -> dict[str, object]:
    return {
        "verb": operation.verb,
        "effects": sorted(effect.value for effect in operation.judged_effects),
        "completeness": operation.completeness.value,
        "resources": [f"{item.kind} {item.name} ({item.access.value})" for item in operation.resources],
        "text": operation.text,
        "parameters": [_parameter(value) for value in operation.parameters],
        "attributes": dict(operation.attributes),
    }


def _parameter(value: str | bytes | None) -> object:
    """A value as JSON: text as it is, NULL as null, bytes that could not be decoded as ``{"hex": …}``."""
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _warnings(ticket: Ticket) -> list[str]:
    """What a reader of the text should know and could miss."""
    texts = [operation.text for operation in ticket.operations]
    texts += [value for operation in ticket.operations for value in operation.parameters if isinstance(value, str)]
    found = []
    if any(operation.completeness is not Completeness.FULL for operation in ticket.operations):
        found.append("not everything in it was understood: it may do more than is listed")
    if any(_is_hidden(letter) for text in texts for letter in text):
        found.append("it holds invisible or control characters, shown by their numbers in brackets")
    if any(not operation.text.isascii() for operation in ticket.operations):
        found.append("it holds letters outside ASCII, some of which look like others")
    if any(isinstance(value, bytes) for operation in ticket.operations for value in operation.parameters):
        found.append("it holds binary values that are shown as hexadecimal bytes only")
    return found


def render(ticket: Ticket, now: float) -> str:
    """Return the ticket as text for a terminal."""
    return render_description(describe(ticket, now))


def render_description(description: Mapping[str, object]) -> str:
    """Return what ``describe`` said as text for a terminal; every value is made visible first."""
    identity = _mapping(description.get("identity"))
    lines = [
        f"Ticket      {_line(description, 'ticket')}   ({_remaining(description)})",
        f"Workload    {_line(description, 'workload')}, launched by {_line(description, 'launcher') or 'unknown'}",
        f"Identity    {_line(identity, 'subject')}  (issuer {_line(identity, 'issuer')})",
    ]
    groups = ", ".join(_one_line(group) for group in _sequence(identity.get("groups")))
    if groups:
        lines.append(f"Groups      {groups}")
    if identity.get("purpose"):
        lines.append(f"Purpose     {_line(identity, 'purpose')}")
    where = _line(description, "target")
    for label, key in (("database", "database"), ("as", "user")):
        where += f", {label} {_line(description, key)}" if description.get(key) else ""  # HTTP has neither
    lines += [
        f"Target      {where}",
        f"Held by     rule {_line(description, 'rule')}: {_line(description, 'reason')}",
        f"Approvers   group {_line(description, 'approvers')}",
    ]
    operations = _sequence(description.get("operations"))
    for number, operation in enumerate(operations, 1):
        title = "Statement" if len(operations) == 1 else f"Statement {number} of {len(operations)}"
        lines += _render_operation(title, _mapping(operation))
    lines += [f"Warning     {_one_line(warning)}" for warning in _sequence(description.get("warnings"))]
    lines.append(f"Digest      {_line(description, 'digest')}")
    return "\n".join(lines)


def _render_operation(title: str, operation: Mapping[str, object]) -> list[str]:
    effects = ", ".join(_one_line(effect) for effect in _sequence(operation.get("effects")))
    complete = operation.get("completeness") == Completeness.FULL.value
    lines = [title, *_barred(visible_text(str(operation.get("text", ""))).split("\n"))]
    for number, value in enumerate(_sequence(operation.get("parameters")), 1):
        first, *others = _value(value).split("\n")
        lines += [f"    ${number} = {first}", *_barred(others)]
    lines.append(f"Effects     {effects if complete else 'not fully understood, so every effect is possible'}")
    resources = ", ".join(_one_line(resource) for resource in _sequence(operation.get("resources")))
    if resources:
        lines.append(f"Touches     {resources}")
    settings = _mapping(operation.get("attributes")).get("settings")
    if settings:
        lines.append(f"Set before  {_one_line(settings)}")
    return lines


def _barred(lines: Sequence[str]) -> list[str]:
    """Set lines of workload text off from ours; many empty ones, which would scroll the rest away, are shown as a count."""
    shown: list[str] = []
    for empty, run in itertools.groupby(lines, key=lambda line: not line.strip()):
        group = list(run)
        if empty and len(group) > _EMPTY_LINES:
            group = [f"{_OPEN}{len(group)} empty lines{_CLOSE}"]
        shown += [f"    | {line}" for line in group]
    return shown


def _value(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + visible_text(value.replace("'", "''")) + "'"
    digits = str(_mapping(value).get("hex", ""))
    return f"{len(digits) // 2} bytes: {visible_text(digits)}"


def _remaining(description: Mapping[str, object]) -> str:
    remaining = description.get("remaining_s")
    if not isinstance(remaining, int | float) or remaining <= 0:
        return "expired"
    minutes, seconds = divmod(int(remaining), 60)
    return f"{minutes} min {seconds} s left" if minutes else f"{seconds} s left"


def _line(mapping: Mapping[str, object], key: str) -> str:
    return _one_line(mapping.get(key, ""))


def _one_line(value: object) -> str:
    return visible_text(str(value)).replace("\n", f"{_OPEN}U+000A{_CLOSE}")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
