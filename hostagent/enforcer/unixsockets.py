"""Which unix sockets with a path exist on this host, from every network namespace that a process is in.

A path reaches across network namespaces, so the list must too. ``/proc/PID/net/unix`` shows the namespace of PID. What it
shows is the name that was given to bind(2): relative to a folder that is not told, or before the file was moved. So the files
themselves are looked for, in every folder that such a name can mean.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MAXIMUM_ENTRIES = 20_000
"""Most entries of one folder that are looked at."""


def pathnames() -> frozenset[str]:
    """Return the absolute paths of unix sockets: as their makers named them, and as they are found in these folders."""
    seen: set[int] = set()
    names: set[str] = set()
    places: set[str] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            places |= {str((entry / link).readlink()) for link in ("cwd", "root")}
            namespace = (entry / "ns/net").stat().st_ino
            if namespace not in seen:
                names |= parse((entry / "net/unix").read_text(errors="surrogateescape"))
                seen.add(namespace)
    absolute = {name for name in names if name.startswith("/")}
    candidates = absolute | {f"{place.rstrip('/')}/{name.lstrip('/')}" for place in places for name in names}
    folders = {str(Path(os.path.normpath(name)).parent) for name in candidates}
    return frozenset(absolute | {path for folder in folders for path in sockets_in(folder)})


def parse(table: str) -> frozenset[str]:
    """Return the names in the text of ``/proc/net/unix``, absolute or not (abstract and unbound sockets have none)."""
    # Seven columns, then the name, which may hold spaces; abstract ones begin with "@".
    rows = (line.split(None, 7) for line in table.splitlines()[1:])
    return frozenset(row[7] for row in rows if len(row) == 8 and not row[7].startswith("@"))


def sockets_in(folder: str) -> Iterator[str]:
    """Yield the paths of the socket files in ``folder``; nothing where there is no such folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_MAXIMUM_ENTRIES), entries, strict=False):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    yield entry.path
