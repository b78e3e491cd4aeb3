"""Attempts that are refused one by one, and not by a packet rule: denied system calls, and dials of masked unix sockets.

Both wait for enforcerd: a denied call until it is answered, a dial until it is accepted and closed. So a flood of them slows
nobody but the one who makes it: each leaf has a budget, and what is over it waits for the next tick.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.deniedcalls import CallListener
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.syscalls import ARCHITECTURES
from hostagent.model.event import EventKind

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_AT_ONCE = 1000.0
_PER_S = 500.0
_PER_TURN = 16
_ROWS = 128
"""Most different rows of one leaf in one interval; the rest are counted together."""

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Leaf:
    """What is heard of one leaf. ``paths``: where the sources are (empty: its denied calls); ``tokens`` is what is left of its budget; ``paused`` whether it must wait for the next tick."""

    workload: str
    sources: dict[CallListener | socket.socket, Callable[[], None]] = field(default_factory=dict)
    paths: list[tuple[str, CallListener | socket.socket]] = field(default_factory=list)
    counts: dict[_Key, int] = field(default_factory=dict)
    tokens: float = _AT_ONCE
    paused: bool = False


class AttemptWatch:
    """Answers and counts the attempts of every leaf, and writes them down once a second."""

    def __init__(self, evidence: Evidence, selector: selectors.BaseSelector) -> None:
        """Nothing is heard until a leaf is given."""
        self._evidence = evidence
        self._selector = selector
        self._leaves: dict[str, _Leaf] = {}
        self._due = 0.0
        self._last = 0.0

    def hear_calls(self, governed: Governed, descriptor: int) -> None:
        """Answer a leaf's denied system calls, which arrive at ``descriptor``, from now on."""
        listener = CallListener(descriptor, ARCHITECTURES[os.uname().machine])
        self._add(governed, listener, "", lambda: self._calls(governed.leaf.name, listener))

    def hear_dials(self, governed: Governed, descriptor: int, path: str) -> None:
        """Refuse dials of a masked socket: ``descriptor`` listens in its place at ``path``."""
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
        self._add(governed, listener, path, lambda: self._dials(governed.leaf.name, listener, path))

    def heard(self, leaf: str) -> list[tuple[str, int]]:
        """Return what is heard of a leaf: the path of each masked socket, empty for its denied calls, and the descriptor."""
        found = self._leaves.get(leaf)
        return [(path, source.fileno()) for path, source in found.paths if source in found.sources] if found else []

    def end(self, governed: Governed) -> None:
        """A leaf has ended: write down what is left and let go of it."""
        leaf = self._leaves.get(governed.leaf.name)
        if leaf is None:
            return
        if not leaf.paused:
            for heard in list(leaf.sources.values()):
                heard()
        self._write(governed.leaf.name, leaf)
        for source in list(leaf.sources):
            self._drop(leaf, source)
        del self._leaves[governed.leaf.name]

    def tick(self, now: float) -> None:
        """Give every leaf its due and, once a second, write down what was counted (``now``: monotonic seconds)."""
        earned = min(1.0, now - self._last) * _PER_S
        self._last = now
        for leaf in self._leaves.values():
            leaf.tokens = min(_AT_ONCE, leaf.tokens + earned)
            if leaf.paused and leaf.tokens >= 1:
                leaf.paused = False
                for source, heard in leaf.sources.items():
                    self._selector.register(source, selectors.EVENT_READ, heard)
        if now >= self._due:
            self.flush()
            self._due = now + _INTERVAL_S

    def flush(self) -> None:
        """Write down what was counted."""
        for name, leaf in self._leaves.items():
            self._write(name, leaf)

    def _add(self, governed: Governed, source: CallListener | socket.socket, path: str, heard: Callable[[], None]) -> None:
        leaf = self._leaves.setdefault(governed.leaf.name, _Leaf(governed.workload.name))
        leaf.sources[source] = heard
        leaf.paths.append((path, source))
        if not leaf.paused:
            self._selector.register(source, selectors.EVENT_READ, heard)

    def _calls(self, name: str, listener: CallListener) -> None:
        leaf = self._leaves[name]
        for denied in listener.answer(_PER_TURN):
            self._count(leaf, ("seccomp", "", f"system call refused: {denied.what}"))
        if listener.over:
            self._drop(leaf, listener)
        self._spend(leaf)

    def _dials(self, name: str, listener: socket.socket, path: str) -> None:
        leaf = self._leaves[name]
        for _ in range(_PER_TURN):
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            except OSError as error:
                log.warning("a masked socket of %s is not heard any more: %s", name, error)
                self._drop(leaf, listener)
                break
            self._count(leaf, ("mount", path, "a unix socket of the host, which is not declared"))
        self._spend(leaf)

    def _count(self, leaf: _Leaf, key: _Key) -> None:
        if key not in leaf.counts and len(leaf.counts) >= _ROWS:
            key = (key[0], "various" if key[1] else "", "various" if not key[1] else key[2])
        leaf.counts[key] = leaf.counts.get(key, 0) + 1
        leaf.tokens -= 1

    def _spend(self, leaf: _Leaf) -> None:
        """Let a leaf that has used its budget up wait."""
        if leaf.tokens >= 1 or leaf.paused:
            return
        leaf.paused = True
        for source in leaf.sources:
            self._selector.unregister(source)

    def _drop(self, leaf: _Leaf, source: CallListener | socket.socket) -> None:
        if not leaf.paused:
            self._selector.unregister(source)
        del leaf.sources[source]
        source.close()

    def _write(self, name: str, leaf: _Leaf) -> None:
        counts, leaf.counts = leaf.counts, {}
        for (layer, destination, reason), count in counts.items():
            fields: dict[str, object] = {
                "layer": layer,
                "leaf": name,
                "source": "",
                "destination": destination,
                "transport": "unix" if layer == "mount" else "",
                "reason": reason,
                "count": count,
            }
            self._evidence.note(EventKind.REFUSAL, leaf.workload, fields)
