"""Cancel keys that we mint, so that a workload can cancel its own statements and nobody else's (PostgreSQL 18 §54.2.9).

A CancelRequest comes on a connection of its own and proves itself only by pid and key. The client never learns the
server's key: it gets ours, which leads here to the session, and the session's own state decides what a cancel means
(void a held operation, or pass on to the server).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NamedTuple, Protocol

from hostagent.wire.postgres.startup import BackendKey

_KEY_SIZE_3_0 = 4
_KEY_SIZE_3_2 = 32
_ATTEMPTS = 100


class CancelEntry(Protocol):
    """A session that can be cancelled."""

    @property
    def workload(self) -> str:
        """Whose session it is; nobody else's cancel is heard."""

    def cancel(self, now: float) -> bytes | None:
        """Return the CancelRequest to send upstream, or None when nothing must be sent (a held operation was withdrawn)."""


class Registered(NamedTuple):
    """What a minted key leads to."""

    key: bytes
    entry: CancelEntry
    flow_id: str


class CancelRegistry:
    """All live sessions by the keys we minted; one per process, shared by every flow."""

    def __init__(self) -> None:
        """Start empty."""
        self._sessions: dict[int, Registered] = {}

    def __len__(self) -> int:
        """Return how many sessions are registered."""
        return len(self._sessions)

    def mint(
        self, random: Callable[[int], bytes], minor: int, entry: CancelEntry, flow_id: str
    ) -> BackendKey:
        """Return a new key for ``entry``: 4 bytes for protocol 3.0 and 3.1, 32 for 3.2.

        Args:
            random: source of unpredictable bytes.
            minor: the minor protocol version agreed on with the client.
            entry: what the key leads to until ``forget``.
            flow_id: the session's flow, for records.

        Raises:
            RuntimeError: no free pid was found, which with a working ``random`` does not happen.
        """
        for _ in range(_ATTEMPTS):
            pid = int.from_bytes(random(4), "big") & 0x7FFFFFFF
            if pid and pid not in self._sessions:
                key = random(_KEY_SIZE_3_2 if minor >= 2 else _KEY_SIZE_3_0)
                self._sessions[pid] = Registered(key, entry, flow_id)
                return BackendKey(pid, key)
        raise RuntimeError("no free process id for a cancel key")

    def lookup(self, pid: int, key: bytes) -> Registered | None:
        """Return the session with this pid and key; the key is compared in constant time."""
        found = self._sessions.get(pid)
        if found is None or not hmac.compare_digest(found.key, key):
            return None
        return found

    def forget(self, key: BackendKey | None) -> None:
        """Drop the session of ``key``; later cancels with it find nothing. None (no key was minted) does nothing."""
        if key is not None:
            self._sessions.pop(key.pid, None)
