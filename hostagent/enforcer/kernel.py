"""System calls that Python 3.11 does not have, each raising OSError like the ones it has."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000


_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

# Numbers from 424 on are the same on every architecture.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_PIDFD_GETFD = 438
_SYS_MOUNT_SETATTR = 442

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
# NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS (uapi/linux/securebits.h).
_SECUREBITS = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)

OURS_ALONE: set[int] = set()
"""Descriptors whose last copy must be ours, because closing them means something: no child may keep one."""


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def system_call(number: int, *arguments: object, what: str) -> int:
    """Make system call ``number``, which libc has no name for; return its result."""
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def text_of(path: str) -> str:
    """Return a text of the kernel's. Others give names in it: any bytes, which read as text may be none, or more lines than there are."""
    return os.fsdecode(Path(path).read_bytes())


def unshare(flags: int) -> None:
    """Leave the namespaces of the kinds in ``flags`` for new ones (unshare(2))."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace behind ``descriptor`` (setns(2))."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount ``source`` on ``target``; an empty string is a null pointer (mount(2))."""
    arguments = [os.fsencode(text) if text else None for text in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None)
    _check(result, f"mount {kind or source} on {target}")


def unmount(target: str, flags: int = 0) -> None:
    """Unmount what is mounted last on ``target`` (umount2(2))."""
    _check(_libc.umount2(os.fsencode(target), flags), f"unmount {target}")


def open_tree(place: int) -> int:
    """Return the descriptor of a detached copy of the mounts at and below what is open as ``place`` (open_tree(2))."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE | _AT_EMPTY_PATH
    return _check(_libc.syscall(_SYS_OPEN_TREE, place, b"", flags), "open_tree")


def move_mount_over(tree: int, place: int) -> None:
    """Attach a detached mount over what is open as ``place`` in this mount namespace; closes ``tree`` (move_mount(2))."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    try:
        _check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", place, b"", flags), "move_mount")
    finally:
        os.close(tree)


def open_inside(root: int, path: str) -> int:
    """Return an O_PATH descriptor of ``path`` as it is for somebody whose root is open as ``root`` (openat2(2))."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    arguments = (ctypes.c_int(root), os.fsencode(path), how, ctypes.c_size_t(len(how)))
    return system_call(_SYS_OPENAT2, *arguments, what=f"open {path}")


def move_mount(tree: int, target: str) -> None:
    """Attach a detached mount at ``target`` (move_mount(2))."""
    result = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(result, f"move_mount to {target}")


class _MountAttributes(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def mount_setattr(
    target: int | str, *, add: int = 0, clear: int = 0, recursive: bool = True, userns: int = 0
) -> None:
    """Change the attributes of the mount at a path, or of a detached mount by descriptor (mount_setattr(2), 5.12)."""
    attributes = _MountAttributes(add, clear, 0, userns)
    flags = _AT_RECURSIVE if recursive else 0
    directory, path = (_AT_FDCWD, os.fsencode(target)) if isinstance(target, str) else (target, b"")
    if not path:
        flags |= _AT_EMPTY_PATH
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, directory, path, flags, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    _check(result, f"mount_setattr {target}")


def _prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)][:4]
    return int(_libc.prctl(option, *padded))


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that their ends are seen."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER")


def not_dumpable() -> None:
    """Nobody of the same uid may look into this process."""
    _check(_prctl(_PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE")


def lock_privileges() -> None:
    """Empty the bounding and ambient sets and lock the bits by which uid 0 or a set-uid file would get capabilities.

    Needs CAP_SETPCAP, so it comes before ``drop_capabilities`` and before the uid changes.
    """
    for capability in range(_LAST_CAPABILITY + 1):
        if _prctl(_PR_CAPBSET_READ, capability) == 1:
            _check(_prctl(_PR_CAPBSET_DROP, capability), f"PR_CAPBSET_DROP {capability}")
    _check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL), "PR_CAP_AMBIENT")
    _check(_prctl(_PR_SET_SECUREBITS, _SECUREBITS), "PR_SET_SECUREBITS")


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets of this process."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, data), "capset")


def no_new_privileges() -> None:
    """No exec of this process or its children ever gains a privilege."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def set_seccomp_filter(program: bytes) -> None:
    """Install a classic BPF program (eight bytes per instruction) as this process's system call filter, for good."""
    structure = _FilterProgram(len(program) // 8, program)
    result = _libc.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(structure), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    _check(result, "PR_SET_SECCOMP")


def set_notifying_filter(program: bytes) -> int:
    """Install ``program`` as ``set_seccomp_filter`` does; return the descriptor on which its notifications arrive (Linux 5.0).

    Raises:
        OSError: EBUSY: a filter that is already there has a listener, and there can be but one. Nothing was installed.
    """
    structure = _FilterProgram(len(program) // 8, program)
    number = _SYS_SECCOMP[os.uname().machine]
    arguments = (_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_NEW_LISTENER, ctypes.byref(structure))
    return system_call(number, *arguments, what="SECCOMP_SET_MODE_FILTER")


def take_descriptor(process: int, number: int) -> int:
    """Return a duplicate of descriptor ``number`` of the process (or thread) behind a pidfd (pidfd_getfd(2)).

    Raises:
        OSError: EBADF (closed meanwhile), ESRCH (ended meanwhile), EPERM (not ours to look into).
    """
    return system_call(_SYS_PIDFD_GETFD, ctypes.c_int(process), ctypes.c_int(number), ctypes.c_uint(0), what="pidfd_getfd")


def disconnect(descriptor: int) -> None:
    """Break a TCP or UDP socket off its peer, whoever else holds it: a reset, and nothing queued leaves (connect(2), AF_UNSPEC)."""
    nowhere = bytes(16)
    _check(_libc.connect(ctypes.c_int(descriptor), nowhere, ctypes.c_uint(len(nowhere))), "disconnect")


def fork() -> int:
    """Fork as ``os.fork`` does; return once the child has closed its copies of ``OURS_ALONE``.

    Raises:
        OSError: no process could be made.
    """
    said, say = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            for descriptor in OURS_ALONE:
                os.close(descriptor)
            OURS_ALONE.clear()
        os.close(say)
        if pid != 0:
            os.read(said, 1)  # its end, or the child's
        return pid
    finally:
        os.close(said)


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on."""
    if _libc.syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), 0) < 0:
        os.closerange(first, 1_048_576)


@contextlib.contextmanager
def in_network(descriptor: int) -> Iterator[None]:
    """Run the body in the network namespace ``descriptor``. The process must have one thread.

    Sockets made inside belong to that namespace for good; programs started inside inherit it.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)
