"""``hostagent sql`` and ``hostagent sessions``: readable, scriptable, and never a control sequence from a workload."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hostagent.cli.sessions import sessions
from hostagent.cli.sql import sql_command
from hostagent.cli.terminal import printable, table
from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store

AT = 1_790_000_000_000_000_000
EVIL = "drop table x -- \x1b]0;owned\x07\x1b[2J\u202e\x9b"

CHAIN = [
    {"pid": 9, "start_ns": 90, "exe": "/usr/bin/driver", "argv": ["driver"], "uid": 7, "comm": "driver"},
    {"pid": 8, "start_ns": 80, "exe": "/bin/bash", "argv": ["bash", "-c", "<9 characters>"], "uid": 7, "comm": "bash"},
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="hostagent-cli-"))
    with JournalFile(folder / "journal" / "w", "w", host="h") as journal:
        journal.append(
            [
                Event(EventKind.CONNECTION, AT, "f1", "bot", {"target": "shop", "outcome": "accepted", "subject": "billing", "issuer": "local", "destination": "192.0.2.1:5432"}),
                Event(EventKind.STATEMENT, AT + 1_000_000, "f1", "bot", {"statement": "f1.1", "text": EVIL, "decision": "deny", "rules": [], "reason": "nothing allows it"}),
                Event(EventKind.RESULT, AT + 2_000_000, "f1", "bot", {"statement": "f1.1", "outcome": "denied", "sqlstate": "42501"}),
                Event(EventKind.CONNECTION, AT + 3_000_000, "f10", "bot", {"target": "shop", "outcome": "denied", "subject": "billing"}),
                Event(EventKind.CONNECTION, AT + 4_000_000, "f22", "bot", {"target": "shop", "outcome": "denied", "subject": "billing", "leaf": "l", "peer": "10.0.0.1:4", "destination": "192.0.2.1:5432"}),
                Event(EventKind.KERNEL_FLOW, AT + 3_900_000, "", "bot", {"leaf": "l", "source": "10.0.0.1:4", "destination": "192.0.2.1:5432", "pid": 9, "attribution": "process", "lineage": CHAIN}),
            ]
        )  # fmt: skip
    with Store(folder / "evidence") as store:
        Recorder(folder / "journal", store).drain()
        store.publish()
    for path in (folder, folder / "evidence", folder / "evidence" / "sealed"):
        path.chmod(0o755)
    published = folder / "evidence" / "sessions.duckdb"
    published.chmod(0o644)
    yield str(published)
    shutil.rmtree(folder)


def sql(database: str, *arguments: str) -> Result:
    return CliRunner().invoke(sql_command, [*arguments, "--database", database])


def test_a_table_is_aligned_and_counts_its_rows(database: str) -> None:
    done = sql(database, "select session, statements from sessions order by 1")
    assert (done.exit_code, done.output) == (
        0,
        "session  statements\n-------  ----------\nf1                1\nf10               0\nf22               0\n(3 rows)\n",
    )


def test_json_and_csv_are_exact(database: str) -> None:
    question = "select statement, text, rules from statements"
    assert json.loads(sql(database, question, "--json").output) == [{"statement": "f1.1", "text": EVIL, "rules": []}]
    assert list(csv.reader(io.StringIO(sql(database, question, "--csv").output))) == [
        ["statement", "text", "rules"],
        ["f1.1", EVIL, "[]"],
    ]


@pytest.mark.parametrize("arguments", [["show", "f1"], ["show", "f1", "--json"], ["list"]])
def test_no_control_sequence_reaches_the_terminal(database: str, arguments: list[str]) -> None:
    done = CliRunner().invoke(sessions, [*arguments, "--database", database])
    shown = sql(database, "from statements").output + done.output
    assert not [
        char for char in shown if char != "\n" and (ord(char) < 32 or 127 <= ord(char) < 160 or char == "\u202e")
    ]


def test_a_session_is_told_as_a_story(database: str) -> None:
    done = CliRunner().invoke(sessions, ["show", "f1", "--database", database])
    assert done.exit_code == 0
    assert "billing (local)" in done.output
    assert "deny" in done.output
    assert "drop table x -- \\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b" in done.output
    assert "[rules: default]" in done.output
    assert "nothing allows it" in done.output


def test_a_session_shows_the_programs_that_led_to_it(database: str) -> None:
    done = CliRunner().invoke(sessions, ["show", "f22", "--database", database])
    assert [line.strip() for line in done.output.splitlines() if " pid " in line] == [
        "process  /usr/bin/driver pid 9 uid 7: driver",
        "started by  /bin/bash pid 8 uid 7: bash -c <9 characters>",
    ]


def test_a_session_can_be_named_by_the_beginning_of_its_id(database: str) -> None:
    done = CliRunner().invoke(sessions, ["show", "f2", "--json", "--database", database])
    assert json.loads(done.output)["session"]["session"] == "f22"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("f", "more than one session begins with f"), ("nope", "no session nope"), ("' or true --", "no session")],
)
def test_an_unclear_name_is_an_error(database: str, name: str, complaint: str) -> None:
    done = CliRunner().invoke(sessions, ["show", name, "--database", database])
    assert (done.exit_code, complaint in done.output) == (1, True)


def test_a_refused_question_is_one_line(database: str) -> None:
    done = CliRunner().invoke(sql_command, ["drop view sessions", "--database", database], standalone_mode=False)
    assert str(done.exception) == "only SELECT is allowed; this is DROP"


def test_printable_keeps_text_and_escapes_the_rest() -> None:
    assert printable("naïve 日本 \x1b[31m\u200b\x00") == "naïve 日本 \\x1b[31m\\u200b\\x00"


def test_long_cells_are_cut_and_numbers_stand_right() -> None:
    assert table(["a", "b"], [["x" * 500, 7], ["y", None]]).splitlines()[2] == "x" * 119 + "…  7"
