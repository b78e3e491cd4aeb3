"""What a workload sees of the host's files: everything read-only, except what could lead out or tell a secret.

Runs in the workload's first process, in mount and pid namespaces of its own, still with every capability. Private and empty:
/run, /tmp, /var/tmp, /dev (with the harmless devices), /proc and /sys. Left out: file systems that are not this host's own.
Covered: the service's own folders, and every unix socket left in view. Replaced: how names are looked up, and whom TLS clients trust.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement import foreign, rootfs
from hostagent.enforcer.confinement.plainpath import open_plain
from hostagent.enforcer.confinement.standins import StandIn, stand_in
from hostagent.model.errors import HostagentError

_FRESH = ("/run", "/tmp", "/var/tmp")  # noqa: S108 - these are replaced, not used
PRIVATE = (*_FRESH, "/dev", "/proc")
"""Where nothing of the host's is, but what is declared."""
_FRESH_SIZE = "12%"  # of the host's memory, each of four: left alone, any one of them could take half of it
STAGE = "/run/.hostagent"
"""Where the files lie that we put over others, in the view."""
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_TTY_GID = 5
_LISTENERS = 64
_WAITING = 16
OTHERS = "other unix sockets"
"""What the last listener stands for, where more are in view than have one each."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A declared path. ``inode`` (device, number) is what was there when its owner was looked at.

    ``userns`` maps that owner to the workload's uid; -1 for none.
    """

    path: str
    writable: bool
    inode: tuple[int, int]
    userns: int = -1


@dataclass(frozen=True, slots=True)
class View:
    """What to build. ``files`` replaces the content of existing files; ``home`` is made for ``uid`` if not empty.

    ``root`` is the folder that becomes its root, empty for the host's; ``root_inode`` what was there when its files were read.
    """

    uid: int
    gid: int
    home: str
    hidden: tuple[str, ...]
    sockets: frozenset[str]
    binds: tuple[Bind, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    standins: tuple[StandIn, ...] = ()
    root: str = ""
    root_inode: tuple[int, int] = (0, 0)


def build(view: View) -> list[tuple[str, socket.socket]]:
    """Turn the calling process's mount namespace into the workload's view.

    Returns the listeners that stand in for unix sockets left in view, each with its path. Whoever dials one is to be turned away
    by whoever holds it; nobody serves it.

    Raises:
        OSError: a step failed; the process must not go on.
    """
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    trees = [_detach(bind) for bind in view.binds]
    gone = foreign.take_out(os.path.realpath(view.root) if view.root else "")
    sockets = view.sockets
    if view.root:
        rootfs.enter(view.root, view.root_inode)
        sockets = rootfs.sockets_within()
    targets = {os.path.realpath(path): content for path, content in view.files.items()}
    attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
    kernel.mount_setattr("/", add=attributes)
    for path in _FRESH:
        if Path(path).is_dir() and not Path(path).is_symlink():
            _tmpfs(path, "0755" if path == "/run" else "1777")
    for path in foreign.needed(gone, [path for path, _ in trees]):
        if Path(path).is_dir():
            _tmpfs(path, "0755")
    _devices()
    _kernel_files()
    Path(STAGE).mkdir(mode=0o755)
    for path, tree in trees:
        _attach(path, tree)
    # After the declared paths: one that holds a hidden folder must not bring it back.
    for path in view.hidden:
        _hide(path)
    masks = _mask_sockets(sockets)
    stand_in(view.standins, _FRESH)
    for number, (path, content) in enumerate(targets.items()):
        _replace(path, content, f"{STAGE}/{number}")
    if view.home:
        Path(view.home).mkdir(mode=0o700, parents=True)
        os.chown(view.home, view.uid, view.gid)
    return masks


def _tmpfs(path: str, mode: str) -> None:
    kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"mode={mode},size={_FRESH_SIZE}")


def _devices() -> None:
    kernel.mount("tmpfs", "/dev", "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=0755,size=64k")
    umask = os.umask(0)
    try:
        for name, (major, minor) in _DEVICES.items():
            os.mknod(f"/dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        for name in ("pts", "shm"):
            Path("/dev", name).mkdir(mode=0o755)
    finally:
        os.umask(umask)
    options = f"newinstance,ptmxmode=0666,mode=0620,gid={_TTY_GID}"
    kernel.mount("devpts", "/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
    _tmpfs("/dev/shm", "1777")  # noqa: S108 - mounted, not used
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        Path("/dev", name).symlink_to(target)
    kernel.mount_setattr("/dev", add=kernel.MOUNT_ATTR_RDONLY, recursive=False)


def _kernel_files() -> None:
    """A /proc of our own processes only, and a /sys of our own network only."""
    bare = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", bare)
    kernel.mount("/proc/sys", "/proc/sys", "", kernel.MS_BIND)
    kernel.mount_setattr("/proc/sys", add=kernel.MOUNT_ATTR_RDONLY)
    # In the host's own network this would be the very file system that is there, which the kernel refuses to mount over itself.
    kernel.mount("tmpfs", "/sys", "tmpfs", bare, "mode=0755,size=4k")
    kernel.mount("sysfs", "/sys", "sysfs", bare | kernel.MS_RDONLY)


def _hide(path: str) -> None:
    real = os.path.realpath(path)
    if Path(real).is_dir():
        kernel.mount("tmpfs", real, "tmpfs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0000,size=4k")


def _detach(bind: Bind) -> tuple[str, int]:
    """Return where the declared path really is, and a copy of its mounts with its ownership mapped.

    Taken before anything is covered.
    """
    place = open_plain(bind.path)
    try:
        status = os.fstat(place)
        if (status.st_dev, status.st_ino) != bind.inode:
            raise HostagentError(f"declared path {bind.path} was exchanged while the workload was being started")
        real = str(Path(f"/proc/self/fd/{place}").readlink())
        tree = kernel.open_tree(place)
    finally:
        os.close(place)
    if bind.userns >= 0:
        # A filesystem that cannot map ownership is bound as it is: its files keep their owners and their permissions.
        with contextlib.suppress(OSError):
            kernel.mount_setattr(tree, add=kernel.MOUNT_ATTR_IDMAP, userns=bind.userns, recursive=False)
    add = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
    kernel.mount_setattr(tree, add=add if bind.writable else add | kernel.MOUNT_ATTR_RDONLY)
    return real, tree


def _attach(real: str, tree: int) -> None:
    if not os.path.lexists(real):
        _make_place(real, folder=stat.S_ISDIR(os.fstat(tree).st_mode))
    kernel.move_mount(tree, real)
    os.close(tree)


def _make_place(path: str, *, folder: bool) -> None:
    """Make the mount point ``path``, which lies in one of the fresh folders."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if folder:
        Path(path).mkdir()
    else:
        Path(path).touch()


def _mask_sockets(sockets: frozenset[str]) -> list[tuple[str, socket.socket]]:
    """Put a listener of ours over each unix socket in view. Beyond 64 they share the last one: each is a descriptor held."""
    masks: list[tuple[str, socket.socket]] = []
    for real in sorted({os.path.realpath(path) for path in sockets}):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if real.startswith(f"{STAGE}/") or not stat.S_ISSOCK(os.lstat(real).st_mode):
                continue
            if len(masks) < _LISTENERS:
                masks.append((real if len(masks) < _LISTENERS - 1 else OTHERS, _refusing(f"{STAGE}/refused-{len(masks)}")))
            kernel.mount(f"{STAGE}/refused-{len(masks) - 1}", real, "", kernel.MS_BIND)
    return masks


def _refusing(place: str) -> socket.socket:
    """Return a listener at ``place`` that everybody may dial: a dial that is not permitted would leave no trace."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(place)
    Path(place).chmod(0o666)
    listener.listen(_WAITING)
    return listener


def _replace(path: str, content: bytes, staged: str) -> None:
    Path(staged).write_bytes(content)
    Path(staged).chmod(0o444)
    if not os.path.lexists(path):
        _make_place(path, folder=False)
    kernel.mount(staged, path, "", kernel.MS_BIND)
    kernel.mount_setattr(path, add=kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV)
