"""The views: one SQL away from who, which process, which statement, which rule, which approver, what came back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from hostagent.recording.store import Store

README = Path("hostagent/recording/README.md")
Record = Callable[..., Store]


def open_published(store: Store) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(store.published), read_only=True)


def view_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute(
        "select view_name from duckdb_views() where not internal and schema_name = 'main' order by 1"
    ).fetchall()
    return [row[0] for row in rows]


def columns(connection: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    return [row[0] for row in connection.execute(f"describe {view}").fetchall()]


def content(store: Store) -> dict[str, list[str]]:
    """Return every view's rows, as sorted text."""
    with open_published(store) as connection:
        return {
            view: sorted(map(str, connection.execute(f"from {view}").fetchall())) for view in view_names(connection)
        }


def test_every_view_and_column_is_described_in_the_readme(journal: Path, record: Record) -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", README.read_text(), re.MULTILINE | re.DOTALL))
    described = {
        name: set(
            re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `")))
        )
        for name, text in sections.items()
    }
    with open_published(record(journal)) as connection:
        actual = {view: set(columns(connection, view)) for view in view_names(connection)}
    assert described == actual


@pytest.mark.parametrize("seal", [False, True])
def test_the_whole_story_is_one_question_away(journal: Path, record: Record, seal: bool) -> None:
    with open_published(record(journal, seal=seal)) as connection:
        rows = connection.execute(
            "select subject, pid, exe, target, text, decision, rules, approver, outcome, rows, masked_values, detections from statements order by seq"
        ).fetchall()
    read = "select email from customers where id = $1"
    who = ("billing-bot", 43, "/bin/x", "shop")
    assert rows == [
        (*who, read, "allow", ["read-customers", "mask-mail"], None, "ok", 1, 1, {"email": 1}),
        (*who, "drop table customers", "deny", [], None, "denied", 0, 1, {"email": 1}),
        (*who, "delete from orders", "hold", ["ask"], "alice", "ok", 9, 0, {"email": 1}),
    ]


def test_sessions_count_and_end_as_they_did(journal: Path, record: Record) -> None:
    with open_published(record(journal)) as connection:
        rows = connection.execute(
            'select session, subject, "groups", "database", upstream_user, outcome, reason, statements, denied, held, bytes_down from sessions order by session'
        ).fetchall()
    assert rows == [
        ("f1", "billing-bot", ["agents"], "shop", "app", "closed", "client left", 3, 1, 1, 200),
        ("f2", "billing-bot", ["agents"], None, None, "denied", "no target", 0, 0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("select ticket, subject, text, rule, approvers, granted, approver, waited_us from approvals", [("T1", "billing-bot", "delete from orders", "ask", "dba", True, "alice", 1000)]),
        ("select level, session, statement, reason from denials order by level", [("connection", "f2", None, "no target"), ("statement", "f1", "f1.2", "nothing allows it")]),
        ("select layer, destination, count from refusals order by layer", [("dns", "evil.example", 1), ("nft", "203.0.113.9:53", 3), ("proxy", "203.0.113.9:80", 1)]),
        ("select name, outcome, answers from dns order by seq", [("db.example", "answered", ["192.0.2.1"]), ("evil.example", "refused", [])]),
        ("select change, subject from identities order by seq", [("admitted", "billing-bot"), ("revoked", "billing-bot")]),
        ("select launcher, placement, claims, expires::varchar from admissions", [("root", "isolated", '{"a":1}', "2030-03-17 17:46:40")]),
        ("select pid, exe, argv, uid, degraded, status from processes", [(42, "/bin/x", ["x", "y"], 64000, False, -9)]),
        ("select outcome, policy, documents from policies", [("loaded", "p1", ["a.yaml"])]),
        ("select component, change, version from service", [("proxyd", "started", "0.1.0")]),
        ("select source, reason, count from gaps", [("stated", "disk full: events refused", 2)]),
        ('select statement, position, name, "table", masked from response_columns', [("f1.1", 1, "email", "customers", True)]),
        ("select statement, column_count, masked_columns from responses order by seq", [("f1.1", 1, 1), ("f1.2", 0, 0), ("f1.3", 0, 0)]),
        ("select distinct kind, name, access from touched", [("relation", "customers", "read")]),
        ("select kind, what from timeline where session = 'f1' and kind in ('login', 'answer') order by seq", [("login", "ok shop as app"), ("answer", "approved by alice ok")]),
        ("select subject, exe, target, direction, name, size, declared_size, sha256, masked, outcome, rules from transfers", [("billing-bot", "/bin/x", "shop", "download", "public.orders", 5, None, "ab", False, "finished", ["ask"])]),
        ("select what from timeline where kind = 'transfer'", [("finished download public.orders 5 bytes",)]),
        ("select count(*) from events", [(25,)]),
        ("from tamper", []),
        ("from unaccounted", []),
    ],
)  # fmt: skip
def test_each_view_answers(journal: Path, record: Record, question: str, expected: list[object]) -> None:
    with open_published(record(journal, seal=True)) as connection:
        assert connection.execute(question).fetchall() == expected


def test_sealed_and_live_rows_read_the_same(journal: Path, record: Record) -> None:
    live, sealed = record(journal, "a"), record(journal, "b", seal=True)
    assert len(list(sealed.sealed.rglob("*.parquet"))) > 5
    assert content(live) == content(sealed)
