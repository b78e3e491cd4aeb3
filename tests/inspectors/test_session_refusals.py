"""What of a server's error is kept in records: names, never the statement's own literals."""

from __future__ import annotations

import pytest

from hostagent.inspectors.postgres.refusals import recordable


@pytest.mark.parametrize(
    ("code", "message", "kept"),
    [
        ("22P02", 'invalid input syntax for type integer: "Ada Byron"', 'invalid input syntax for type integer: "…"'),
        ("22007", 'invalid input syntax for type date: "a ""b"" c" now', 'invalid input syntax for type date: "…" now'),
        ("42601", """syntax error at or near "'secret'\"""", 'syntax error at or near "…"'),
        ("42P01", 'relation "customers" does not exist', 'relation "customers" does not exist'),
        ("23505", 'duplicate key value violates unique constraint "c_pkey"', 'duplicate key value violates unique constraint "c_pkey"'),
        ("P0001", "the secret is 42", "[raised by server-side code]"),
        ("XX000", 'could not read "anything"', 'could not read "…"'),
        ("22012", "division by zero", "division by zero"),
    ],
)
def test_a_recorded_error_keeps_names_and_loses_literals(code: str, message: str, kept: str) -> None:
    assert recordable({"C": code, "M": message}) == kept
