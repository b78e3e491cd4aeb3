"""/metrics: what is counted while recording, and an endpoint that nobody can hold up."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.daemon.journalfile import JournalFile
from hostagent.documents import parse_config
from hostagent.model.errors import DocumentError
from hostagent.model.event import Event, EventKind
from hostagent.recording.exporter import Exporter
from hostagent.recording.metrics import CONTENT_TYPE, Tally
from hostagent.recording.recorder import Recorder
from hostagent.recording.store import Store
from tests.recording.conftest import START, story

_SAMPLE = re.compile(r'hostagent_[a-z_]+(\{[a-z]+="[a-z-]+"\})? [0-9.e+-]+')
SECOND = 1_000_000_000


def samples(page: str) -> dict[str, float]:
    """Return the values by name and label; every line must be a comment or a sample, every family announced once."""
    found: dict[str, float] = {}
    announced: list[str] = []
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            announced.append(line.split()[2])
        elif not line.startswith("# HELP "):
            assert _SAMPLE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            assert name.partition("{")[0] == announced[-1]
            found[name.removeprefix("hostagent_")] = float(value)
    assert len(announced) == len(set(announced))
    return found


def recorded(root: Path, folder: Path, tally: Tally, now_ns: int = START) -> None:
    with Store(folder) as store:
        Recorder(root, store, wall_ns=lambda: now_ns, tally=tally).turn(1.0)


def test_the_story_is_counted_by_layer_outcome_and_decision(journal: Path, tmp_path: Path) -> None:
    tally = Tally()
    recorded(journal, tmp_path / "evidence", tally)
    page = samples(tally.render(START + 7 * SECOND))
    at = next(event.at for event in story() if event.kind is EventKind.VERIFY)
    assert {name: value for name, value in page.items() if value} == {
        'refusals_total{layer="nft"}': 3,
        'refusals_total{layer="proxy"}': 1,
        'refusals_total{layer="dns"}': 1,
        'sessions_total{outcome="accepted"}': 1,
        'sessions_total{outcome="denied"}': 1,
        'sessions_total{outcome="closed"}': 1,
        'statements_total{decision="allow"}': 1,
        'statements_total{decision="deny"}': 1,
        'statements_total{decision="hold"}': 1,
        'verifications_total{outcome="passed"}': 1,
        "events_total": len(story()),
        "gaps_total": 1,
        "lost_events_total": 2,
        "kernel_flows_total": 1,
        "journal_lag_seconds": 7,
        "verify_passed": 1,
        "verify_age_seconds": (START + 7 * SECOND - at) / SECOND,
    }
    assert {'refusals_total{layer="seccomp"}', 'refusals_total{layer="bpf"}', "unmatched_flows_total"} <= set(page)


def test_a_restart_knows_how_the_last_verification_ended(journal: Path, tmp_path: Path) -> None:
    recorded(journal, tmp_path / "evidence", Tally())
    again = Tally()
    recorded(journal, tmp_path / "evidence", again)
    page = samples(again.render(START + 7 * SECOND))
    assert (page["verify_passed"], page["events_total"]) == (1, 0)


def test_before_anything_was_recorded_nothing_is_claimed() -> None:
    page = samples(Tally().render(START))
    assert set(page.values()) == {0}
    assert not {"verify_passed", "verify_age_seconds", "journal_lag_seconds"} & set(page)


def test_a_failed_verification_shows_until_one_passes(tmp_path: Path) -> None:
    tally = Tally()
    for number, outcome in enumerate(("passed", "failed", "passed")):
        with JournalFile(tmp_path / "journal/enforcerd", "enforcerd", host="h") as file:
            file.append([Event(EventKind.VERIFY, START + number, "", "", {"cause": "periodic", "outcome": outcome})])
        recorded(tmp_path / "journal", tmp_path / "evidence", tally)
        assert samples(tally.render(START + 5))["verify_passed"] == (outcome == "passed")
    assert samples(tally.render(START))['verifications_total{outcome="failed"}'] == 1


def test_what_cannot_be_understood_is_counted_and_breaks_nothing(tmp_path: Path) -> None:
    strange: list[dict[str, object]] = [
        {"layer": "elsewhere", "count": 2},
        {"layer": 7},
        {"layer": "nft", "count": "many"},
        {"layer": "nft", "count": -5},
        {"layer": 'nft"} 1\nhostagent_evil', "count": 1},
    ]
    with JournalFile(tmp_path / "journal/enforcerd", "enforcerd", host="h") as file:
        file.append([Event(EventKind.REFUSAL, START, "", "bot", fields) for fields in strange])
    tally = Tally()
    recorded(tmp_path / "journal", tmp_path / "evidence", tally)
    page = samples(tally.render(START))
    assert (page['refusals_total{layer="other"}'], page['refusals_total{layer="nft"}'], page["unreadable_events_total"]) == (3, 0, 2)


# -- the endpoint ------------------------------------------------------------------------------------------------------


@pytest.fixture
def exporter() -> Iterator[tuple[str, int]]:
    serving = Exporter("127.0.0.1:0", lambda: "hostagent_x 1\n")
    serving.start()
    until = time.monotonic() + 10
    while serving.address is None and time.monotonic() < until:
        time.sleep(0.01)
    assert serving.address is not None
    yield serving.address
    serving.stop()


def ask(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_it_answers_get_and_nothing_else(exporter: tuple[str, int]) -> None:
    head, _, body = ask(exporter, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert (head.splitlines()[0], body) == (b"HTTP/1.1 200 OK", b"hostagent_x 1\n")
    assert f"Content-Type: {CONTENT_TYPE}".encode() in head
    assert ask(exporter, b"GET /metrics?x=1 HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert ask(exporter, b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    assert ask(exporter, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404")
    assert ask(exporter, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405")


def test_clients_that_send_nothing_or_too_much_hold_nobody_up_for_long(exporter: tuple[str, int]) -> None:
    with contextlib.ExitStack() as kept:
        for _ in range(2):
            kept.enter_context(socket.create_connection(exporter))
        began = time.monotonic()
        assert ask(exporter, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 6
    with contextlib.suppress(ConnectionError):
        ask(exporter, b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 5000)
    assert ask(exporter, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("where", ["127.0.0.1:9464", "127.8.0.1:1", "[::1]:65000", ""])
def test_the_address_is_a_loopback_one(where: str) -> None:
    assert parse_config("c", f"[metrics]\nlisten = {json.dumps(where)}\n").metrics.listen == where


@pytest.mark.parametrize("where", ["0.0.0.0:9464", "9464", "10.0.0.1:9464", "[::]:9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0"])
def test_no_other_address_is_taken(where: str) -> None:
    with pytest.raises(DocumentError):
        parse_config("c", f"[metrics]\nlisten = {json.dumps(where)}\n")
