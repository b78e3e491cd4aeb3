"""Which unix sockets with a path exist on this host, from every network namespace that a process is in.

A path reaches across network namespaces, so the list must too. ``/proc/PID/net/unix`` shows the namespace of PID.
"""

from __future__ import annotations

import contextlib
from pathlib import Path


def pathnames() -> frozenset[str]:
    """Return the absolute paths that unix sockets are bound to, as their makers named them."""
    seen: set[int] = set()
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            namespace = (entry / "ns/net").stat().st_ino
            if namespace in seen:
                continue
            found |= parse((entry / "net/unix").read_text(errors="surrogateescape"))
            seen.add(namespace)
    return frozenset(found)


def parse(table: str) -> frozenset[str]:
    """Return the absolute paths in the text of ``/proc/net/unix`` (abstract and unbound sockets have none)."""
    rows = (line.split(" ", 7) for line in table.splitlines()[1:])
    # The last column is set off by a varying number of spaces because the inode is right-aligned.
    columns = (line[-1].lstrip() for line in rows if len(line) == 8)
    paths = (column[column.index("/") :] for column in columns if "/" in column)
    return frozenset(path for path in paths if path.startswith("/"))
