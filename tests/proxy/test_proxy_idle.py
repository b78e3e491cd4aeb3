"""A session that is late is ended: before it signed in, or when it carries nothing; not while a person is being asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from hostagent.proxy.idle import Watch


@dataclass
class _Gate:
    signed_in: bool = True
    deadline: float | None = None


@dataclass
class _Session:
    gate: _Gate = field(default_factory=_Gate)
    bytes_up: int = 0
    bytes_down: int = 0
    ended: list[str] = field(default_factory=list)

    def cut(self, reason: str) -> None:
        self.ended.append(reason)


class _Clock:
    """Timers that run when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def later(self, delay: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        self.due.append((self.now + delay, what))
        return cast("asyncio.TimerHandle", None)

    def run(self, until: float) -> None:
        while self.due and self.due[0][0] <= until:
            self.now, what = self.due.pop(0)
            what()


def test_who_does_not_sign_in_in_time_is_cut() -> None:
    clock, session = _Clock(), _Session(_Gate(signed_in=False))
    Watch(session, 30, 100, clock.later)
    clock.run(1000)
    assert session.ended == ["the login was not complete within 30 s"]


def test_a_session_that_carries_nothing_is_cut_and_one_that_does_or_that_is_held_is_not() -> None:
    clock, session = _Clock(), _Session()
    Watch(session, 30, 100, clock.later)
    for moment in range(50, 500, 50):
        clock.run(moment)
        session.bytes_down += 1
    session.gate.deadline = 1.0
    clock.run(1000)
    assert session.ended == []
    session.gate.deadline = None
    clock.run(1070)
    assert session.ended == []
    clock.run(1130)
    assert (session.ended, clock.due) == (["it carried nothing for 100 s"], [])


def test_without_an_idle_time_a_session_may_be_silent_for_ever() -> None:
    clock, session = _Clock(), _Session()
    Watch(session, 30, None, clock.later)
    clock.run(1e9)
    assert (session.ended, clock.due) == ([], [])
