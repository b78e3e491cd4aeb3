"""The published database in the DuckDB command line, another program with another DuckDB, while the service writes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store
from tests.recording.test_recording_views import open_published, view_names

DUCKDB = Path(sys.prefix) / "bin/duckdb"
_ROUNDS = 8


def ask(database: Path, question: str) -> str:
    assert DUCKDB.exists(), "the DuckDB command line is missing: make setup (never skipped)"
    command = [str(DUCKDB), "-readonly", "-csv", "-noheader", str(database), question]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_command_line_reads_while_the_service_writes(tmp_path: Path) -> None:
    done = threading.Event()
    turns = threading.Semaphore(0)

    def service() -> None:
        with (
            JournalFile(tmp_path / "journal" / "w", "w", host="h") as journal,
            Store(tmp_path / "evidence") as store,
        ):
            recorder = Recorder(tmp_path / "journal", store, interval=0.0, seal_rows=500)
            number = 0
            while not done.is_set():
                number += 1
                journal.append([Event(EventKind.DNS, number, "", "bot", {"name": "db", "type": "A", "outcome": "answered"})])
                recorder.turn(float(number))
                turns.release()

    thread = threading.Thread(target=service)
    thread.start()
    try:
        counts = []
        for _ in range(_ROUNDS):
            for _ in range(2):
                assert turns.acquire(timeout=60)
            counts.append(int(ask(tmp_path / "evidence" / "sessions.duckdb", "select count(*) from dns")))
    finally:
        done.set()
        thread.join()
    assert counts == sorted(counts)
    assert counts[0] > 0
    assert counts[-1] >= 2 * _ROUNDS - 1


@pytest.mark.parametrize("seal", [False, True])
def test_every_view_answers_in_the_command_line(journal: Path, record: Callable[..., Store], seal: bool) -> None:
    store = record(journal, seal=seal)
    with open_published(store) as connection:
        names = view_names(connection)
        counts = [connection.execute(f"select count(*) from {name}").fetchall()[0][0] for name in names]
    question = " union all ".join(f"select {place}, count(*) from {name}" for place, name in enumerate(names))
    assert ask(store.published, f"{question} order by 1").splitlines() == [f"{place},{count}" for place, count in enumerate(counts)]
