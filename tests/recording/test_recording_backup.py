"""A backup taken while the journals grow verifies, restores, and proves the chain; anything else is refused."""

from __future__ import annotations

import json
import os
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
    report = restore(source, folder / "journal", folder / "evidence", accept_breaks=accept_breaks, own=lambda _: None)
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
        restore(tmp_path / "copy", journal, store.folder, accept_breaks=False, own=lambda _: None)
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


@pytest.mark.parametrize("where", ["journal/proxyd-0/00000099.journal", "evidence/sealed/1/extra.parquet", "evidence/witness.json"])
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_nothing_is_copied_through_a_link_or_from_a_pipe(where: str, what: str, journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal, seal=True)
    root = {"journal": journal, "evidence": store.folder}[where.partition("/")[0]]
    place = root / where.partition("/")[2].replace("sealed/1/", f"sealed/{min((store.folder / 'sealed').iterdir()).name}/")
    private = tmp_path / "private"
    private.write_bytes(b"root's own\n")
    place.unlink(missing_ok=True)
    place.symlink_to(private) if what == "link" else os.mkfifo(place)
    with pytest.raises(RecordingError):
        backup(journal, store.folder, tmp_path / "copy", now=1, version="v")
    assert not (tmp_path / "copy").exists()


def test_nothing_is_copied_out_of_a_folder_that_a_link_leads_to(journal: Path, record: Record, tmp_path: Path) -> None:
    store = record(journal, seal=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    (store.folder / "sealed/9").symlink_to(other)
    with pytest.raises(RecordingError, match="through links"):
        backup(journal, store.folder, tmp_path / "copy", now=1, version="v")


def test_a_restore_follows_no_link_of_the_folders_owner_and_gives_nothing_of_anybodys_away(
    journal: Path, record: Record, tmp_path: Path
) -> None:
    store = record(journal, seal=True)
    backup(journal, store.folder, tmp_path / "copy", now=1, version="v")
    store.close()
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "shadow").write_text("root's own")
    (private / "empty").mkdir()
    back = tmp_path / "back"
    for folder in (back / "journal/proxyd-0", back / "evidence"):
        folder.mkdir(parents=True)
    (back / "evidence/witness.json").symlink_to(private / "shadow")
    (back / "evidence/sealed").symlink_to(private / "empty")
    (back / "evidence/more").symlink_to(private / "shadow")
    seen: list[Path] = []
    with pytest.raises(NotADirectoryError):
        restore(tmp_path / "copy", back / "journal", back / "evidence", accept_breaks=False, own=seen.append)
    assert not any((private / "empty").iterdir())
    assert (private / "shadow").read_text() == "root's own"
    [staged] = seen
    assert staged.parent == back  # in root's folder, before anything is in its owner's
    assert not staged.exists()


def test_a_backup_that_holds_a_link_is_not_restored(journal: Path, record: Record, tmp_path: Path) -> None:
    backup(journal, record(journal).folder, tmp_path / "copy", now=1, version="v")
    (tmp_path / "copy/evidence/sealed").symlink_to("/etc")
    (tmp_path / "back").mkdir()
    with pytest.raises(RecordingError, match="no backup holds"):
        put_back(tmp_path / "copy", tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


@pytest.mark.parametrize("manifest", ["[]", '{"files": []}', '{"files": {"a": 1}}', "[" * 100_000])
def test_a_manifest_that_is_none_is_named(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/manifest.json").write_text(manifest)
    with pytest.raises(RecordingError, match="no manifest that can be read"):
        unpack(tmp_path / "copy", tmp_path / "out")
    (tmp_path / "cut.tgz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xed")
    with pytest.raises(RecordingError, match="no backup"):
        unpack(tmp_path / "cut.tgz", tmp_path / "out2")
