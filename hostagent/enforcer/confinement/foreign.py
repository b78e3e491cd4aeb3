"""Takes out of a view the file systems that are more than files of this host.

Whoever looks up a name in a network file system, in one that a program serves (FUSE), or below an automount, tells that name to
somebody: a server elsewhere, or a daemon of the host that asks one. A read-only mount does not change that, and nothing else
would see it. A second ``/proc`` shows every process of the host, a second ``/sys`` its cgroups.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement import mounts
from hostagent.model.errors import HostagentError

_BLOCK = "ext2 ext3 ext4 xfs btrfs bcachefs f2fs jfs nilfs2 reiserfs ntfs3 vfat msdos exfat hfs hfsplus ufs udf iso9660 squashfs erofs cramfs romfs minix"
LOCAL = frozenset({*_BLOCK.split(), "zfs", "ubifs", "jffs2", "tmpfs", "ramfs", "rootfs", "overlay"})
"""Kinds of file systems that keep their files on this host. One that is not here is taken for foreign."""

_COVERED = ("/dev/", "/proc/", "/sys/", "/run/")
"""Where a view has mounts of its own on top."""
_ROUNDS = 16
_DETACH = 2
_NO_LINK = 8


def take_out(root: str) -> frozenset[str]:
    """Unmount what is foreign in the calling process's mount namespace, whose mounts must be private; return where it was.

    ``root`` is the folder that is to become the root, empty if it stays: then only what is below it counts. The root itself stays.

    Raises:
        HostagentError: something foreign cannot be unmounted.
        OSError: the kernel refused a step.
    """
    places: set[str] = set()
    left: frozenset[mounts.Mount] = frozenset()
    for _ in range(_ROUNDS):
        found = frozenset(each for each in mounts.listed() if _is_foreign(each, root))
        if found == left:
            break
        left = found
        for place in sorted({each.place for each in found}, key=len):  # the outer ones take the inner ones along
            with contextlib.suppress(FileNotFoundError):
                _unmount(place)
                places.add(place)
    shown = sorted(each.place for each in left if _is_reached(each))
    if shown:
        raise HostagentError(f"{shown[0]} is no file system of this host, and cannot be taken out of the workload's view")
    return frozenset(places)


def needed(places: Collection[str], paths: Collection[str]) -> list[str]:
    """Return those of ``places`` that one of ``paths`` lies below: they must be there again, empty."""
    return sorted(place for place in places if any(path.startswith(f"{place}/") for path in paths))


def _is_foreign(mount: mounts.Mount, root: str) -> bool:
    if mount.kind in LOCAL or mount.place == "/":
        return False
    if root:
        return mount.place.startswith(f"{root}/")
    return not f"{mount.place}/".startswith(_COVERED)


def _unmount(place: str) -> None:
    try:
        kernel.unmount(place, _DETACH | _NO_LINK)
    except OSError as error:
        if error.errno != errno.EINVAL:  # nothing is mounted there that a path leads to: gone with another, or under one
            raise


def _is_reached(mount: mounts.Mount) -> bool:
    """Whether the path of ``mount`` leads to it, not to something that lies over it."""
    try:
        place = os.open(mount.place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        facts = Path(f"/proc/self/fdinfo/{place}").read_text(encoding="ascii")
    finally:
        os.close(place)
    return f"mnt_id:\t{mount.number}\n" in facts
