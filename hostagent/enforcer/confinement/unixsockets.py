"""Which unix sockets with a path exist on this host, from every network namespace that a process is in.

A path reaches across network namespaces, so the list must too. ``/proc/PID/net/unix`` shows the namespace of PID. What it
shows is the name that was given to bind(2): relative to a folder that is not told, before the file was moved, or as the maker's own
mounts have it. So the files themselves are looked for, in every folder that such a name can mean, and wherever else that folder
is mounted.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from hostagent.enforcer.confinement import mounts
from hostagent.enforcer.confinement.beholders import look_around

_MAXIMUM_ENTRIES = 20_000
"""Most entries of one folder that are looked at."""
_FEW = 16
"""Steps that are asked for one by one; of more, the folder is listed instead."""


def pathnames() -> frozenset[str]:
    """Return the absolute paths of unix sockets: as their makers named them, and as they are found in these folders."""
    around = look_around()
    every: set[str] = set()
    meant: set[str] = set()
    for network, process in around.networks.items():
        with contextlib.suppress(OSError):
            names = parse(Path(f"/proc/{process}/net/unix").read_bytes().decode(errors="surrogateescape"))
            every |= names
            meant |= around.renamed(names, network).keys()
    found = {name for name in every if name.startswith("/")}
    found |= found_at(every, around.roots | around.folders).keys() | found_at(meant, ["/"]).keys()
    return frozenset(found | {path for name in found for path in mounts.elsewhere(os.path.normpath(name), around.twice)})


class _Folder:
    """What names say of one folder: the folders in it, and the names that mean a file in it, by the file's own name."""

    __slots__ = ("called", "folders")

    def __init__(self) -> None:
        self.folders: dict[str, _Folder] = {}
        self.called: dict[str, set[str]] = {}


def found_at(names: Iterable[str], places: Iterable[str]) -> dict[str, set[str]]:
    """Return every socket file in the folders that ``names`` can mean, each with those of the names that mean this very file.

    Anybody can make thousands of names and of places (folders that processes are in). So only what exists is followed, each
    folder once: the work is by what there is, not by every name in every place.

    Args:
        names: as they were given to bind(2), absolute or not.
        places: what a name may be relative to, also an absolute one: its maker may have had another root.
    """
    top = _Folder()
    for name in names:
        *steps, last = [step for step in name.split("/") if step not in ("", ".")] or [""]
        here = top
        for step in steps:
            here = here.folders.setdefault(step, _Folder())
        here.called.setdefault(last, set()).add(name)
    found: dict[str, set[str]] = {}
    seen: set[tuple[str, int]] = set()
    waiting = [(place, top) for place in set(places)]
    while waiting:
        state = waiting.pop()
        folder, what = state
        if (folder, id(what)) in seen:
            continue
        seen.add((folder, id(what)))
        waiting.extend((inner, what.folders[step]) for step, inner in _inner(folder, what.folders))
        for path in sockets_in(folder) if what.called else ():
            found.setdefault(path, set()).update(what.called.get(path.rpartition("/")[2], ()))
    return found


def _inner(folder: str, steps: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield those of ``steps`` that are folders in ``folder``, and where they really are."""
    present = steps
    if len(steps) > _FEW:
        with contextlib.suppress(OSError):
            present = {".."} & set(steps) | {name for name in os.listdir(folder) if name in steps}  # noqa: PTH208 - names alone
    for step in present:
        path = os.path.join(folder, step)  # noqa: PTH118 - asked thousands of times
        with contextlib.suppress(OSError):
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode) or step == "..":
                path = os.path.realpath(path)
                mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode):
                yield step, path


def parse(table: str) -> frozenset[str]:
    """Return the names in the text of ``/proc/net/unix``, absolute or not (abstract and unbound sockets have none)."""
    # Seven columns, then the name, which may hold spaces; abstract ones begin with "@".
    rows = (line.split(None, 7) for line in table.split("\n")[1:])
    return frozenset(row[7] for row in rows if len(row) == 8 and not row[7].startswith("@"))


def sockets_in(folder: str) -> Iterator[str]:
    """Yield the paths of the socket files in ``folder``; nothing where there is no such folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_MAXIMUM_ENTRIES), entries, strict=False):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False):
                    continue  # what the folder itself tells, without a look at each
                if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    yield entry.path
