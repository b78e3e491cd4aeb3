"""A turn: one append for all that a turn forwards, nothing before it, and nothing at all when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hostagent.model.command import Command, Forward, Record
from hostagent.model.errors import JournalError, UnwritableEventError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Side
from hostagent.proxy.turn import Turn


def event(name: str) -> Event:
    return Event(EventKind.STATEMENT, 1, name, "bot", {})


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
