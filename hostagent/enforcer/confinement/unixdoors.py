"""A leaf's unix listeners: one per declared unix socket of a target, bound here, served by the proxy, never read from by us.

The file of each is made in a folder that only root may enter, and is mounted at the declared path in the workload's view
(``standins``). A unix listener that was shut cannot be opened again, so while the proxy is gone its file permits nobody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.standins import StandIn

_BACKLOG = 512


class UnixDoor:
    """One listener and its file, ``place``."""

    def __init__(self, place: Path, path: str, returned: socket.socket | None = None) -> None:
        """Bind at ``place``, for ``path`` in the workload's view; nobody can dial before ``open``.

        ``returned``: the listener of an earlier enforcerd, bound there and in view already, instead.

        Raises:
            OSError: the kernel refused a step.
        """
        self.path = path
        self.place = place
        self._tree = -1
        self._place = -1
        if returned is not None:
            self.listener = returned
            self._place = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            return
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self.listener.bind(str(self.place))
            self._place = os.open(self.place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._permit(0)
            self._tree = kernel.open_tree(self._place)
            add = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
            kernel.mount_setattr(self._tree, add=add)
        except OSError:
            self.close()
            raise

    @property
    def stand_in(self) -> StandIn:
        """What the workload's first process mounts."""
        return StandIn(self.path, self._tree)

    @property
    def file(self) -> tuple[int, int]:
        """Device and inode number of its file."""
        status = os.fstat(self._place)
        return status.st_dev, status.st_ino

    def open(self) -> None:
        """Let dials in."""
        self.listener.listen(_BACKLOG)
        self._permit(0o666)

    def shut(self) -> None:
        """Refuse dials from now on (permission denied), end those that wait unheard. ``open`` undoes it."""
        self._permit(0)
        with contextlib.suppress(BlockingIOError, OSError):  # EINVAL: it was not open yet
            for _ in range(2 * _BACKLOG):
                self.listener.accept()[0].close()

    def close(self) -> None:
        """Give everything back."""
        self.listener.close()
        self.place.unlink(missing_ok=True)
        for descriptor in (self._tree, self._place):
            if descriptor >= 0:
                os.close(descriptor)
        self._tree = self._place = -1

    def _permit(self, mode: int) -> None:
        Path(f"/proc/self/fd/{self._place}").chmod(mode)


def unix_doors(runtime: str, paths: Sequence[str]) -> list[UnixDoor]:
    """Return a bound listener for each of ``paths``, all or none.

    Raises:
        OSError: the kernel refused a step.
    """
    folder = folder_in(runtime)
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as undo:
        made = []
        for path in paths:
            made.append(UnixDoor(folder / secrets.token_hex(8), path))
            undo.callback(made[-1].close)
        undo.pop_all()
    return made


def folder_in(runtime: str) -> Path:
    """Return where the files are made; whoever removes the runtime folder removes it too."""
    return Path(runtime) / "sockets"


def clear(runtime: str, kept: Collection[str] = ()) -> None:
    """Remove what an enforcerd that was killed left behind, but for the files ``kept``."""
    with contextlib.suppress(FileNotFoundError):
        for left in folder_in(runtime).iterdir():
            if str(left) not in kept:
                left.unlink()
        if not kept:
            folder_in(runtime).rmdir()
