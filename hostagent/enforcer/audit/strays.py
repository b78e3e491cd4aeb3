"""Processes of a leaf's pid namespace that are not in the leaf: root moved them out, so no fence sees what they do.

The namespace is what a process cannot be moved out of. Each look asks the leaf's own /proc, which lists its members and nobody
else; only when one of them is elsewhere are the host's processes gone through for who it is. Of a process whose first thread has
ended the kernel tells the cgroup in which that thread was: its other threads are asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from hostagent.enforcer.cgroup import Leaf

_EXITING = 0x4
"""PF_EXITING (linux/sched.h), as in the flags of /proc/PID/stat."""
_AT_ONCE = 64


class Stray:
    """A process that was seen outside its leaf, and its pidfd: still the same process. Close it after use."""

    def __init__(self, pid: int, descriptor: int, place: str) -> None:
        """Take the pidfd over; ``place`` is the cgroup that it is in."""
        self.pid = pid
        self.descriptor = descriptor
        self.place = place

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def strays(first: int, leaf: Leaf) -> Iterator[Stray | None]:
    """Yield the members of the pid namespace of process ``first`` that are outside ``leaf``; None now and then, to pause at.

    Raises:
        OSError: we may not look, or the leaf has no /proc.
    """
    try:
        namespace = Path(f"/proc/{first}/ns/pid").stat()
        proc = os.open(f"/proc/{first}/root/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        if _ended(first):
            return
        raise
    suspected = False
    try:
        if not _is_of(proc, namespace):
            if _ended(first):
                return
            raise OSError(f"what is mounted at /proc of {leaf.name} is not its own")
        for member, name in enumerate(_numbers(proc)):
            suspected = suspected or not _within(_place(f"{name}/cgroup", proc), leaf)
            if member % _AT_ONCE == _AT_ONCE - 1:
                yield None
    finally:
        os.close(proc)
    if suspected:
        yield from _found(namespace, leaf)
    for pid in leaf.headless():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stray = _stray(pid, namespace, leaf)
            if stray is not None:
                yield stray
        yield None


def _found(namespace: os.stat_result, leaf: Leaf) -> Iterator[Stray | None]:
    for seen, name in enumerate(_numbers("/proc")):
        pid = int(name)
        # Some of the host's may be closed even to root (a security module, another user namespace); the leaf's are not: it is looked into.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if os.path.samestat(Path(f"/proc/{pid}/ns/pid").stat(), namespace):
                stray = _stray(pid, namespace, leaf)
                if stray is not None:
                    yield stray
        if seen % _AT_ONCE == _AT_ONCE - 1:
            yield None


def _stray(pid: int, namespace: os.stat_result, leaf: Leaf) -> Stray | None:
    """Return the process if it is outside; it is looked for in the leaf before it is asked whether it lives, so it was alive then."""
    descriptor = os.pidfd_open(pid)
    try:
        same = os.path.samestat(Path(f"/proc/{pid}/ns/pid").stat(), namespace)
        place = (_thread_outside(pid, leaf) if pid in leaf.processes() else _place(f"/proc/{pid}/cgroup")) if same else ""
        if place and not _ended(pid):
            return Stray(pid, os.dup(descriptor), place)
    finally:
        os.close(descriptor)
    return None


def _thread_outside(pid: int, leaf: Leaf) -> str:
    """Return the cgroup of a thread that is not in the leaf, empty where all are. They are moved together, or within one subtree."""
    for name in _numbers(f"/proc/{pid}/task"):
        place = _place(f"/proc/{pid}/task/{name}/cgroup")
        if not _within(place, leaf):
            return place
    return ""


def _is_of(proc: int, namespace: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat("1/ns/pid", dir_fd=proc), namespace)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _ended(pid: int) -> bool:
    """Whether nothing of the process runs any more; a first thread that ended before others is still a process (proc(5): stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # On its way out it has no root any more before it is a zombie.
    return (fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _EXITING)) and int(fields[17]) <= 1


def _place(path: str, folder: int | None = None) -> str:
    """Return the cgroup that a ``cgroup`` file of /proc names, empty if the process has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            text = os.read(descriptor, 8192)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line[3:].decode(errors="replace") for line in text.splitlines() if line.startswith(b"0::")), "")


def _within(place: str, leaf: Leaf) -> bool:
    """Whether a process in cgroup ``place`` is in the leaf; one that has ended is nowhere else."""
    return not place or f"{place}/".startswith(f"/{leaf.rule_path}/")


def _numbers(folder: int | str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.name.isdecimal()]
