"""Puts our sockets at the declared paths of a workload's view, in folders that the workload cannot change.

Runs in the workload's first process, after everything else in view is in its place. A folder of the host's is covered: a
socket that its server makes anew removes every mount on the old one, so nothing may lie directly on the host's own file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.plainpath import open_plain
from hostagent.model.errors import HostagentError


@dataclass(frozen=True, slots=True)
class StandIn:
    """``tree`` is the detached mount of our socket's file, to be attached at ``path``."""

    path: str
    tree: int


def stand_in(standins: Iterable[StandIn], fresh: Iterable[str]) -> None:
    """Attach each.

    Args:
        standins: what goes where.
        fresh: folders that are private to this view; what is made in them is made nowhere else.

    Raises:
        HostagentError: a folder does not exist, or lies behind a link that root did not make.
        OSError: the kernel refused a step.
    """
    private = {folder.stat().st_dev for folder in map(Path, fresh) if folder.is_dir() and not folder.is_symlink()}
    for each in standins:
        folder, _, name = each.path.rpartition("/")
        place = _folder(folder, private)
        try:
            real = str(Path(f"/proc/self/fd/{place}").readlink())
            if os.fstat(place).st_dev not in private:
                kernel.mount("tmpfs", real, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, "mode=0755,size=64k")
                private.add(Path(real).stat().st_dev)
        finally:
            os.close(place)
        target = Path(real, name)
        target.touch(mode=0o000, exist_ok=False)
        kernel.move_mount(each.tree, str(target))


def _folder(folder: str, private: set[int]) -> int:
    """Return a descriptor of ``folder``, made where it is missing; only what is private is ever written to."""
    existing = Path(folder)
    while not os.path.lexists(existing):
        existing = existing.parent
    place = open_plain(str(existing))
    if str(existing) == folder:
        return place
    try:
        if os.fstat(place).st_dev not in private:
            raise HostagentError(f"folder {folder} of a target's unix socket does not exist: make it, or start the server")
        Path(f"/proc/self/fd/{place}", Path(folder).relative_to(existing)).mkdir(mode=0o755, parents=True)
    finally:
        os.close(place)
    return open_plain(folder)
