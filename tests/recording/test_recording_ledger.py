"""The completeness ledger: each dial that the kernel saw has its row from the proxy, or there is an alarm."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import pytest

from hostagent.daemon.journalfile import JournalFile
from hostagent.model.event import Event, EventKind
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
WHO = {"issuer": "local", "subject": "bot", "rules": ["r"], "outcome": "accepted"}
CHAIN = [
    {"pid": 9, "start_ns": 90, "exe": "/usr/bin/driver", "argv": ["driver"], "uid": 7, "comm": "driver"},
    {"pid": 8, "start_ns": 80, "exe": "/bin/bash", "argv": ["bash", "-c", "<9 characters>"], "uid": 7, "comm": "bash"},
]


def dial(seconds: float = 0, source: str = "10.0.0.1:4000", destination: str = "10.9.9.9:5432", **more: object) -> Event:
    fields = {"leaf": "l1", "cookie": 1, "transport": "tcp", "source": source, "destination": destination, "netns": 2,
              "established": True, "count": 1, "pid": 9, "start_ns": 90, "uid": 7, "comm": "driver", "attribution": "process",
              "lineage": CHAIN, **more}  # fmt: skip
    return Event(EventKind.KERNEL_FLOW, START + int(seconds * SECOND), "", "bot", fields)


def seen(seconds: float = 0, peer: str = "10.0.0.1:4000", destination: str = "10.9.9.9:5432", **more: object) -> Event:
    fields: Mapping[str, object] = {"leaf": "l1", "peer": peer, "destination": destination, "transport": "tcp", "attribution": "cgroup-only", **WHO, **more}  # fmt: skip
    return Event(EventKind.CONNECTION, START + int(seconds * SECOND) + 100_000, f"f{seconds}{peer}", "bot", fields)


def counted(seconds: float, count: int, destination: str = "10.9.9.9:5432", layer: str = "proxy", flow: str = "") -> Event:
    fields = {"layer": layer, "leaf": "l1", "source": "", "destination": destination, "transport": "tcp", "count": count}
    return Event(EventKind.REFUSAL, START + int(seconds * SECOND), flow, "bot", fields)


class Bench:
    """A journal of the kernel's and one of the proxy's, and a recorder whose clocks the test turns."""

    def __init__(self, folder: Path, **options: int) -> None:
        self.wall = START
        self.now = 0.0
        self.root = folder / "journal"
        self.kernel = JournalFile(self.root / "enforcerd", "enforcerd", host="h")
        self.proxy = JournalFile(self.root / "proxyd-0", "proxyd-0", host="h")
        self.store = Store(folder / "evidence")
        self.recorder = Recorder(self.root, self.store, wall_ns=lambda: self.wall, **options)

    def write(self, *events: Event) -> None:
        for event in events:
            (self.kernel if event.kind is EventKind.KERNEL_FLOW else self.proxy).append([event])

    def turn(self, seconds: float) -> None:
        """Let it be ``seconds`` after the start."""
        self.wall, self.now = START + int(seconds * SECOND), seconds
        self.recorder.turn(self.now)

    def close(self) -> None:
        for each in (self.kernel, self.proxy, self.store):
            each.close()

    def ask(self, question: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(self.store.published), read_only=True) as connection:
            return connection.execute(question).fetchall()

    def unmatched(self) -> list[tuple[object, ...]]:
        return self.ask("select source, destination, missing from unmatched_flows order by time, seq")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_dial_without_a_row_of_a_proxy_that_writes_is_an_alarm_five_seconds_later_and_not_before(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.turn(0)
    bench.write(dial(1), seen(2, "10.0.0.1:9", "10.9.9.9:80"))
    with caplog.at_level(logging.ERROR):
        bench.turn(3)
        bench.turn(5.5)
        assert (bench.unmatched(), caplog.records) == ([], [])
        bench.turn(8)
        assert bench.unmatched() == [("10.0.0.1:4000", "10.9.9.9:5432", 1)]
        assert [row[:2] for row in bench.ask("select alarm, workload from alarms")] == [("unmatched flow", "bot")]
        for later in (11, 14, 17):
            bench.turn(later)
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["ALARM unmatched flow"]
    assert bench.recorder.ledger.unmatched == 1
    bench.close()


def test_the_alarm_comes_though_nothing_else_happens_and_the_next_life_does_not_tell_it_again(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    first.write(dial(1))
    first.turn(2)
    first.turn(13)
    assert len(first.unmatched()) == 1
    first.close()
    second = Bench(tmp_path)
    second.turn(16)
    assert len(second.unmatched()) == 1
    assert second.recorder.ledger.unmatched == 0
    second.close()


def test_a_proxy_that_stood_still_and_takes_its_connections_late_is_no_alarm(bench: Bench) -> None:
    bench.turn(0)
    bench.write(dial(2))
    for second in (4, 7, 10):
        bench.turn(second)
    bench.write(seen(10.5, "10.0.0.1:9", "10.9.9.9:80"), seen(10.6))
    for second in (13, 16, 19):
        bench.turn(second)
    assert (bench.unmatched(), bench.recorder.ledger.unmatched) == ([], 0)
    bench.close()


def test_a_proxy_that_writes_nothing_at_all_is_noticed_within_fifteen_seconds(bench: Bench) -> None:
    bench.turn(0)
    bench.write(dial(1))
    for second in (3, 6, 9, 9.9):
        bench.turn(second)
    assert bench.recorder.ledger.unmatched == 0
    bench.turn(15)
    assert bench.recorder.ledger.unmatched == 1
    bench.close()


@pytest.mark.parametrize(
    ("events", "missing"),
    [
        pytest.param([dial(), seen()], 0, id="accepted"),
        pytest.param([dial(), seen(outcome="denied", rules=[])], 0, id="denied"),
        pytest.param([dial(), seen(4.5)], 0, id="late"),
        pytest.param([dial(), seen(14)], 0, id="very late"),
        pytest.param([dial(), seen(21)], 1, id="much later: another connection of the same ports"),
        pytest.param([dial(), seen(leaf="l2")], 1, id="another leaf's"),
        pytest.param([dial(), seen(destination="10.9.9.9:5433")], 1, id="another destination's"),
        pytest.param([dial(established=False)], 0, id="nobody answered"),
        pytest.param([dial(), seen(peer="10.0.0.1:61000")], 0, id="conntrack chose another source port"),
        pytest.param([dial(), dial(1), seen(peer="10.0.0.1:61000")], 1, id="that counts for one only"),
        pytest.param([dial(0), seen(0), dial(1), dial(2), seen(2)], 1, id="the same ports again and again"),
        pytest.param([dial(0, count=50, source=""), counted(1.5, 50)], 0, id="flood, counted on both sides"),
        pytest.param([dial(0, count=51, source=""), counted(1.5, 50)], 1, id="flood, one more than counted"),
        pytest.param([dial(0, count=3, source=""), seen(0), seen(0.1, "10.0.0.1:2"), seen(0.2, "10.0.0.1:3")], 0, id="counted and accepted"),
        pytest.param([dial(0, count=9, source=""), counted(1, 9, "various")], 0, id="flood to many destinations"),
        pytest.param([dial(0, count=9, source="", destination="various"), counted(1, 9)], 0, id="flood to many destinations, seen so"),
        pytest.param([dial(0, count=9, source=""), dial(1), counted(1, 9, "various")], 1, id="one that hides in such a flood"),
        pytest.param([dial(destination="127.0.0.1:8080", own=True)], 0, id="own loopback"),
        pytest.param([dial(), counted(1, 1, layer="nft")], 1, id="another layer's refusal"),
        pytest.param([dial(), seen(), dial(1, "10.0.0.1:2"), counted(1, 1, flow="f0")], 1, id="refusals within a session are no dials"),
    ],
)  # fmt: skip
def test_dials_and_rows_are_matched_one_to_one_and_by_count_where_there_are_only_counts(
    bench: Bench, events: list[Event], missing: int
) -> None:
    bench.write(*events)
    bench.turn(60)
    assert bench.ask("select coalesce(max(missing), 0) from unmatched_flows") == [(missing,)]
    assert (bench.recorder.ledger.unmatched > 0) == (missing > 0)
    bench.close()


def test_dns_over_tcp_is_matched_by_its_own_row(bench: Bench) -> None:
    fields = {"type": "TCP", "outcome": "connected", "leaf": "l1", "peer": "10.0.0.1:4000", "destination": "10.9.9.9:53"}
    bench.write(dial(destination="10.9.9.9:53"), Event(EventKind.DNS, START + 1000, "", "bot", fields))
    bench.turn(60)
    assert bench.unmatched() == []
    bench.close()


def test_dials_sealed_before_they_are_judged_are_judged_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path, seal_rows=2)
    bench.write(dial(1), dial(2, "10.0.0.1:1"), seen(2, "10.0.0.1:1"), seen(2.1, "10.0.0.1:7", "10.9.9.9:80"))
    bench.turn(4)
    assert bench.store.execute("select count(*) from live.kernel_flow") == [(0,)]
    bench.turn(14)
    assert bench.recorder.ledger.unmatched == 1
    assert bench.unmatched() == [("10.0.0.1:4000", "10.9.9.9:5432", 1)]
    bench.close()


def test_a_recorder_that_is_behind_raises_no_alarm_about_what_it_has_not_read(bench: Bench) -> None:
    bench.write(dial(1))
    bench.turn(2)
    bench.wall = START + 100 * SECOND
    bench.write(seen(1))
    bench.turn(100)
    assert bench.unmatched() == []
    assert bench.recorder.ledger.unmatched == 0
    bench.close()


def test_the_session_row_shows_the_chain_and_never_a_guess(bench: Bench) -> None:
    bench.write(
        dial(0), seen(0),
        dial(1, "10.0.0.1:2", attribution="cgroup-only", lineage=[]), seen(1, "10.0.0.1:2"),
        seen(2, "10.0.0.1:3"),
        dial(3, "10.0.0.1:4"), seen(13, "10.0.0.1:4"),
        dial(20, "10.0.0.1:5"), dial(21, "10.0.0.1:5", attribution="cgroup-only", lineage=[]), seen(21, "10.0.0.1:5"),
    )  # fmt: skip
    bench.turn(60)
    rows = bench.ask("select peer, pid, exe, attribution, [x.exe for x in lineage] from sessions order by opened")
    known = (9, "/usr/bin/driver", "process", ["/usr/bin/driver", "/bin/bash"])
    unknown = (None, None, "cgroup-only", None)
    assert rows == [
        ("10.0.0.1:4000", *known),
        ("10.0.0.1:2", *unknown),
        ("10.0.0.1:3", *unknown),
        ("10.0.0.1:4", *unknown),
        ("10.0.0.1:5", *unknown),
    ]
    assert bench.ask("select lineage[2].argv, lineage[1].start_ns from sessions where pid = 9") == [
        (["bash", "-c", "<9 characters>"], 90)
    ]
    bench.close()


def test_a_rebuild_finds_the_same(bench: Bench, tmp_path: Path, record: Callable[..., Store]) -> None:
    bench.write(dial(1), dial(2, "10.0.0.1:1"), seen(2, "10.0.0.1:1"))
    bench.turn(30)
    again = record(bench.root, "again")
    with duckdb.connect(str(again.published), read_only=True) as connection:
        rows = connection.execute("select source, destination, missing from unmatched_flows").fetchall()
    assert rows == bench.unmatched() == [("10.0.0.1:4000", "10.9.9.9:5432", 1)]
    bench.close()
