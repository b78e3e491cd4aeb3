"""Batches: whatever the journal writes once only, the views answer as if it had written everything each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import duckdb
import pytest

from hostagent.daemon.journalfile import JournalFile, segment_numbers
from hostagent.journal import format as journal_format
from hostagent.model.event import Event, EventKind
from hostagent.model.rows import ResultRow, StatementRow
from hostagent.recording import audit
from hostagent.recording.metrics import Tally
from hostagent.recording.recorder import Recorder
from hostagent.recording.schema import views
from hostagent.recording.store import Store

Record = Callable[..., Store]

SHARED = {
    "verb": "select", "effects": ["read"], "resources": [{"kind": "relation", "name": "customers", "access": "read"}], "completeness": "full",
    "text": "select email from customers where id = $1", "fingerprint": "fp", "decision": "allow", "rules": ["read", "mask-mail"],
    "reason": "rule read allows it", "policy": "p1", "masks": ["mask-mail"],
}  # fmt: skip
SHAPE = {
    "outcome": "ok", "sqlstate": "", "message": "",
    "columns": [{"name": "email", "table": "customers", "column": "email", "type": "25", "masked": True}],
}  # fmt: skip


def conversation() -> list[Event]:
    """Two sessions that take turns, as proxyd records them."""
    found: list[Event] = []
    for number in range(1, 60):
        flow, at = f"f{number % 2}", 1_000_000 * number
        if number <= 2:
            found.append(Event(EventKind.CONNECTION, at, flow, "bot", {"outcome": "accepted", "subject": "bot", "rules": ["r"], "target": "shop"}))
        parameters: Sequence[str | None] = ["1", None] if number % 3 else ()
        asked = StatementRow(at + 1, flow, number, sha256(b"%d" % number).hexdigest(), number % 5 == 0, parameters)
        found.append(Event(EventKind.STATEMENT, at + 1, flow, "bot", SHARED, asked))
        if number == 50:
            continue  # never answered
        detections = {"email": number} if number % 4 == 0 else None
        came = ResultRow(at + 2, flow, number, f"SELECT {number % 7}", number % 7, 40, 250, number % 2, detections)
        found.append(Event(EventKind.RESULT, at + 2, flow, "bot", SHAPE, came))
    denied = {"statement": "f1.60", "outcome": "denied", "sqlstate": "42501"}
    found.append(Event(EventKind.RESULT, 61_000_000, "f1", "bot", denied))
    found.append(Event(EventKind.CLOSE, 62_000_000, "f1", "bot", {"reason": "client left", "statements": 30}))
    return found


def whole(event: Event) -> Event:
    return Event(event.kind, event.at, event.flow, event.workload, event.fields)


def write(folder: Path, events: Sequence[Event], size: int, **options: int) -> None:
    with JournalFile(folder, folder.name, host="h", key_file=folder.parent.parent / "key", **options) as file:
        for start in range(0, len(events), size):
            file.append(events[start : start + size])


def content(store: Store) -> dict[str, list[tuple[object, ...]]]:
    with duckdb.connect(str(store.published), read_only=True) as connection:
        names = connection.execute("select view_name from duckdb_views() where not internal and schema_name = 'main'").fetchall()
        return {name: connection.execute(f"from {name} order by all").fetchall() for (name,) in names}


@pytest.fixture(params=["live", "direct"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rows go through the live tables, or straight into a sealed file."""
    if request.param == "direct":
        monkeypatch.setattr("hostagent.recording.batches._MANY", 4)
    return str(request.param)


@pytest.mark.parametrize(("segment", "seal"), [(10**6, False), (2_000, True)])
def test_the_views_answer_as_if_everything_had_been_written_each_time(
    tmp_path: Path, record: Record, way: str, segment: int, seal: bool
) -> None:
    events = conversation()
    write(tmp_path / "a" / "proxyd-0", [whole(event) for event in events], 1)
    write(tmp_path / "b" / "proxyd-0", events, 7, segment_bytes=segment)
    lines = b"".join(path.read_bytes() for path in sorted((tmp_path / "b/proxyd-0").glob("*.journal"))).splitlines()
    assert sum(line.startswith(b"B") for line in lines) >= 8
    told, short = content(record(tmp_path / "a", "told", seal=seal)), content(record(tmp_path / "b", "short", seal=seal))
    assert told == short
    assert (len(short["statements"]), len(short["responses"]), len(short["touched"])) == (59, 59, 59)
    if not seal:
        assert [path.name for path in (tmp_path / "short/sealed").glob("*/*.parquet")] == ["brief.parquet"] * (way == "direct")
    report = audit.verify(tmp_path / "b", tmp_path / "short")
    assert (report.sound, report.journals[0].events) == (True, len(events))


def test_a_row_whose_whole_event_is_gone_stays_and_is_no_allowed_statement(tmp_path: Path, record: Record) -> None:
    events = conversation()
    write(tmp_path / "j" / "proxyd-0", events[:12], 4)
    file = tmp_path / "j/proxyd-0/00000001.journal"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(line for line in lines if b'"verb"' not in line))
    store = record(tmp_path / "j")
    left = store.execute("select count(*), count(decision), count(distinct digest) from statements")
    assert left == [(5 - 1, 0, 4)]
    assert store.execute("select count(*) from unaccounted where problem like 'statement without%'") == [(4,)]
    assert store.execute("select kind from tamper") == [("missing",)]


@pytest.mark.usefixtures("way")
def test_a_batch_that_cannot_be_read_is_as_many_unreadable_events(tmp_path: Path) -> None:
    events = conversation()
    file = tmp_path / "j/proxyd-0/00000001.journal"
    write(file.parent, events[:12], 6)
    data = file.read_bytes()
    assert data.count(b'"statement":5,') == 2
    file.write_bytes(data.replace(b'"statement":5,', b'"statement":[],'))
    tally = Tally()
    with Store(tmp_path / "evidence") as store:
        Recorder(tmp_path / "j", store, tally=tally).drain()
        ((first, last, count),) = store.execute("select min(seq), max(seq), count(*) from events where kind = 'unreadable'")
        assert (last - first + 1, count) == (count, count)  # type: ignore[operator]
        assert store.execute("select count(*) from events") == [(12,)]
    assert "hostagent_events_total 12\n" in tally.render(0)


def test_statements_of_batches_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "j" / "proxyd-0", conversation(), 7)
    tally = Tally()
    with Store(tmp_path / "evidence") as store:
        Recorder(tmp_path / "j", store, tally=tally).drain()
    page = tally.render(0)
    assert 'statements_total{decision="allow"} 59\n' in page
    assert f"hostagent_events_total {len(conversation())}\n" in page


def test_a_writer_goes_on_behind_a_segment_of_the_former_format_in_a_new_one(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = conversation()
    folder = tmp_path / "j" / "proxyd-0"
    with monkeypatch.context() as former:
        former.setattr("hostagent.journal.chain.FORMAT_VERSION", 1)
        former.setattr("hostagent.daemon.journalfile.FORMAT_VERSION", 1)
        write(folder, [whole(event) for event in events[:40]], 1)
    assert journal_format.FORMAT_VERSION == 2
    write(folder, events[40:], 5)
    assert segment_numbers(folder) == [1, 2]
    assert [b'"format":%d' % number in (folder / f"{number:08d}.journal").read_bytes() for number in (1, 2)] == [True, True]
    assert audit.verify(tmp_path / "j", None).sound
    assert record(tmp_path / "j").execute("select count(*), count(outcome) from statements") == [(59, 58)]


def test_a_database_without_batches_is_taken_over(tmp_path: Path) -> None:
    write(tmp_path / "j" / "proxyd-0", conversation(), 7)
    with Store(tmp_path / "evidence") as store:
        for name in ("statement", "result"):
            store.execute(f"drop view recorded.{name}")
            store.execute(f"drop view recorded.whole_{name}")
            store.execute(f"create view recorded.{name} as select * from live.{name}")
        store.execute("drop view recorded.brief")
        store.execute("drop table live.brief")
        store.execute("update live.about set version = 2")
    with Store(tmp_path / "evidence") as store:
        Recorder(tmp_path / "j", store).drain()
        store.execute(views())
        assert store.execute("select count(*), count(outcome) from statements") == [(59, 58)]
    with Store(tmp_path / "evidence") as store:
        assert store.execute("select count(*), count(outcome) from statements") == [(59, 58)]


def test_a_file_of_rows_whose_transaction_fails_is_gone_and_the_rows_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostagent.recording.batches._MANY", 4)
    write(tmp_path / "j" / "proxyd-0", conversation(), 7)
    with Store(tmp_path / "evidence") as store:
        with monkeypatch.context() as broken:
            broken.setattr(store, "_note_sealed", lambda _: store.execute("select error('no')"))
            broken.setattr("hostagent.recording.store.REFUSED", ())
            with pytest.raises(duckdb.Error):
                Recorder(tmp_path / "j", store).drain()
        assert list(store.sealed.iterdir()) == []
    (tmp_path / "evidence/sealed/1-000001").mkdir()  # killed before the transaction
    with Store(tmp_path / "evidence") as store:
        assert Recorder(tmp_path / "j", store).drain() == len(conversation())
        assert store.execute("select count(*), count(outcome) from statements") == [(59, 58)]
    report = audit.verify(tmp_path / "j", tmp_path / "evidence")
    assert (report.sound, report.sealed_files) == (True, 1)
