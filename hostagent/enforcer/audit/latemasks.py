"""Masks a unix socket that came into a running workload's view after its launch.

The file is opened through the first process's root and covered by that very descriptor, so that nobody can exchange what is
looked at for something else. A short-lived child joins the workload's mounts to do it; the listener that turns dials away is
bound there and comes back to us, who listen, so that who dials it has us for a peer.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.view import STAGE
from hostagent.model.errors import HostagentError

_TIMEOUT_S = 2
_WAITING = 16
_READ_ONLY = os.ST_RDONLY


@dataclass(frozen=True, slots=True)
class InView:
    """A socket file as a workload sees it. ``place`` is an O_PATH descriptor of it, to be closed by ``close``."""

    path: str
    place: int
    device: int
    inode: int
    read_only: bool

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.place)


def look(first: int, path: str) -> InView | None:
    """Return what a workload sees at ``path``, None where that is no socket.

    Args:
        first: pid of the workload's first process.
        path: absolute, as the host names it.
    """
    try:
        root = os.open(f"/proc/{first}/root", os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        place = kernel.open_inside(root, path)
    except OSError:  # not there, or behind what is hidden: then it is no way out either
        return None
    finally:
        os.close(root)
    status = os.fstat(place)
    if not stat.S_ISSOCK(status.st_mode):
        os.close(place)
        return None
    read_only = bool(os.fstatvfs(place).f_flag & _READ_ONLY)
    return InView(path, place, status.st_dev, status.st_ino, read_only)


def cover(first: int, found: Sequence[InView]) -> list[socket.socket]:
    """Put a listener that nobody serves over each of ``found`` and return them, in that order.

    Args:
        first: pid of the workload's first process.
        found: what to cover.

    Raises:
        HostagentError: at least one is not covered.
        OSError: the workload's mounts cannot be joined.
    """
    mounts = os.open(f"/proc/{first}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _child(mounts, theirs, found)
        os.close(mounts)
        theirs.close()
        try:
            return _received(ours, len(found))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _received(ours: socket.socket, wanted: int) -> list[socket.socket]:
    ours.settimeout(_TIMEOUT_S)
    listeners: list[socket.socket] = []
    try:
        while len(listeners) < wanted:
            text, descriptors, _, _ = socket.recv_fds(ours, 1000, 1)
            if not descriptors:
                raise HostagentError(f"a unix socket in view cannot be masked: {text.decode(errors='replace') or 'no answer'}")
            listeners.append(socket.socket(fileno=descriptors[0]))
            listeners[-1].listen(_WAITING)
    except (OSError, HostagentError) as error:
        for each in listeners:
            each.close()
        raise HostagentError(str(error)) from error
    return listeners


def _child(mounts: int, theirs: socket.socket, found: Sequence[InView]) -> None:
    """Cover and report; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number_of in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(number_of, signal.SIG_DFL)
        signal.alarm(_TIMEOUT_S)
        kernel.setns(mounts, kernel.CLONE_NEWNS)
        for each in found:
            listener = _refusing(f"{STAGE}/late-{secrets.token_hex(8)}", each.place)
            socket.send_fds(theirs, [b"covered"], [listener.fileno()])
    except BaseException as error:  # noqa: BLE001 - told to whoever started us
        with contextlib.suppress(OSError):
            theirs.send(str(error).encode(errors="replace")[:900])
    finally:
        os._exit(0)


def _refusing(place: str, target: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(place)
    Path(place).chmod(0o666)
    file = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        kernel.move_mount_over(kernel.open_tree(file), target)
    except FileNotFoundError:
        # Unlinked since it was looked at: no name leads there any more. One that has another name is not gone.
        if os.fstat(target).st_nlink:
            listener.close()
            raise
    return listener
