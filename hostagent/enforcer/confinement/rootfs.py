"""A container image's files as a workload's root: read before the launch without leaving them, and entered by its first process.

The image is unpacked already (``podman export``, ``docker export``, debootstrap): a folder. Its links lead inside it, whoever made
them, and the workload sees nothing else of the host's files.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path
from typing import Protocol

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.plainpath import open_plain, read_public
from hostagent.model.errors import HostagentError

_NEEDED = ("/dev", "/proc", "/sys", "/run", "/tmp")  # noqa: S108 - these are mounted on
_SYS_OPENAT2 = 437  # the same on every architecture
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_RESOLVE_IN_ROOT = 0x10
_RESOLVE_NO_MAGICLINKS = 0x02
_MNT_DETACH = 2
_MOST = 16 * 1024 * 1024
_MOST_ENTRIES = 1_000_000


class Files(Protocol):
    """Where the files that a launch replaces are read from."""

    def read(self, path: str) -> bytes:
        """Return the content of a regular file that every user may read. Raises HostagentError or OSError."""

    def exists(self, path: str) -> bool:
        """Whether there is anything at ``path``, be it a link to nothing."""


class HostFiles:
    """The host's own."""

    def read(self, path: str) -> bytes:
        """See ``read_public``."""
        return read_public(path)

    def exists(self, path: str) -> bool:
        """Whether there is anything at ``path``."""
        return os.path.lexists(path)


class _How(ctypes.Structure):
    """struct open_how."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class ImageFiles:
    """Those of an image; every link is followed as the workload will see it. Close after use."""

    def __init__(self, root: str) -> None:
        """Open the folder ``root``.

        Raises:
            HostagentError: it is no folder, on a path with others' links, or lacks a folder that something must be mounted on.
        """
        try:
            self._place = open_plain(root)
        except OSError as error:
            raise HostagentError(f"root {root}: {error.strerror}") from error
        status = os.fstat(self._place)
        self.inode = (status.st_dev, status.st_ino)
        try:
            lacking = [name for name in _NEEDED if not self._is_folder(name)]
            if not stat.S_ISDIR(status.st_mode) or lacking:
                raise HostagentError(f"root {root}: no image: it has no folder {', '.join(lacking) or root} (mkdir it there)")
        except HostagentError:
            self.close()
            raise

    def read(self, path: str) -> bytes:
        """Return the content of a regular file that every user may read.

        Raises:
            HostagentError: it is something else, or too large.
            OSError: it cannot be opened.
        """
        found = self._open(path, os.O_PATH)
        try:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH or status.st_size > _MOST:
                raise HostagentError(f"{path} in the workload's root: must be a regular file of at most {_MOST} bytes that every user may read")
            return Path(f"/proc/self/fd/{found}").read_bytes()
        finally:
            os.close(found)

    def exists(self, path: str) -> bool:
        """Whether there is anything at ``path``, links not followed at its end."""
        try:
            os.close(self._open(path, os.O_PATH | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let the folder go."""
        os.close(self._place)

    def _is_folder(self, path: str) -> bool:
        try:
            found = self._open(path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            return stat.S_ISDIR(os.fstat(found).st_mode)
        finally:
            os.close(found)

    def _open(self, path: str, flags: int) -> int:
        how = _How(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        size = ctypes.c_size_t(ctypes.sizeof(how))
        return kernel.system_call(_SYS_OPENAT2, self._place, os.fsencode(path), ctypes.byref(how), size, what=path)


def enter(root: str, inode: tuple[int, int]) -> None:
    """Make ``root`` the calling process's root, in a mount namespace of its own whose mounts are private; the host's is let go of.

    Raises:
        HostagentError: it is not the folder that was looked at.
        OSError: a step failed; the process must not go on.
    """
    place = open_plain(root)
    try:
        status = os.fstat(place)
        if (status.st_dev, status.st_ino) != inode:
            raise HostagentError(f"root {root} was exchanged while the workload was being started")
        real = str(Path(f"/proc/self/fd/{place}").readlink())
        tree = kernel.open_tree(place)
    finally:
        os.close(place)
    kernel.move_mount(tree, real)
    os.close(tree)
    os.chdir(real)
    here = ctypes.c_char_p(b".")
    kernel.system_call(_SYS_PIVOT_ROOT[os.uname().machine], here, here, what="pivot_root")
    kernel.unmount(".", _MNT_DETACH)
    os.chdir("/")


def sockets_within() -> frozenset[str]:
    """Return the path of every socket file below the root, which no list of the host's names can be trusted for.

    Raises:
        HostagentError: there are too many files to know.
    """
    found: set[str] = set()
    folders = ["/"]
    seen = 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                    found.add(entry.path)
        if seen > _MOST_ENTRIES:
            raise HostagentError(f"the workload's root holds more than {_MOST_ENTRIES} files; its sockets cannot be found in time")
    return frozenset(path for path in found if stat.S_ISSOCK(os.lstat(path).st_mode))
