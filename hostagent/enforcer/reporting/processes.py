"""Which program started which: forks, execs and exits in, chains of programs out. Pure; the kernel's records are the only source.

A process is named by its id and the moment of its fork, which never comes twice; what it runs by a count that the kernel
keeps (0: the copy that fork made). So a record that was lost leaves a name that is not known here, and everything that
depends on it is *unknown*: no chain is better than a wrong one.

Memory is bounded: so many processes per leaf, so many programs per chain, and an ended process is kept a little while only.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_KEPT_NS = 30_000_000_000
_MAXIMUM_PER_LEAF = 8192
_IMAGES_KEPT = 4
_LONGEST = 48
_NEAREST = 24
_FARTHEST = 16


class Link(NamedTuple):
    """One program of a chain. ``start_ns`` is the fork of its process on the boot clock; ``argv`` is redacted."""

    pid: int
    start_ns: int
    exe: str
    argv: tuple[str, ...]
    uid: int
    comm: str


Chain = tuple[Link, ...]
"""A program, then the one that started it, and so on up to the program that was launched."""


class Name(NamedTuple):
    """A process at a moment: its id, when it was forked (0: not known), and how many programs it had executed by then."""

    pid: int
    start_ns: int
    image: int


class _Process:
    """``before``: the chain of whoever forked it; None: not known. ``chains``: by image, the latest few."""

    __slots__ = ("before", "chains", "leaf")

    def __init__(self, leaf: int, before: Chain | None) -> None:
        self.leaf = leaf
        self.before = before
        self.chains: dict[int, Chain | None] = {}


class Processes:
    """The processes of every leaf. Leaves are named by their cgroup ids."""

    def __init__(self) -> None:
        """Empty."""
        self._processes: dict[tuple[int, int], _Process] = {}
        self._counts: dict[int, int] = {}
        self._roots: dict[int, int] = {}
        self._ended: deque[tuple[int, tuple[int, int]]] = deque()

    def __len__(self) -> int:
        """How many processes are kept."""
        return len(self._processes)

    def root(self, leaf: int, pid: int) -> None:
        """Say which process, itself not of the workload, starts the leaf's program: chains end there."""
        self._roots[leaf] = pid
        self._counts.setdefault(leaf, 0)

    def forget(self, leaf: int) -> None:
        """Drop everything of a leaf that has ended."""
        self._roots.pop(leaf, None)
        self._counts.pop(leaf, None)
        for key in [key for key, process in self._processes.items() if process.leaf == leaf]:
            del self._processes[key]

    def fork(self, leaf: int, parent: Name, child: Name, uid: int, comm: str) -> None:
        """A process was made. It runs what its parent ran at that moment."""
        if leaf not in self._roots or self._counts[leaf] >= _MAXIMUM_PER_LEAF:
            return
        before = self._before(leaf, parent)
        process = _Process(leaf, before)
        if before:
            copied = before[0]
            process.chains[0] = _joined(Link(child.pid, child.start_ns, copied.exe, copied.argv, uid, comm), before)
        else:
            # The launched program before its first exec is ours, and says nothing.
            process.chains[0] = before
        self._processes[child.pid, child.start_ns] = process
        self._counts[leaf] += 1

    def exec(self, leaf: int, process: Name, link: Link) -> None:
        """A process runs another program from now on; ``process.image`` is the new one's number."""
        found = self._processes.get((process.pid, process.start_ns))
        if found is None or found.leaf != leaf:
            return
        # The first program stands in place of the copy that fork made; later ones were started by the one before.
        before = found.before if process.image == 1 else found.chains.get(process.image - 1)
        found.chains[process.image] = None if before is None else _joined(link, before)
        if len(found.chains) > _IMAGES_KEPT:
            del found.chains[min(found.chains)]

    def exit(self, pid: int, start_ns: int, at_ns: int) -> None:
        """A process ended (or its first thread); what is still to be told about it is told within half a minute."""
        if (pid, start_ns) in self._processes:
            self._ended.append((at_ns, (pid, start_ns)))

    def expire(self, now_ns: int) -> None:
        """Drop what ended long ago (``now_ns``: the boot clock). What it started keeps it in its chain."""
        while self._ended and self._ended[0][0] < now_ns - _KEPT_NS:
            self._drop(self._ended.popleft()[1])

    def chain(self, leaf: int, process: Name) -> Chain:
        """Return the chain that led to what ``process`` ran, itself first; empty where any part of it is not certain."""
        found = self._processes.get((process.pid, process.start_ns))
        if found is None or found.leaf != leaf:
            return ()
        return found.chains.get(process.image) or ()

    def _before(self, leaf: int, parent: Name) -> Chain | None:
        if not parent.start_ns:
            return () if self._roots.get(leaf) == parent.pid else None
        return self.chain(leaf, parent) or None

    def _drop(self, key: tuple[int, int]) -> None:
        process = self._processes.pop(key, None)
        if process is not None and process.leaf in self._counts:
            self._counts[process.leaf] -= 1


def _joined(link: Link, before: Chain) -> Chain:
    """Put ``link`` in front; a chain that becomes too long loses its middle, and says so."""
    if len(before) >= _LONGEST:
        gone = len(before) - _NEAREST - _FARTHEST
        before = (*before[:_NEAREST], Link(0, 0, "", (f"<{gone} or more programs>",), 0, ""), *before[-_FARTHEST:])
    return (link, *before)
