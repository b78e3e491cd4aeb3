"""The journal's files: what was acknowledged is there, whatever happens to the writer or the disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hostagent.daemon.journalfile import JournalFile, segment_numbers
from hostagent.journal import Fault, Verifier
from hostagent.model.errors import JournalError
from hostagent.model.event import Event, EventKind

_WRITER = """
import os, sys
from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
journal = JournalFile(sys.argv[1], "w", host="h", segment_bytes=200_000, checkpoint_events=50)
number = 0
while True:
    batch = [Event(EventKind.STATEMENT, n, "f", "bot", {"text": "x" * (n % 700)}) for n in range(number, number + 1 + number % 5)]
    journal.append(batch)
    number += len(batch)
    os.write(1, b"%d\\n" % journal.state.seq)
"""


def event(number: int, size: int = 10, kind: EventKind = EventKind.STATEMENT) -> Event:
    return Event(kind, number, "f1", "bot", {"text": "x" * size})


def good(key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def read(folder: Path, writer: str = "w") -> tuple[list[tuple[int, str]], list[Fault], Verifier]:
    """Return (number, kind) of every event, every fault, and the verifier at the end."""
    verifier = Verifier(writer, verify=good)
    events, faults = [], []
    for number in segment_numbers(folder):
        data = (folder / f"{number:08d}.journal").read_bytes()
        scan = verifier.scan(data, number, 0)
        torn = verifier.torn(data[scan.consumed :], number, scan.consumed)
        events += [(item.line.seq, item.line.kind) for item in scan.events]
        faults += scan.faults + ([torn] if torn else [])
    return events, faults, verifier


def test_reopening_continues_the_numbers_and_the_chain(tmp_path: Path) -> None:
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(1), event(2)])
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(3)])
    events, faults, _ = read(tmp_path)
    assert (events, faults) == ([(1, "statement"), (2, "statement"), (3, "statement")], [])


def test_segments_rotate_by_size_and_stay_one_chain(tmp_path: Path) -> None:
    with JournalFile(tmp_path, "w", host="h", key_file=tmp_path / "keys" / "key", segment_bytes=2_000) as journal:
        for number in range(30):
            journal.append([event(number, 100)])
    events, faults, verifier = read(tmp_path)
    assert ([seq for seq, _ in events], faults) == (list(range(1, 31)), [])
    assert len(segment_numbers(tmp_path)) > 2
    assert len(verifier.key) == 32


def test_the_key_is_private_and_checkpoints_are_signed_with_it(tmp_path: Path) -> None:
    for _ in range(2):
        with JournalFile(tmp_path / "j", "w", host="h", key_file=tmp_path / "key", checkpoint_events=2) as journal:
            journal.append([event(1), event(2)])
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert read(tmp_path / "j")[1] == []


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with JournalFile(tmp_path, "w", host="h"), pytest.raises(JournalError, match="another process writes"):
        JournalFile(tmp_path, "w", host="h")


def test_a_torn_last_line_is_cut_and_said_so(tmp_path: Path) -> None:
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(1)])
    file = tmp_path / "00000001.journal"
    with file.open("ab") as handle:
        handle.write(b"E 0123")
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(2)])
    events, faults, _ = read(tmp_path)
    assert (events, faults) == ([(1, "statement"), (2, "gap"), (3, "statement")], [])


def test_a_start_killed_before_its_first_line_leaves_nothing_behind(tmp_path: Path) -> None:
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(1)])
    (tmp_path / "00000002.journal").write_bytes(b"H 00")
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(2)])
    assert read(tmp_path)[:2] == ([(1, "statement"), (2, "statement")], [])


def test_damage_is_kept_as_evidence_and_a_new_segment_starts(tmp_path: Path) -> None:
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(1), event(2), event(3)])
    file = tmp_path / "00000001.journal"
    damaged = file.read_bytes().replace(b'"seq":2,"kind":"statement","at":2', b'"seq":2,"kind":"statement","at":9')
    file.write_bytes(damaged)
    with JournalFile(tmp_path, "w", host="h") as journal:
        journal.append([event(4)])
    events, faults, _ = read(tmp_path)
    assert file.read_bytes() == damaged
    assert [(fault.kind.value, fault.segment, fault.seq) for fault in faults] == [("edited", 1, 2)]
    assert events == [(1, "statement"), (2, "statement"), (3, "statement"), (4, "gap"), (5, "statement")]


def test_kill_9_at_random_points_loses_no_acknowledged_event(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, env={"PYTHONPATH": str(Path.cwd())}
        )
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 400)):
            line = process.stdout.readline()
            acknowledged = int(line)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split(b"\n")
        process.stdout.close()
        process.wait()
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        with JournalFile(tmp_path, "w", host="h") as journal:
            assert journal.state.seq >= acknowledged
    events, faults, _ = read(tmp_path)
    assert faults == []
    assert [seq for seq, _ in events] == list(range(1, len(events) + 1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 1 MB (in this run's own mount namespace)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    return folder


@pytest.mark.root
def test_a_full_disk_refuses_keeps_the_chain_whole_and_recovers(small_disk: Path) -> None:
    blob = small_disk / "filler"
    with JournalFile(small_disk / "j", "w", host="h", reserve_bytes=64 * 1024) as journal:
        journal.append([event(1)])
        blob.write_bytes(b"x" * 500_000)
        written = 1
        with pytest.raises(JournalError):
            for number in range(2, 2_000):
                journal.append([event(number, 2_000), event(number, 2_000)])
                written += 2
        refused_at = journal.state.seq
        assert refused_at in (written, written + 1)
        with pytest.raises(JournalError, match="is full"):
            journal.append([event(0)])
        journal.append([event(0, kind=EventKind.CLOSE)])
        blob.unlink()
        journal._full_since -= 2.0
        journal.append([event(5)])
    events, faults, _ = read(small_disk / "j")
    assert faults == []
    assert [seq for seq, _ in events] == list(range(1, refused_at + 4))
    assert [kind for _, kind in events[-3:]] == ["close", "gap", "statement"]
    subprocess.run(["umount", str(small_disk)], check=True)


def test_an_error_of_the_device_ends_the_journal_for_good(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path, "w", host="h")
    journal.append([event(1)])
    full = os.open("/dev/null", os.O_RDONLY)
    kept = os.dup(journal._fd)
    os.dup2(full, journal._fd)
    with pytest.raises(JournalError):
        journal.append([event(2)])
    os.dup2(kept, journal._fd)
    with pytest.raises(JournalError, match="takes no more events"):
        journal.append([event(3)])
    journal.close()
    assert read(tmp_path)[:2] == ([(1, "statement")], [])
    os.close(full)
    os.close(kept)


def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    journal = JournalFile(tmp_path, "w", host="h")
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.append([event(1)])
