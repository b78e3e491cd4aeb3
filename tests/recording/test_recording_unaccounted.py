"""What must never happen shows as a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.store import Store

ASKED = {"statement": "f.1", "text": "select 1", "decision": "allow", "rules": ["r"], "ticket": ""}
DONE = {"statement": "f.1", "outcome": "ok"}


@pytest.mark.parametrize(
    ("events", "problems"),
    [
        ([(EventKind.STATEMENT, ASKED), (EventKind.RESULT, DONE)], []),
        ([(EventKind.STATEMENT, {**ASKED, "decision": "deny", "rules": []})], []),
        ([(EventKind.STATEMENT, {**ASKED, "rules": []})], ["statement without rule or approval"]),
        ([(EventKind.STATEMENT, {"statement": "f.1"})], ["statement without rule or approval"]),
        ([(EventKind.RESULT, DONE)], ["result without statement"]),
        (
            [(EventKind.STATEMENT, {**ASKED, "decision": "hold", "ticket": "T"}), (EventKind.RESULT, DONE)],
            ["held statement ran without approval"],
        ),
        (
            [
                (EventKind.STATEMENT, {**ASKED, "decision": "hold", "ticket": "T"}),
                (EventKind.ANSWER, {"ticket": "T", "granted": False, "by": "alice"}),
                (EventKind.RESULT, DONE),
            ],
            ["held statement ran without approval"],
        ),
        ([(EventKind.CONNECTION, {"outcome": "accepted"})], ["session without identity"]),
    ],
)
def test_actions_without_rule_or_approval_are_listed(
    tmp_path: Path, record: Callable[..., Store], events: list[tuple[EventKind, dict[str, object]]], problems: list[str]
) -> None:
    with JournalFile(tmp_path / "j" / "w", "w", host="h") as journal:
        journal.append([Event(kind, 1, "f", "bot", fields) for kind, fields in events])
    with duckdb.connect(str(record(tmp_path / "j").published), read_only=True) as connection:
        assert [row[0] for row in connection.execute("select problem from unaccounted").fetchall()] == problems


def test_a_session_whose_proxy_restarted_is_lost_and_not_open(tmp_path: Path, record: Callable[..., Store]) -> None:
    started = {"component": "proxyd", "change": "started"}
    with JournalFile(tmp_path / "j" / "w", "w", host="h") as journal:
        journal.append([Event(EventKind.CONNECTION, 1, "f1", "bot", {"outcome": "accepted"})])
        journal.append([Event(EventKind.SERVICE, 2, "", "", started)])
        journal.append([Event(EventKind.CONNECTION, 3, "f2", "bot", {"outcome": "accepted"})])
    with duckdb.connect(str(record(tmp_path / "j").published), read_only=True) as connection:
        assert connection.execute("select session, outcome from sessions order by 1").fetchall() == [
            ("f1", "lost"),
            ("f2", "open"),
        ]
