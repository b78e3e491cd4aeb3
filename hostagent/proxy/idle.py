"""The time that a session is given: to sign in, and, where connections are many and short-lived in use, to carry something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

_LOOKS = 4
"""How often within the idle time is looked: the end comes up to a quarter of it late."""


class Signing(Protocol):
    """What of a gate is of interest here."""

    @property
    def signed_in(self) -> bool:
        """Whether sign-in is complete."""

    @property
    def deadline(self) -> float | None:
        """When a hold is due for something; None: nothing is held."""


class Watched(Protocol):
    """What of a session is of interest here."""

    @property
    def gate(self) -> Signing:
        """Its gate."""

    @property
    def bytes_up(self) -> int:
        """Bytes received from the workload."""

    @property
    def bytes_down(self) -> int:
        """Bytes received from the target."""

    def cut(self, reason: str) -> None:
        """End it."""


class Watch:
    """Ends one session that is late. ``cancel`` when the session is over."""

    def __init__(
        self, session: Watched, login_s: float, idle_s: float | None, later: Callable[[float, Callable[[], None]], asyncio.TimerHandle]
    ) -> None:
        """Begin now. ``idle_s``: seconds without a byte in either direction, None for any time; a held operation may wait longer."""
        self._session = session
        self._login_s = login_s
        self._idle_s = idle_s
        self._later = later
        self._carried = -1
        self._quiet = 0
        self._handle = later(login_s, self._login_over)

    def cancel(self) -> None:
        """Do nothing any more."""
        self._handle.cancel()

    def _login_over(self) -> None:
        if not self._session.gate.signed_in:
            self._session.cut(f"the login was not complete within {self._login_s:g} s")
        elif self._idle_s is not None:
            self._look()

    def _look(self) -> None:
        session = self._session
        assert self._idle_s is not None
        carried = session.bytes_up + session.bytes_down
        if carried != self._carried or session.gate.deadline is not None:
            self._carried, self._quiet = carried, 0
        else:
            self._quiet += 1
        if self._quiet >= _LOOKS:
            session.cut(f"it carried nothing for {self._idle_s:g} s")
        else:
            self._handle = self._later(self._idle_s / _LOOKS, self._look)
