"""A reload: what is on disk is read whole, the rules are loaded, and the proxy is given the same with the secrets.

Everything is read before anything is changed: a document or a credential that cannot be used changes nothing anywhere.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable

from hostagent.enforcer.leaves import Leaves
from hostagent.enforcer.settings import Settings
from hostagent.ipc import Body, Failed, Reloaded, Renew, Renewed

log = logging.getLogger(__name__)

_FIRST_ID = 1 << 29
"""Beyond the numbers of ``Leaves`` and below those of ``Cutting``."""
_PATIENCE_S = 15.0

Answer = Callable[[Reloaded], object]


class Renewal:
    """Reloads under way. Call ``tick`` every half second."""

    def __init__(self, settings: Settings, leaves: Leaves) -> None:
        """Nothing happens before ``begin``."""
        self._settings = settings
        self._leaves = leaves
        self._ids = itertools.count(_FIRST_ID)
        self._asked: dict[int, tuple[Answer, float]] = {}

    def begin(self, answer: Answer) -> None:
        """Reload; ``answer`` gets what came of it once the proxy has said so, or at once where none is attached.

        Raises:
            HostagentError: a document, a credential or the firewall; everything stays as it was.
        """
        read = self._settings.reread() if self._settings.reread is not None else None
        with contextlib.ExitStack() as kept:
            if read is not None:
                kept.callback(os.close, read.secrets)
            self._leaves.reload()
            if read is None:
                answer(Reloaded())
                return
            self._leaves.verification.configure(read.verify_every_s, read.verify_freeze)
            number, proxy = next(self._ids), self._leaves.proxy
            if proxy is None or not proxy.ask(number, Renew(), Renewed, [read.secrets]):
                answer(Reloaded(notes=["the proxy is not attached; it reads everything when it starts"]))
                return
            self._asked[number] = (answer, time.monotonic() + _PATIENCE_S)

    def answered(self, packet_id: int, body: Body) -> bool:
        """Hand on what the proxy says; return whether ``packet_id`` was about a reload."""
        if not _FIRST_ID <= packet_id < 2 * _FIRST_ID:
            return False
        answer, _ = self._asked.pop(packet_id, (None, 0.0))
        if answer is not None and isinstance(body, Renewed):
            answer(Reloaded(body.changes, body.notes, body.problem))
        elif answer is not None:
            answer(Reloaded(problem=body.reason if isinstance(body, Failed) else "the proxy gave no answer"))
        return True

    def tick(self, now: float) -> None:
        """Give up on a proxy that went away or takes too long (``now``: monotonic seconds)."""
        for number, (answer, until) in list(self._asked.items()):
            if now >= until or self._leaves.proxy is None:
                del self._asked[number]
                answer(Reloaded(problem="the proxy did not say whether it took the changes; see its log and `hostagent status`"))


def told(result: Reloaded) -> None:
    """Write to the log what came of a reload that a signal asked for."""
    for line in result.changes:
        log.info("reload: %s", line)
    for line in result.notes:
        log.warning("reload: %s", line)
    if result.problem:
        log.error("reload: the proxy keeps what it had: %s", result.problem)
