"""The SQL worker: answers questions, and can do nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.recording.query import Limits, QueryError, ask
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store


@pytest.fixture
def evidence(journal: Path) -> Iterator[Path]:
    """An evidence folder that the worker's unprivileged user can read (pytest's own folders are root's alone)."""
    folder = Path(tempfile.mkdtemp(prefix="hostagent-query-"))
    with Store(folder) as store:
        Recorder(journal, store, seal_rows=5).drain()
        store.publish()
    folder.chmod(0o755)
    for path in [folder / "sessions.duckdb", *folder.glob("sealed/**/*"), folder / "sealed"]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def database(evidence: Path) -> Path:
    return evidence / "sessions.duckdb"


def test_a_question_over_sealed_files_is_answered(database: Path) -> None:
    result = ask(database, "select session, subject, opened from sessions order by session")
    assert (result.columns, result.types) == (["session", "subject", "opened"], ["VARCHAR", "VARCHAR", "TIMESTAMP"])
    assert [row[:2] for row in result.rows] == [["f1", "billing-bot"], ["f2", "billing-bot"]]


def test_a_question_that_takes_longer_than_two_seconds_is_answered(database: Path) -> None:
    """By then DuckDB draws a bar on standard output, if it takes its caller for a person."""
    question = "select count(*) from range(3000000) a, range(400) b where (a.range * b.range) % 7 = 3"
    result = ask(database, question, Limits(timeout_s=120))
    assert (len(result.rows), result.truncated) == (1, False)


@pytest.mark.parametrize(
    "sql",
    [
        "from sessions",
        "describe statements",
        "show tables",
        "summarize responses",
        "with a as (from dns) from a",
        "values (1)",
        "select 1 -- x\n;",
    ],
)
def test_every_form_of_select_is_allowed(database: Path, sql: str) -> None:
    assert ask(database, sql).rows


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "select 1; select 2",
        "copy sessions to '/tmp/hostagent-stolen.csv'",
        "copy sessions to '{sealed}/stolen.csv'",
        "copy (select 1) to '/dev/stdout'",
        "attach '/tmp/hostagent-stolen.duckdb' as x",
        "attach ':memory:' as x",
        "detach sessions",
        "install httpfs",
        "load httpfs",
        "load '/tmp/x.duckdb_extension'",
        "pragma database_list",
        "pragma enable_external_access",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "reset lock_configuration",
        "set memory_limit = '99GB'",
        "call pragma_version()",
        "create table x (a int)",
        "create temp table x as select 1",
        "insert into live.event select * from live.event",
        "delete from live.tamper",
        "update live.reading set seq = 0",
        "drop view sessions",
        "with a as (insert into live.tamper values ('w', 1, 1, 1, 'x', 'y') returning *) select * from a",
        "explain analyze copy sessions to '/tmp/hostagent-stolen.csv'",
        "export database '/tmp/hostagent-stolen'",
        "import database '/tmp'",
        "checkpoint",
        "prepare p as select 1",
        "begin",
        "use memory",
        "select * from read_text('/etc/passwd')",
        "select * from read_blob('/etc/shadow')",
        "select * from read_csv('/etc/passwd')",
        "select * from read_json('/etc/passwd')",
        "select * from read_parquet('/etc/passwd')",
        "select * from read_text('{sealed}/../witness.json')",
        "select * from read_text('{sealed}/../../../etc/passwd')",
        "select * from glob('/etc/*')",
        "select * from '/etc/passwd'",
        "select * from '{evidence}/witness.json'",
        "select * from 'https://example.com/x.parquet'",
        "select * from read_parquet('https://example.com/x.parquet')",
        "select * from sniff_csv('/etc/passwd')",
        "select * from parquet_metadata('/etc/passwd')",
        "select * from query('copy sessions to ''/tmp/hostagent-stolen.csv''')",
        "select * from query('select * from read_text(''/etc/passwd'')')",
        "select getenv('HOME')",
        "select * from request",
        "select * from sys",
        "select write_log('x') from nothing_here",
        "select * from which_secret('s3://x', 's3')",
        "not sql at all",
    ],
)
def test_everything_else_is_refused(database: Path, evidence: Path, sql: str) -> None:
    with pytest.raises(QueryError):
        ask(database, sql.format(sealed=evidence / "sealed", evidence=evidence))
    assert not list(Path("/tmp").glob("hostagent-stolen*"))
    assert not list(evidence.rglob("stolen*"))


def test_a_runaway_question_is_stopped(database: Path) -> None:
    with pytest.raises(QueryError, match="longer than 1 s"):
        ask(database, "select count(*) from range(1000000000000)", Limits(timeout_s=1.0))


def test_a_question_over_its_memory_is_stopped(database: Path) -> None:
    with pytest.raises(QueryError, match=r"(?i)memory"):
        ask(database, "select list(range) from range(100000000)", Limits(memory="64MB"))


def test_more_rows_than_the_limit_are_cut_and_said_so(database: Path) -> None:
    result = ask(database, "select * from range(2000)", Limits(max_rows=700))
    assert (len(result.rows), result.truncated) == (700, True)
    assert not ask(database, "select * from range(700)", Limits(max_rows=700)).truncated


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("select timestamptz '2026-01-02 03:04:05+00' as t", "2026-01-02 03:04:05+00"),
        ("select 'nan'::double", "nan"),
        ("select '\\xFF'::blob", "ff"),
        ("select 1.10::decimal(5,2)", "1.10"),
        ("select map {'a': [1, null]}", {"a": [1, None]}),
    ],
)
def test_values_of_every_type_come_as_json(database: Path, sql: str, value: object) -> None:
    assert ask(database, sql).rows == [[value]]


@pytest.mark.root
def test_the_worker_is_nobody_in_particular_and_has_no_network(database: Path) -> None:
    """Looked at from outside while it works."""
    import subprocess
    import threading

    seen: list[dict[str, str]] = []
    networks: list[str] = []

    def look() -> None:
        for _ in range(200):
            listed = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "hostagent.recording.worker"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.split()
            for pid in listed:
                try:
                    status = dict(
                        line.split(":\t", 1)
                        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                        if ":\t" in line
                    )
                    if status["NoNewPrivs"] == "1" and not status["Uid"].startswith("0\t"):
                        networks.append(os.readlink(f"/proc/{pid}/ns/net"))
                        seen.append(status)
                        return
                except (FileNotFoundError, ProcessLookupError):
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(QueryError):
        ask(database, "select count(*) from range(1000000000000)", Limits(timeout_s=3.0))
    thread.join()
    assert [(set(status["Uid"].split()) & {"0"}, status["CapEff"], status["CapPrm"]) for status in seen] == [
        (set(), "0" * 16, "0" * 16)
    ]
    assert networks != [os.readlink("/proc/self/ns/net")]


def test_a_missing_database_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="is the service running"):
        ask(tmp_path / "none.duckdb", "select 1")
