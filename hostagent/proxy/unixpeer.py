"""Who dialled a leaf's unix listener, by the kernel's word.

The listener stands in the leaf's own view, so whoever dials it is of the leaf; except root, and a process outside that has the
uid of a workload that runs as a login user, which can both enter a view through ``/proc``.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import NamedTuple

_PEERCRED = struct.Struct("=iii")


class Dialler(NamedTuple):
    """The process and user that called connect(2). ``stranger``: why it counts as outside the leaf, empty if it does not."""

    pid: int
    uid: int
    stranger: str


def dialler(connection: socket.socket, uid: int, slice_name: str, leaf: str) -> Dialler:
    """Return who dialled ``connection``.

    Args:
        connection: accepted.
        uid: the leaf's.
        slice_name: the cgroup that holds the leaves.
        leaf: the leaf's cgroup in it.

    Raises:
        OSError: the kernel does not say.
    """
    pid, peer_uid, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return Dialler(pid, peer_uid, "" if peer_uid == uid and _inside(pid, f"{slice_name}/{leaf}") else "dialled from outside the leaf")


def _inside(pid: int, leaf: str) -> bool:
    """Whether ``pid`` is in the leaf; one that is gone is not: unknown means no."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return False
    # From the root on: who owns a part of the tree can call what is in it as he likes.
    return any(f"{line}/".startswith(f"0::/{leaf}/") for line in lines)
