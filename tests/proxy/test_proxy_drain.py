"""A planned stop of the proxy: who may finish, who is cut, and for how long."""

from __future__ import annotations

import asyncio

from hostagent.proxy.drain import drain


class _Session:
    def __init__(self, open_sessions: list[_Session], looks: int) -> None:
        """At rest when it has been looked at ``looks`` times."""
        self._open = open_sessions
        self._looks = looks
        self.reason = ""

    @property
    def at_rest(self) -> bool:
        self._looks -= 1
        return self._looks < 0

    def cut(self, reason: str) -> None:
        self.reason = reason
        self._open.remove(self)


def test_a_session_at_rest_ends_at_once_and_an_open_transaction_is_waited_for() -> None:
    sessions: list[_Session] = []
    idle, busy = _Session(sessions, 0), _Session(sessions, 2)
    sessions += [idle, busy]
    assert asyncio.run(drain(lambda: sessions, 30.0)) == 0
    assert "restarted" in idle.reason
    assert "restarted" in busy.reason


def test_what_does_not_finish_in_its_time_is_left_to_be_cut() -> None:
    sessions: list[_Session] = []
    sessions.append(_Session(sessions, 1_000_000))
    now = iter(range(100))
    assert asyncio.run(drain(lambda: sessions, 2.0, clock=lambda: float(next(now)))) == 1
    assert sessions[0].reason == ""
