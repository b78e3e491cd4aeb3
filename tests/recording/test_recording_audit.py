"""Proof: what was not changed verifies, what was changed is named, and the databases can be made anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from hostagent.cli.audit import audit
from hostagent.daemon.journalfile import JournalFile, segment_numbers
from hostagent.model.event import Event, EventKind
from hostagent.recording.audit import rebuild, verify
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import RecordingError, Store

Record = Callable[..., Store]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def everything(folder: Path) -> dict[str, list[str]]:
    with duckdb.connect(str(folder / "sessions.duckdb"), read_only=True) as connection:
        views = [
            row[0]
            for row in connection.execute(
                "select view_name from duckdb_views() where not internal and schema_name = 'main'"
            ).fetchall()
        ]
        return {view: sorted(map(str, connection.execute(f"from {view}").fetchall())) for view in views}


def test_an_untouched_journal_and_its_evidence_verify(journal: Path, record: Record) -> None:
    store = record(journal, seal=True)
    report = verify(journal, store.folder)
    assert report.sound
    assert [(item.writer, item.events, item.signed) for item in report.journals] == [("proxyd-0", 25, True)]
    assert report.sealed_files > 5


@pytest.mark.parametrize(
    "change",
    ["edit", "delete", "reorder", "truncate", "drop segment", "drop first segment", "other key", "fork", "remove"],
)
def test_each_change_of_a_journal_is_found(journal: Path, record: Record, tmp_path: Path, change: str) -> None:
    store = record(journal)
    folder = journal / "proxyd-0"
    first, last = [folder / f"{number:08d}.journal" for number in (1, segment_numbers(folder)[-1])]
    lines = lines_of(first)
    if change == "edit":
        first.write_bytes(first.read_bytes().replace(b"evil.example", b"good.example"))
    elif change == "delete":
        first.write_bytes(b"".join(lines[:2] + lines[3:]))
    elif change == "reorder":
        first.write_bytes(b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    elif change == "truncate":
        last.write_bytes(b"".join(lines_of(last)[:-2]))
    elif change == "drop segment":
        (folder / "00000002.journal").unlink()
    elif change == "drop first segment":
        first.unlink()
    elif change == "remove":
        for path in folder.glob("*.journal"):
            path.unlink()
    else:
        # Somebody writes a history of his own, whole and consistent, with or without a key of his own.
        for path in folder.glob("*.journal"):
            path.unlink()
        key = tmp_path / "another" if change == "other key" else tmp_path / "key"
        with JournalFile(folder, "proxyd-0", host="h", key_file=key) as forged:
            forged.append([Event(EventKind.DNS, 1, "", "bot", {"name": "innocent"})] * 40)
    assert not verify(journal, store.folder).sound


def test_the_first_bad_event_is_named_and_the_exit_status_is_1(journal: Path, record: Record) -> None:
    store = record(journal)
    first = journal / "proxyd-0" / "00000001.journal"
    first.write_bytes(first.read_bytes().replace(b"evil.example", b"good.example"))
    done = CliRunner().invoke(audit, ["verify", "--journal", str(journal), "--evidence", str(store.folder)])
    assert done.exit_code == 1
    assert "BAD (proxyd-0, 6) edited in segment 1" in done.output


def test_a_sound_journal_exits_with_0_and_json_says_so(journal: Path, record: Record) -> None:
    store = record(journal)
    done = CliRunner().invoke(audit, ["verify", "--json", "--journal", str(journal), "--evidence", str(store.folder)])
    assert (done.exit_code, '"sound": true' in done.output) == (0, True)


@pytest.mark.parametrize("change", ["byte", "missing", "manifest"])
def test_a_changed_sealed_file_is_found(journal: Path, record: Record, change: str) -> None:
    store = record(journal, seal=True)
    path = min(store.sealed.rglob("*.parquet"))
    if change == "byte":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif change == "missing":
        path.unlink()
    else:
        (path.parent / "manifest.json").unlink()
    assert [len(verify(journal, store.folder).files)] == [1]


def test_a_rebuild_gives_identical_views_and_leaves_only_its_own_files(journal: Path, record: Record) -> None:
    store = record(journal, seal=True)
    store.close()
    before = everything(store.folder)
    old = {path.name for path in store.sealed.iterdir()}
    with duckdb.connect(str(store.published), read_only=True) as reader:
        assert rebuild(journal, store.folder) == 25
        assert reader.execute("select count(*) from live.event").fetchone() is not None
    assert everything(store.folder) == before
    assert not old & {path.name for path in store.sealed.iterdir()}
    assert verify(journal, store.folder).sound


def test_a_rebuild_after_everything_but_the_journal_is_gone(journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal)
    before = everything(store.folder)
    assert rebuild(journal, tmp_path / "anew") == 25
    assert everything(tmp_path / "anew") == before


def test_a_rebuild_keeps_what_only_the_witness_knows(journal: Path, record: Record) -> None:
    store = record(journal)
    store.close()
    for number in segment_numbers(journal / "proxyd-0")[2:]:
        (journal / "proxyd-0" / f"{number:08d}.journal").unlink()
    rebuild(journal, store.folder)
    with duckdb.connect(str(store.published), read_only=True) as connection:
        assert connection.execute("select kind, seq from tamper").fetchall() == [("truncated", 25)]


def test_a_rebuild_is_refused_while_recording_runs(journal: Path, record: Record) -> None:
    store = record(journal)
    with pytest.raises(RecordingError, match="another process"):
        rebuild(journal, store.folder)


def test_the_rebuild_command_says_how_many(journal: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(audit, ["rebuild", "--journal", str(journal), "--evidence", str(tmp_path / "anew")])
    assert (done.exit_code, "25 events" in done.output) == (0, True)


@pytest.mark.parametrize("what", ["pipe", "link"])
def test_a_segment_that_is_no_file_makes_no_reader_wait(
    what: str, journal: Path, record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = record(journal)
    place = journal / "proxyd-0/00000099.journal"
    os.mkfifo(place) if what == "pipe" else place.symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r"regular file|symbolic links"):
        verify(journal, store.folder)
    recorder = Recorder(journal, store, interval=0.0)
    recorder.turn(1.0)
    assert "the journal of proxyd-0 cannot be read" in caplog.text
    place.unlink()
    with JournalFile(journal / "proxyd-0", "proxyd-0", host="h", key_file=tmp_path / "key") as file:
        file.append([Event(EventKind.DNS, 1, "", "bot", {"name": "late", "type": "A", "outcome": "answered"})])
    recorder.turn(2.0)
    assert any("late" in row for row in everything(store.folder)["dns"]), "nothing that was written meanwhile is passed over"
