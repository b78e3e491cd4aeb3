"""Which unix sockets that can be dialled by a path exist now, in every network namespace that a process is in.

Cheap enough to be asked twice a second: the tables of sockets are read each time, the processes' namespaces once a second, and
folders only for what is new.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from hostagent.enforcer.confinement import mounts
from hostagent.enforcer.confinement.beholders import Beholders, look_around
from hostagent.enforcer.confinement.unixsockets import found_at

_AGAIN_S = 1.0
_LISTENS = "00010000"
_DATAGRAM = "0002"


class Born(NamedTuple):
    """One socket: its network namespace and its own inode number, which together are not used twice."""

    namespace: int
    inode: int


class BornSockets:
    """Ask ``now``, then ``paths_of`` about what is new in it."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._namespaces: dict[int, int] = {}
        self._due = 0.0
        self._around: Beholders | None = None

    def now(self, monotonic_s: float) -> dict[Born, str]:
        """Return every socket that listens or receives datagrams at a path, with the name that its maker gave."""
        self._around = None
        if monotonic_s >= self._due:
            self._namespaces = dict(_namespaces())
            self._due = monotonic_s + _AGAIN_S
        found: dict[Born, str] = {}
        for namespace, pid in self._namespaces.items():
            table = _read(namespace, pid)
            if table is None:
                self._due = 0.0  # the process that stood for it is gone; others may be in it
            else:
                found |= table
        return found

    def living(self, borns: Collection[Born]) -> set[Born]:
        """Return those of ``borns`` that are there still."""
        tables = {number: _read(number, self._namespaces.get(number, 0)) or {} for number in {each.namespace for each in borns}}
        return {each for each in borns if each in tables[each.namespace]}

    def files(self, names: Collection[str]) -> dict[str, set[str]]:
        """Return the socket files in the folders that ``names`` can mean, for files are renamed and linked; each with the names that mean itself."""
        if self._around is None:
            self._around = look_around()
        around = self._around
        found: dict[str, set[str]] = {}
        for places, absolute in ((around.roots, True), (around.folders, False)):
            some = [name for name in names if name.startswith("/") is absolute]
            for path, called in (found_at(some, places) if some else {}).items():
                found.setdefault(path, set()).update(called)
        for name in names:
            if name.startswith("/"):  # also where only the workload sees it
                found.setdefault(os.path.normpath(name), set()).add(name)
        meant = around.renamed(names)
        for path, called in (found_at(meant, ["/"]) if meant else {}).items():
            found.setdefault(path, set()).update(*(meant[each] for each in called))
        for path, called in list(found.items()):
            for alias in mounts.elsewhere(path, around.twice):
                found.setdefault(alias, set()).update(called)
        return found


def _namespaces() -> Iterator[tuple[int, int]]:
    """Yield each network namespace with a process that is in it."""
    for name in _numbers("/proc"):
        with contextlib.suppress(OSError):
            yield _namespace(int(name)), int(name)


def _namespace(pid: int) -> int:
    # Asked of every process of the host each second: pathlib would double what that costs, and stat(2) again.
    return int(os.readlink(f"/proc/{pid}/ns/net")[len("net:[") : -1])  # noqa: PTH115


def _read(namespace: int, pid: int) -> dict[Born, str] | None:
    try:
        if _namespace(pid) != namespace:
            return None
        table = Path(f"/proc/{pid}/net/unix").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return None
    found: dict[Born, str] = {}
    # Address, references, protocol, flags, type, state, inode, name; an accepted connection has its listener's name too.
    for line in table.split("\n")[1:]:
        row = line.split(None, 7)
        if len(row) == 8 and row[7][0] != "@" and (row[3] == _LISTENS or row[4] == _DATAGRAM):
            found[Born(namespace, int(row[6]))] = row[7]
    return found


def _numbers(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.name.isdigit()]
