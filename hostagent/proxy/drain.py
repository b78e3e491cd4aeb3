"""A planned stop: nothing new is accepted, what is under way is finished, the rest is cut when its time is up.

Who dials meanwhile waits in the kernel's queue of the listening port, which enforcerd keeps open for the next proxy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

_LOOK_S = 0.05


class Finishing(Protocol):
    """What of a session is of interest here."""

    @property
    def at_rest(self) -> bool:
        """Whether nothing is open that its end would undo."""

    def cut(self, reason: str) -> None:
        """End it."""


async def drain(sessions: Callable[[], Collection[Finishing]], limit_s: float, *, clock: Callable[[], float] = time.monotonic) -> int:
    """Cut each session as soon as it is at rest; return how many were not within ``limit_s`` (they go on until the caller ends them)."""
    until = clock() + limit_s
    while True:
        for session in list(sessions()):
            if session.at_rest:
                session.cut("hostagent's proxy is being restarted; connect again")
        left = len(sessions())
        if not left or clock() >= until:
            return left
        await asyncio.sleep(_LOOK_S)
