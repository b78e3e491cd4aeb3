"""Descriptors under way: sent to a unix socket and not received yet, so in no process's table.

The first message that carries any is looked at without being taken (MSG_PEEK); the owner of the socket notices nothing.
"""

from __future__ import annotations

import array
import os
import socket
from pathlib import Path

from hostagent.enforcer.audit.descriptors import Table

_SO_PEEK_OFF = 42
_MOST = 253
"""Descriptors in one message (SCM_MAX_FD)."""
_COUNT = "scm_fds:"


def waiting(table: Table, number: int) -> int:
    """Return how many descriptors wait in the queue of the unix socket ``number`` (fdinfo, Linux 5.6)."""
    try:
        text = Path(f"/proc/{table.pid}/task/{table.tid}/fdinfo/{number}").read_text()
    except OSError:
        return 0
    _, found, rest = text.partition(_COUNT)
    return int(rest.split(None, 1)[0]) if found else 0


def peek(descriptor: int) -> list[int]:
    """Return duplicates of the descriptors in the first message that carries any, to be closed by the caller.

    Nothing where its owner peeks by itself at an offset, which our look would move.
    """
    queue = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        if queue.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) >= 0:
            return []
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        _, ancillary, _, _ = queue.recvmsg(1, socket.CMSG_SPACE(_MOST * array.array("i").itemsize), flags)
    except OSError:
        return []
    finally:
        queue.detach()
    found: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            found.extend(numbers)
    return found


def close(descriptors: list[int]) -> None:
    """Close what ``peek`` returned."""
    for each in descriptors:
        os.close(each)
