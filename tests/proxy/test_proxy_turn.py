"""A turn: one append for all that a turn forwards, nothing before it, and nothing at all when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hostagent.model.command import Command, Forward, Record
from hostagent.model.errors import JournalError, UnwritableEventError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Side
from hostagent.proxy.turn import PUT_OFF_S, Turn


def event(name: str, kind: EventKind = EventKind.STATEMENT) -> Event:
    return Event(kind, 1, name, "bot", {})


class Log:
    """A journal and the loop in one: writes down in which order things happen."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.broken = False

    def append(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise JournalError("no space")
        if any("long" in each.flow for each in events):
            raise UnwritableEventError("too long")
        self.lines.append("append " + " ".join(each.flow for each in events))


class Flow:
    """A session that writes down what it is told."""

    def __init__(self, log: Log, name: str) -> None:
        self._log = log
        self.name = name

    def carry_out(self, commands: Sequence[Command]) -> None:
        self._log.lines += [f"{self.name} {each.data.decode()}" for each in commands if isinstance(each, Forward)]

    def unrecorded(self, error: JournalError) -> None:
        self._log.lines.append(f"{self.name} cut: {error}")


@pytest.fixture
def log() -> Log:
    return Log()


def add(turn: Turn, flow: Flow, text: str) -> None:
    turn.add(flow, [event(f"{flow.name}.{text}")], [Record(event("")), Forward(Side.SERVER, text.encode())])


def test_all_of_a_turn_is_appended_at_once_and_only_then_forwarded_in_order(log: Log) -> None:
    turn = Turn(log, log.later.append)
    one, two = Flow(log, "one"), Flow(log, "two")
    add(turn, one, "a")
    add(turn, two, "b")
    add(turn, one, "c")
    assert (log.lines, len(log.later)) == ([], 1)
    log.later.pop()()
    assert log.lines == ["append one.a two.b one.c", "one a", "two b", "one c"]
    add(turn, two, "d")
    log.later.pop()()
    assert log.lines[4:] == ["append two.d", "two d"]


def test_what_cannot_wait_comes_behind_what_waits(log: Log) -> None:
    turn = Turn(log, log.later.append)
    add(turn, Flow(log, "one"), "a")
    turn.append([event("close")])
    assert log.lines == ["append one.a", "one a", "append close"]
    log.later.pop()()
    assert len(log.lines) == 3


def test_without_evidence_nothing_of_the_turn_passes_and_every_session_of_it_is_told_once(log: Log) -> None:
    turn = Turn(log, log.later.append)
    one, two = Flow(log, "one"), Flow(log, "two")
    add(turn, one, "a")
    add(turn, one, "b")
    add(turn, two, "c")
    log.broken = True
    log.later.pop()()
    assert log.lines == ["one cut: no space", "two cut: no space"]
    with pytest.raises(JournalError):
        turn.append([event("close")])


def test_an_event_that_nobody_can_write_ends_its_own_session_and_no_other(log: Log) -> None:
    turn = Turn(log, log.later.append)
    one, two = Flow(log, "one"), Flow(log, "two")
    add(turn, one, "a")
    add(turn, two, "long")
    add(turn, one, "b")
    add(turn, two, "c")
    turn.add(two, [], [Forward(Side.SERVER, b"d")])
    log.later.pop()()
    assert log.lines == ["append one.a", "one a", "two cut: too long", "append one.b", "one b", "append two.c"]
    add(turn, one, "e")
    log.later.pop()()
    assert log.lines[-2:] == ["append one.e", "one e"]


class Delays:
    """The loop's later calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append((seconds, call))


def result(turn: Turn, flow: Flow, text: str) -> None:
    turn.add(flow, [event(f"{flow.name}.{text}", EventKind.RESULT)], [Record(event("")), Forward(Side.CLIENT, text.encode())])


def test_results_go_with_the_next_append_before_what_comes_after_them(log: Log) -> None:
    delays = Delays()
    turn = Turn(log, log.later.append, delays)
    one, two = Flow(log, "one"), Flow(log, "two")
    result(turn, one, "r1")
    log.later.pop()()
    result(turn, two, "r2")
    log.later.pop()()
    assert (log.lines, [seconds for seconds, _ in delays.calls]) == (["one r1", "two r2"], [PUT_OFF_S])
    add(turn, two, "a")
    result(turn, one, "r3")
    log.later.pop()()
    assert log.lines[2:] == ["append one.r1 two.r2 two.a one.r3", "two a", "one r3"]
    delays.calls.pop()[1]()
    assert len(log.lines) == 5


def test_results_that_nothing_follows_are_appended_when_their_time_is_up(log: Log) -> None:
    delays = Delays()
    turn = Turn(log, log.later.append, delays)
    for text in ("r1", "r2"):
        result(turn, Flow(log, "one"), text)
        log.later.pop()()
    delays.calls.pop()[1]()
    assert log.lines[-1] == "append one.r1 one.r2"
    result(turn, Flow(log, "one"), "r3")
    log.later.pop()()
    turn.append([event("one.close", EventKind.CLOSE)])
    assert (log.lines[-2:], len(delays.calls)) == (["append one.r3", "append one.close"], 1)


@pytest.mark.parametrize("follows", ["time", "statement", "close"])
def test_sessions_whose_results_cannot_be_recorded_end(log: Log, follows: str) -> None:
    delays = Delays()
    turn = Turn(log, log.later.append, delays)
    one, two = Flow(log, "one"), Flow(log, "two")
    result(turn, one, "r1")
    result(turn, two, "r2")
    log.later.pop()()
    log.broken = True
    if follows == "time":
        delays.calls.pop()[1]()
    elif follows == "statement":
        add(turn, two, "a")
        log.later.pop()()
    else:
        with pytest.raises(JournalError):
            turn.append([event("close")])
    assert log.lines == ["one r1", "two r2", "one cut: no space", "two cut: no space"]


def test_a_result_that_nobody_can_write_ends_its_own_session_and_no_other(log: Log) -> None:
    turn = Turn(log, log.later.append, Delays())
    one, two = Flow(log, "one"), Flow(log, "two")
    result(turn, one, "r1")
    result(turn, two, "long")
    log.later.pop()()
    add(turn, one, "a")
    log.later.pop()()
    assert log.lines[2:] == ["append one.r1", "two cut: too long", "append one.a", "one a"]
