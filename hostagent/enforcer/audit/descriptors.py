"""The tables of descriptors of a process: which of them are sockets, and a duplicate of any one.

Threads normally share their process's table; one that gave itself its own (unshare(CLONE_FILES)) has it looked at too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from hostagent.enforcer import kernel
from hostagent.enforcer.cgroup import Leaf
from hostagent.enforcer.syscalls import ARCHITECTURES

_BATCH = 256
_KCMP_FILES = 2
_PIDFD_THREAD = os.O_EXCL  # Linux 6.9
_SOCKET = "socket:["
_GONE = (errno.ENOENT, errno.ESRCH)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some descriptors of a table: how many were looked at, and the sockets among them, number and inode."""

    looked_at: int
    found: list[tuple[int, int]]


class Table:
    """The descriptors of thread ``tid`` of process ``pid`` (equal for the process's own table). Close it after use."""

    def __init__(self, pid: int, tid: int) -> None:
        """Nothing is opened yet."""
        self.pid = pid
        self.tid = tid
        self._process = -1

    def sockets(self) -> Iterator[Batch]:
        """Yield all of the table in batches; nothing when the process has ended.

        Raises:
            OSError: we may not look.
        """
        with _ended_is_empty():
            folder = os.open(f"/proc/{self.pid}/task/{self.tid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                names = _names(folder)
                for start in range(0, len(names), _BATCH):
                    part = names[start : start + _BATCH]
                    yield Batch(len(part), _sockets(folder, part))
            finally:
                os.close(folder)

    def take(self, number: int, leaf: Leaf) -> int | None:
        """Return a duplicate of descriptor ``number``; None if it or the process is gone, or is not in ``leaf`` any more.

        Raises:
            OSError: we may not look (a security module forbids it, or a thread's own table before Linux 6.9).
        """
        try:
            if self._process < 0:
                self._process = os.pidfd_open(self.tid, 0 if self.tid == self.pid else _PIDFD_THREAD)
                # Only now is it certain that this is the process that was seen in the leaf and not a later one of its number.
                if self.pid not in leaf.processes():
                    self.close()
                    return None
            return kernel.take_descriptor(self._process, number)
        except OSError as error:
            if error.errno in (*_GONE, errno.EBADF):
                return None
            raise

    def close(self) -> None:
        """Let go of the process."""
        if self._process >= 0:
            os.close(self._process)
            self._process = -1


def tables(pid: int) -> Iterator[Table]:
    """Yield the table of process ``pid`` and those that threads of it have for themselves."""
    yield Table(pid, pid)
    with _ended_is_empty():
        threads = _names(f"/proc/{pid}/task")
        for name in threads if len(threads) > 1 else ():
            if int(name) != pid and not _share(pid, int(name)):
                yield Table(pid, int(name))


def _share(pid: int, tid: int) -> bool:
    """Whether a thread uses its process's table; False where the kernel cannot tell (no CONFIG_KCMP)."""
    number = ARCHITECTURES[os.uname().machine].numbers["kcmp"]
    arguments = [ctypes.c_long(value) for value in (pid, tid, _KCMP_FILES, 0, 0)]
    try:
        return kernel.system_call(number, *arguments, what="kcmp") == 0
    except OSError:
        return False


def _names(folder: int | str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _sockets(folder: int, names: list[str]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for name in names:  # thousands a second: nothing here that costs more than the call itself
        try:
            link = os.readlink(name, dir_fd=folder)
        except FileNotFoundError:
            continue
        if link.startswith(_SOCKET):
            found.append((int(name), int(link[len(_SOCKET) : -1])))
    return found


@contextlib.contextmanager
def _ended_is_empty() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
