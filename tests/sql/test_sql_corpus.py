"""The corpus: what every numbered statement means, and whether a real server agrees."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from psycopg import pq

from hostagent.model.operation import ALL_EFFECTS, Completeness, Effect
from hostagent.sql import Statement, analyse

_CORPUS = Path(__file__).parent.parent / "corpus" / "sql_postgresql.tsv"
_READ_ONLY = "25006"
_CHANGES_NOTHING = frozenset({Effect.READ, Effect.SESSION, Effect.TRANSACTION, Effect.EXPORT, Effect.NOTIFY})
# Refused in a read-only transaction though they change no row: locking rows writes their headers.
_LOCKS = frozenset({Effect.LOCK})


class Row(NamedTuple):
    number: int
    expected: str
    sql: str


def _rows() -> list[Row]:
    rows = []
    for line in _CORPUS.read_text().splitlines():
        if not line.startswith("#"):
            number, expected, sql = line.split("\t")
            rows.append(Row(int(number), expected, sql.replace("\\n", "\n")))
    return rows


ROWS = _rows()


def _described(statement: Statement) -> str:
    effects = "*" if statement.effects == ALL_EFFECTS else ",".join(sorted(statement.effects))
    return f"{statement.completeness} {effects}"


def test_corpus_is_numbered_without_gaps_and_large() -> None:
    assert [row.number for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 350


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}")
def test_statement_means_what_the_corpus_says(row: Row) -> None:
    found = ";".join(map(_described, analyse(row.sql).statements))
    assert (found or "none") == row.expected, row.sql


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number}")
def test_meaning_is_deterministic(row: Row) -> None:
    assert analyse(row.sql) == analyse(row.sql)


@pytest.mark.parametrize("wrap", ["prepare w as {}", "declare w cursor for {}", "copy ({}) to stdout"])
def test_a_wrapped_statement_has_every_effect_of_the_statement(wrap: str) -> None:
    checked = 0
    for row in ROWS:
        bare = analyse(row.sql).statements
        wrapped = analyse(wrap.format(row.sql))
        if len(bare) == 1 and not wrapped.error and bare[0].completeness is Completeness.FULL:
            (statement,) = wrapped.statements
            assert bare[0].effects - {Effect.READ} <= statement.effects, row.sql
            assert statement.inner is not None
            checked += 1
    assert checked >= 40


def _sqlstate_when_read_only(conninfo: str, sql: str) -> str | None:
    """Return how the server ends ``sql`` inside a read-only transaction: an SQLSTATE, or None for success."""
    connection = pq.PGconn.connect(conninfo.encode())
    try:
        assert connection.status == pq.ConnStatus.OK, connection.error_message
        connection.exec_(b"set statement_timeout = '5s'")
        connection.exec_(b"begin read only")
        connection.send_query(sql.encode())
        state: str | None = None
        while (result := connection.get_result()) is not None:
            code = result.error_field(pq.DiagnosticField.SQLSTATE)
            state = code.decode() if code and state is None else state
            if result.status == pq.ExecStatus.COPY_IN:
                connection.put_copy_end(b"no data")
            elif result.status == pq.ExecStatus.COPY_OUT:
                while connection.get_copy_data(0)[0] > 0:
                    pass
        return state
    finally:
        connection.finish()


def _leaves_the_transaction(statements: tuple[Statement, ...]) -> bool:
    return any(s.verb in ("commit", "rollback", "set transaction", "begin") for s in statements)


def test_real_server_and_corpus_agree_on_what_writes(server: str) -> None:
    """What is judged to change nothing is never refused as a write; what is refused as a write was judged one."""
    succeeded = refused = 0
    for row in ROWS:
        statements = analyse(row.sql).statements
        if _leaves_the_transaction(statements) or any(Effect.HOST in s.effects for s in statements):
            continue
        state = _sqlstate_when_read_only(server, row.sql)
        succeeded += state is None
        harmless = all(s.completeness is Completeness.FULL and s.effects <= _CHANGES_NOTHING for s in statements)
        if state == _READ_ONLY:
            refused += 1
            understood_as_write = any(
                s.completeness is not Completeness.FULL or s.effects - _CHANGES_NOTHING for s in statements
            )
            assert understood_as_write, row
        if harmless:
            assert state != _READ_ONLY, row
    assert succeeded >= 80
    assert refused >= 100


def test_oracle_can_tell_a_misjudgement(server: str) -> None:
    assert _sqlstate_when_read_only(server, "delete from t") == _READ_ONLY
    assert _sqlstate_when_read_only(server, "select 1") is None
