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
    # Seven columns, then the path, which may hold spaces; abstract names begin with "@".
    rows = (line.split(None, 7) for line in table.splitlines()[1:])
    return frozenset(row[7] for row in rows if len(row) == 8 and row[7].startswith("/"))
