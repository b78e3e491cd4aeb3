"""A backup taken while the journals grow verifies, restores, and proves the chain; anything else is refused."""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostagent.cli.audit import audit
from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.audit import verify
from hostagent.recording.backup import backup, restore, unpack
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import RecordingError, Store
from tests.recording.test_recording_audit import everything

Record = Callable[..., Store]


def put_back(source: Path, folder: Path, *, accept_breaks: bool = False) -> bool:
    report = restore(source, folder / "journal", folder / "evidence", accept_breaks=accept_breaks, own=lambda: None)
    return report.sound


@pytest.mark.parametrize("name", ["copy", "copy.tar", "copy.tar.gz"])
def test_a_backup_holds_everything_and_comes_back_the_same(name: str, journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal, seal=True)
    place = tmp_path / name
    manifest = backup(journal, store.folder, place, now=1, version="v")
    assert stat.S_IMODE(place.stat().st_mode) == (0o700 if place.is_dir() else 0o600)
    kinds = {Path(path).suffix for path in manifest["files"]}
    assert kinds == {".journal", ".json", ".duckdb", ".parquet"}
    [writer] = manifest["journals"].values()
    assert writer["last"] == max((journal / "proxyd-0").glob("*.journal")).read_bytes().splitlines()[-1][2:66].decode()
    with pytest.raises(RecordingError, match="never writes over"):
        backup(journal, store.folder, place, now=1, version="v")
    before = everything(store.folder)
    store.close()
    back = tmp_path / "back"
    back.mkdir()
    done = CliRunner().invoke(audit, ["restore", str(place), "--journal", str(back / "journal"), "--evidence", str(back / "evidence")])
    assert done.exit_code == 0, done.output
    assert "The evidence holds." in done.output
    assert everything(back / "evidence") == before
    assert verify(back / "journal", back / "evidence").sound


def test_a_backup_taken_while_the_service_writes_is_consistent_every_time(tmp_path: Path) -> None:
    journal, evidence = tmp_path / "journal", tmp_path / "evidence"
    stop, turns = threading.Event(), threading.Semaphore(0)

    def service() -> None:
        with JournalFile(journal / "w", "w", host="h", segment_bytes=20_000, key_file=tmp_path / "key") as file, Store(evidence) as store:
            recorder = Recorder(journal, store, interval=0.0, seal_rows=200)
            number = 0
            while not stop.is_set():
                number += 1
                file.append([Event(EventKind.DNS, number, "", "bot", {"name": "x" * 100, "type": "A", "outcome": "answered"})] * 20)
                recorder.turn(float(number))
                turns.release()

    thread = threading.Thread(target=service)
    thread.start()
    try:
        for number in range(5):
            for _ in range(5):
                assert turns.acquire(timeout=60)
            backup(journal, evidence, tmp_path / f"b{number}", now=1, version="v")
    finally:
        stop.set()
        thread.join()
    for number in range(5):
        report = verify(tmp_path / f"b{number}/journal", tmp_path / f"b{number}/evidence")
        assert report.sound, report
        unpack(tmp_path / f"b{number}", tmp_path / f"u{number}")


@pytest.mark.parametrize("change", ["edit", "remove", "add", "shorten", "manifest"])
def test_a_backup_that_was_changed_is_not_restored(change: str, journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal)
    place = tmp_path / "copy"
    backup(journal, store.folder, place, now=1, version="v")
    segment = max((place / "journal/proxyd-0").glob("*.journal"))
    segment.chmod(0o600)
    content = segment.read_bytes()
    match change:
        case "edit":
            segment.write_bytes(content.replace(b"1", b"2"))
        case "remove":
            segment.unlink()
        case "add":
            (place / "journal/proxyd-0/00000099.journal").write_bytes(b"")
        case "shorten":
            segment.write_bytes(b"".join(content.splitlines(keepends=True)[:-3]))
        case _:
            (place / "manifest.json").write_text("{}")
    (tmp_path / "back").mkdir()
    with pytest.raises(RecordingError):
        put_back(place, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_evidence_that_was_broken_when_it_was_backed_up_is_restored_only_when_told(journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal)
    segment = max((journal / "proxyd-0").glob("*.journal"))
    segment.chmod(0o600)
    segment.write_bytes(segment.read_bytes().replace(b"1", b"2"))
    backup(journal, store.folder, tmp_path / "copy.tgz", now=1, version="v")
    back = tmp_path / "back"
    back.mkdir()
    assert not put_back(tmp_path / "copy.tgz", back)
    assert list(back.iterdir()) == []
    assert not put_back(tmp_path / "copy.tgz", back, accept_breaks=True)
    assert not verify(back / "journal", back / "evidence").sound


def test_nothing_is_restored_over_evidence_or_under_a_running_service(journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal)
    backup(journal, store.folder, tmp_path / "copy", now=1, version="v")
    with pytest.raises(RecordingError, match="never written over"):
        restore(tmp_path / "copy", journal, store.folder, accept_breaks=False, own=lambda: None)
    back = tmp_path / "back"
    with JournalFile(back / "journal/proxyd-0", "proxyd-0", host="h"):
        for path in (back / "journal/proxyd-0").glob("*.journal"):
            path.unlink()
        with pytest.raises(RecordingError, match="service runs"):
            put_back(tmp_path / "copy", back)


def test_an_archive_with_a_way_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    (tmp_path / "x").write_text("x")
    with tarfile.open(file, "w") as archive:
        archive.add(tmp_path / "x", arcname="../escaped")
    with pytest.raises(RecordingError):
        unpack(file, tmp_path / "u")
    assert not (tmp_path / "escaped").exists()
    shutil.rmtree(tmp_path / "u")
    (tmp_path / "u2.json").write_text(json.dumps({}))
    with pytest.raises(RecordingError, match="no backup"):
        unpack(tmp_path / "u2.json", tmp_path / "u")
