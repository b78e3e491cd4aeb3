"""Texts beside the rows: errors, notices, names, settings, notifications."""

from __future__ import annotations

from collections.abc import Mapping

from hostagent.mask.content import LARGE, TEXT, ContentMask, Counts
from hostagent.mask.detectors import DETECTORS, scanner
from hostagent.mask.transform import MASKED, content_transform

_KEPT_FIELDS = frozenset("SVCPpFLRstcdn")
"""ErrorResponse and NoticeResponse fields that hold no data (PostgreSQL 17 §53.8): severity, code, positions, source,
names of schema, table, column, type and constraint. M, D, H, W and q can quote values.
"""

_MEANINGS: Mapping[str, str] = {
    "22P02": "a value cannot be converted to the type asked for",
    "22003": "a number is out of range",
    "22012": "division by zero",
    "22001": "a value is too long for its type",
    "22007": "a value is not a date or time",
    "23502": "a value is missing where one is required",
    "23503": "a referenced row is missing, or a row is still referenced",
    "23505": "a row with the same key exists already",
    "23514": "a check constraint is violated",
    "40001": "could not serialize access; try again",
    "40P01": "deadlock; try again",
    "42601": "syntax error",
    "42501": "permission denied",
    "42703": "no such column",
    "42P01": "no such relation",
    "42883": "no such function or operator",
    "25P02": "the transaction is aborted; ROLLBACK first",
    "57014": "canceled",
}


def generic_message(fields: Mapping[str, str]) -> dict[str, str]:
    """Return error or notice fields without any text that could quote a masked value."""
    kept = {code: value for code, value in fields.items() if code in _KEPT_FIELDS}
    state = fields.get("C", "")
    meaning = _MEANINGS.get(state)
    said = f"{meaning} (SQLSTATE {state})" if meaning else f"SQLSTATE {state}"
    kept["M"] = f"{said}; hostagent left out the server's text because the statement touches masked data"
    return kept


def masked_message(fields: Mapping[str, str], content: ContentMask | None, counts: Counts) -> dict[str, str]:
    """Return error or notice fields with every detected value replaced."""
    return {code: masked_text(value, content, counts) for code, value in fields.items()}


def masked_text(value: str, content: ContentMask | None, counts: Counts) -> str:
    """Return ``value`` with every detected value replaced."""
    if content is None:
        return value
    raw = value.encode("utf-8", "surrogateescape")
    with content.limited(len(raw), LARGE):
        replaced = content.large(raw, TEXT, counts)
    if replaced is raw:
        return value
    return (MASKED if replaced is None else replaced).decode("utf-8", "surrogateescape")


_EVERYTHING = ContentMask(scanner(DETECTORS), {name: content_transform("redact", name, b"") for name in DETECTORS})


def scrub(value: str) -> str:
    """Return ``value`` with every match of every detector replaced: for evidence, whatever policy says."""
    return masked_text(value, _EVERYTHING, Counts())
