"""The recorder: nothing twice, nothing lost, tampering seen, readers never disturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from hostagent.daemon.journalfile import JournalFile
from hostagent.daemon.recorderd import run
from hostagent.model.event import Event, EventKind
from hostagent.recording.reader import JournalReader, Reading
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import RecordingError, Store

Record = Callable[..., Store]

_RECORDERD = """
import sys, threading
from pathlib import Path
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store
store = Store(Path(sys.argv[2]))
recorder = Recorder(Path(sys.argv[1]), store, interval=0.0, seal_rows=700)
now = 0.0
while True:
    recorder.turn(now)
    now += 1.0
    print("turn", flush=True)
"""


def event(number: int) -> Event:
    kind = EventKind.STATEMENT if number % 2 else EventKind.DNS
    return Event(kind, 1_000 * number, "f1", "bot", {"statement": f"f1.{number}", "name": "x" * (number % 90)})


def rows(folder: Path) -> list[tuple[str, int]]:
    with duckdb.connect(str(folder / "sessions.duckdb"), read_only=True) as connection:
        return [
            (row[0], row[1]) for row in connection.execute("select writer, seq from events order by 1, 2").fetchall()
        ]


def write(folder: Path, numbers: range) -> None:
    with JournalFile(folder, folder.name, host="h") as journal:
        for number in numbers:
            journal.append([event(number)])


def test_rows_appear_after_a_turn_and_are_published_at_most_once_an_interval(tmp_path: Path) -> None:
    with Store(tmp_path / "e") as store, JournalFile(tmp_path / "j" / "w", "w", host="h") as journal:
        recorder = Recorder(tmp_path / "j", store, interval=1.0)
        assert recorder.turn(0.0) == (0, True, False)
        journal.append([event(1)])
        assert recorder.turn(0.5) == (0, False, False)
        assert recorder.turn(1.0) == (1, True, False)
        assert recorder.turn(9.0) == (0, False, False)
        assert rows(tmp_path / "e") == [("w", 1)]


def test_what_was_inserted_before_a_kill_is_published_at_the_next_start(tmp_path: Path) -> None:
    write(tmp_path / "j" / "w", range(3))
    with Store(tmp_path / "e") as store:
        store.publish()
        Recorder(tmp_path / "j", store).drain()
    with Store(tmp_path / "e") as store:
        assert Recorder(tmp_path / "j", store).turn(0.0) == (0, True, False)
    assert rows(tmp_path / "e") == [("w", 1), ("w", 2), ("w", 3)]


def test_all_writers_are_merged_and_new_ones_found(tmp_path: Path, record: Record) -> None:
    write(tmp_path / "j" / "proxyd-0", range(3))
    write(tmp_path / "j" / "enforcerd", range(2))
    record(tmp_path / "j")
    assert rows(tmp_path / "evidence") == [
        ("enforcerd", 1),
        ("enforcerd", 2),
        ("proxyd-0", 1),
        ("proxyd-0", 2),
        ("proxyd-0", 3),
    ]


def test_kill_9_at_random_points_neither_loses_nor_doubles_an_event(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with JournalFile(tmp_path / "j" / "w", "w", host="h", segment_bytes=60_000) as journal:
        count = 0
        for _ in range(6):
            process = subprocess.Popen(
                [sys.executable, "-c", _RECORDERD, str(tmp_path / "j"), str(tmp_path / "e")],
                stdout=subprocess.PIPE,
                env={"PYTHONPATH": str(Path.cwd())},
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"turn\n"
            for _ in range(chance.randrange(1, 25)):
                journal.append([event(number) for number in range(count, count + 100)])
                count += 100
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.stdout.close()
            process.wait()
    with Store(tmp_path / "e") as store:
        Recorder(tmp_path / "j", store).drain()
        store.publish()
    assert rows(tmp_path / "e") == [("w", number) for number in range(1, count + 1)]


def test_the_published_database_opens_100_times_while_it_is_written(tmp_path: Path) -> None:
    stop = threading.Event()
    evidence = tmp_path / "e"
    journal = JournalFile(tmp_path / "j" / "w", "w", host="h")
    journal.append([event(1)])

    def write_and_record() -> None:
        number, now = 2, 0.0
        with Store(evidence) as store:
            recorder = Recorder(tmp_path / "j", store, interval=0.0, seal_rows=3_000)
            while not stop.is_set():
                journal.append([event(number + n) for n in range(200)])
                number, now = number + 200, now + 1.0
                recorder.turn(now)
                ready.set()

    ready = threading.Event()
    thread = threading.Thread(target=write_and_record)
    thread.start()
    assert ready.wait(30)
    counts = []
    for _ in range(5):
        # Another process each time: what the plain command-line tool does.
        script = (
            "import duckdb, sys\n"
            "for _ in range(20):\n"
            "    with duckdb.connect(sys.argv[1], read_only=True) as c:\n"
            "        print(c.execute('select count(*), max(seq) from events').fetchone())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(evidence / "sessions.duckdb")],
            capture_output=True,
            text=True,
            check=True,
        )
        counts += [tuple(map(int, line.strip("()").split(","))) for line in done.stdout.splitlines()]
    stop.set()
    thread.join()
    journal.close()
    assert len(counts) == 100
    assert all(count == last for count, last in counts)
    assert [count for count, _ in counts] == sorted(count for count, _ in counts)


def test_a_second_recorder_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "e"), pytest.raises(RecordingError, match="another process"):
        Store(tmp_path / "e")


def test_an_interrupted_seal_is_removed_at_the_next_start(tmp_path: Path, record: Record) -> None:
    write(tmp_path / "j" / "w", range(10))
    store = record(tmp_path / "j", seal=True)
    known = {path.name for path in store.sealed.iterdir()}
    store.close()
    (store.sealed / "1-000099").mkdir()
    (store.sealed / "1-000099" / "event.parquet").write_bytes(b"half")
    with Store(tmp_path / "evidence"):
        assert {path.name for path in store.sealed.iterdir()} == known


def test_every_way_of_tampering_becomes_a_row_and_recording_goes_on(tmp_path: Path) -> None:
    folder, evidence = tmp_path / "j" / "w", tmp_path / "e"
    write(folder, range(10))
    file = folder / "00000001.journal"
    with Store(evidence) as store:
        recorder = Recorder(tmp_path / "j", store)
        recorder.drain()
        file.write_bytes(file.read_bytes()[:-400])
        recorder.drain()
        assert [row[:2] for row in store.execute("select kind, seq from tamper")] == [("truncated", 10)]
        write(folder, range(10, 13))
        recorder.drain()
        branches = store.execute("select writer, count(*) from events group by 1 order by 1")
    assert branches[0] == ("w", 10)
    assert branches[1][0] == "w#1"


def test_bytes_that_are_no_utf8_do_not_stop_the_recording(tmp_path: Path, record: Record) -> None:
    write(tmp_path / "j" / "w", range(3))
    file = tmp_path / "j" / "w" / "00000001.journal"
    file.write_bytes(file.read_bytes().replace(b"f1.1", b"f\xff\xfe1"))
    with record(tmp_path / "j") as store:
        assert len(store.execute("from events")) + len(store.execute("from tamper")) >= 3
        assert store.execute("select count(*) > 0 from tamper") == [(True,)]


def test_the_daemon_announces_itself_records_and_publishes_the_rest_at_its_end(tmp_path: Path) -> None:
    import os

    write(tmp_path / "j" / "w", range(5))
    reader, writer = os.pipe()
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(tmp_path / "j", tmp_path / "e", stop, writer))
    thread.start()
    assert os.read(reader, 10) == b"ready\n"
    os.close(reader)
    write(tmp_path / "j" / "w", range(5, 8))
    stop.set()
    thread.join()
    assert rows(tmp_path / "e") == [("w", number) for number in range(1, 9)]


def test_the_manifest_names_every_file_and_how_far_each_journal_was_read(tmp_path: Path, record: Record) -> None:
    write(tmp_path / "j" / "w", range(10))
    store = record(tmp_path / "j", seal=True)
    manifests = [json.loads(path.read_text()) for path in sorted(store.sealed.glob("*/manifest.json"))]
    assert sum(entry["rows"] for manifest in manifests for entry in manifest["files"]) == 10
    assert [manifest["journals"]["w"]["seq"] for manifest in manifests][-1] == 10
    shutil.rmtree(store.sealed)


def test_few_large_events_are_read_in_batches_that_fit_in_memory(tmp_path: Path) -> None:
    large = Event(EventKind.REFUSAL, 1, "", "bot", {"layer": "proxy", "reason": "x" * 1_000_000, "count": 1})
    with JournalFile(tmp_path / "journal" / "w", "w") as journal:
        for _ in range(40):
            journal.append([large])
    reader = JournalReader(tmp_path / "journal" / "w", Reading("w"))
    first = reader.read(10_000)
    assert first.full
    assert 0 < len(first.events) < 40
    rest = 0
    while (batch := reader.read(10_000)).events:
        rest += len(batch.events)
    assert len(first.events) + rest == 40


def _asked(number: int, size: int) -> Event:
    fields = {"statement": f"f1.{number}", "decision": "allow", "rules": ["r"], "parameters": [os.urandom(size // 2).hex()]}
    return Event(EventKind.STATEMENT, number, "f1", "bot", fields)


def test_long_values_and_even_an_event_beyond_all_measure_do_not_end_the_recording(tmp_path: Path) -> None:
    with JournalFile(tmp_path / "journal" / "w", "w", host="h") as journal:
        for number in range(2000):
            journal.append([_asked(number, 60_000)])
        journal.append([Event(EventKind.STATEMENT, 2000, "f1", "bot", {"parameters": ["x" * 60_000_000]})])
        for number in range(2001, 2010):
            journal.append([_asked(number, 4_000_000)])
    store = Store(tmp_path / "evidence")
    recorder = Recorder(tmp_path / "journal", store)
    for second in range(60):
        if not recorder.turn(2.0 * second).more and second:
            break
    with duckdb.connect(str(store.published), read_only=True) as connection:
        assert connection.execute("select count(*), max(length(parameters[1])) from statements").fetchall() == [(2009, 4_000_000)]
        assert connection.execute("select seq from events where kind = 'unreadable'").fetchall() == [(2001,)]
    assert store.execute("select count(distinct seal) >= 2 from live.sealed") == [(True,)]
    store.close()


def test_a_newer_program_asks_its_own_questions_of_what_an_older_one_recorded(tmp_path: Path) -> None:
    store = Store(tmp_path / "evidence")
    store.execute("create or replace view alarms as select 'nothing is ever wrong' as alarm")
    store.close()
    store = Store(tmp_path / "evidence")
    assert store.execute("select count(*) from alarms") == [(0,)]
    store.close()
