"""Old segments go, what stays is proved; nobody but the journal's key can say that some went."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.audit import read_witness, rebuild, verify
from hostagent.recording.backup import backup, restore
from hostagent.recording.pruning import FILE, Pruned, PruningError, Removed, header, prune, removable, segments
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store

LATE = 10**18


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with a journal of several segments, its key, and the evidence made from it."""
    times = iter(range(1_000, LATE))
    with (
        JournalFile(tmp_path / "journal/w", "w", host="h", key_file=tmp_path / "key", segment_bytes=2_000, clock=lambda: next(times)) as file,
        Store(tmp_path / "evidence") as store,
    ):
        for number in range(60):
            file.append([Event(EventKind.DNS, number, "", "bot", {"name": f"n{number}", "type": "A", "outcome": "answered"})])
        Recorder(tmp_path / "journal", store, interval=0.0).drain()
        store.publish()
    return tmp_path


def pruned(made: Path, count: int, key: Ed25519PrivateKey | None = None) -> None:
    folder = made / "journal/w"
    signing = key or Ed25519PrivateKey.from_private_bytes((made / "key").read_bytes())
    prune(folder, "w", segments(folder)[:count], at=5, sign=signing.sign)


def sound(made: Path) -> bool:
    with_witness, without = verify(made / "journal", made / "evidence"), verify(made / "journal", None)
    assert with_witness.sound == without.sound
    return with_witness.sound


def test_what_is_younger_or_unread_or_being_written_stays(made: Path) -> None:
    folder = made / "journal/w"
    numbers = segments(folder)
    assert len(numbers) > 4
    witness = read_witness(made / "evidence")["w"]
    assert witness.segment == numbers[-1]
    assert removable(folder, LATE, witness.segment) == numbers[:-1]
    assert removable(folder, LATE, 0) == []
    assert removable(folder, LATE, numbers[2]) == numbers[:2]
    assert removable(folder, header(folder, numbers[1]).at, witness.segment) == numbers[:1]
    assert removable(folder, 0, witness.segment) == []


def test_a_pruned_journal_verifies_grows_and_is_pruned_again(made: Path) -> None:
    folder = made / "journal/w"
    before = verify(made / "journal", None).journals[0].events
    pruned(made, 2)
    assert sound(made)
    after = verify(made / "journal", None).journals[0]
    assert (after.pruned, after.events < before, after.signed) == (2, True, True)
    with JournalFile(folder, "w", host="h", key_file=made / "key", segment_bytes=2_000) as file:
        file.append([Event(EventKind.DNS, 99, "", "bot", {"name": "new", "type": "A", "outcome": "answered"})])
    pruned(made, 1)
    assert sound(made)
    assert [entry["segment"] for entry in json.loads((folder / FILE).read_bytes())["removed"]] == [1, 2, 3]


def test_what_a_crash_left_over_is_no_fault_and_goes_the_next_time(made: Path) -> None:
    folder = made / "journal/w"
    first = (folder / "00000001.journal").read_bytes()
    pruned(made, 2)
    (folder / "00000001.journal").write_bytes(first)
    assert sound(made)
    pruned(made, 2)
    assert [entry["segment"] for entry in json.loads((folder / FILE).read_bytes())["removed"]] == [1, 2, 3]
    assert sound(made)


@pytest.mark.parametrize("change", ["no statement", "edited", "another key", "dropped after", "later claim"])
def test_segments_that_went_without_the_keys_word_are_a_fault(change: str, made: Path) -> None:
    folder = made / "journal/w"
    pruned(made, 2)
    told = json.loads((folder / FILE).read_bytes())
    match change:
        case "no statement":
            (folder / FILE).unlink()
        case "edited":
            (folder / FILE).write_text(json.dumps({**told, "removed": []}))
        case "another key":
            other = Ed25519PrivateKey.generate()
            mine = Pruned(**{**told, "key": other.public_key().public_bytes_raw().hex(), "signature": "", "removed": [Removed(**each) for each in told["removed"]]})
            signed = json.loads(msgspec.json.encode(mine)) | {"signature": other.sign(mine.text()).hex()}
            (folder / FILE).write_text(json.dumps(signed))
        case "dropped after":
            (folder / f"{segments(folder)[0]:08d}.journal").unlink()
        case _:
            (folder / FILE).write_text(json.dumps({**told, "segment": told["segment"] + 1}))
    assert not sound(made)


def test_a_key_that_does_not_sign_the_journal_removes_nothing(made: Path) -> None:
    before = segments(made / "journal/w")
    with pytest.raises(PruningError, match="not the one that signs"):
        pruned(made, 2, Ed25519PrivateKey.generate())
    assert segments(made / "journal/w") == before
    assert sound(made)


def test_databases_made_anew_hold_what_is_left_without_an_alarm_and_so_does_a_backup(made: Path) -> None:
    pruned(made, 2)
    backup(made / "journal", made / "evidence", made / "copy.tar", now=1, version="v")
    rebuild(made / "journal", made / "evidence")
    with duckdb.connect(str(made / "evidence/sessions.duckdb"), read_only=True) as database:
        assert database.execute("select count(*) from tamper").fetchall() == [(0,)]
        [(count, first)] = database.execute("select count(*), min(seq) from dns").fetchall()
    assert count == 60 - (first - 1)
    back = made / "back"
    back.mkdir()
    assert restore(made / "copy.tar", back / "journal", back / "evidence", accept_breaks=False, own=lambda _: None).sound
