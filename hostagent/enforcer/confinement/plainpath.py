"""Opening a path that root's document names, where others may own folders on the way.

A link that somebody else made would let them choose what root opens, or what is shared with a workload as its own; so links
count only where root made them in a folder of root's.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from hostagent.model.errors import HostagentError

_STEPS = 200
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST = 16 * 1024 * 1024


def open_plain(path: str) -> int:
    """Return an O_PATH descriptor of what is at the absolute ``path``.

    Raises:
        HostagentError: there is a link on the way that root did not make.
        OSError: it does not exist, or a step of it is no folder.
    """
    steps = list(PurePosixPath(path).parts)
    here = os.open("/", _LOOK)
    try:
        for _ in range(_STEPS):
            if not steps:
                result, here = here, -1
                return result
            here = _step(path, here, steps)
    finally:
        if here >= 0:
            os.close(here)
    raise HostagentError(f"{path}: too many steps or symbolic links")


def read_public(path: str) -> bytes:
    """Return the content of the file at ``path``, which everybody may read anyhow.

    So that it does not matter who may exchange it: root's eyes are lent to nobody.

    Raises:
        HostagentError: it is no regular file that all users may read, or too large, or behind another's link.
        OSError: it cannot be opened.
    """
    found = open_plain(path)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH:
            raise HostagentError(f"{path}: must be a regular file that every user may read (chmod a+r)")
        with Path(f"/proc/self/fd/{found}").open("rb") as file:
            content = file.read(_MOST + 1)
    finally:
        os.close(found)
    if len(content) > _MOST:
        raise HostagentError(f"{path}: larger than {_MOST} bytes")
    return content


def _step(path: str, here: int, steps: list[str]) -> int:
    """Go one step of ``steps`` on from ``here`` (which is closed); a link puts its own steps in front."""
    name = steps.pop(0)
    if name == "/":
        following = os.open("/", _LOOK)
    else:
        following = os.open(name, _LOOK, dir_fd=here)
        if stat.S_ISLNK(os.fstat(following).st_mode):
            try:
                _check_link(path, here, following)
                steps[:0] = PurePosixPath(os.readlink("", dir_fd=following)).parts
            finally:
                os.close(following)
            return here
    os.close(here)
    return following


def _check_link(path: str, folder: int, link: int) -> None:
    holder = os.fstat(folder)
    if holder.st_uid == 0 and os.fstat(link).st_uid == 0 and not holder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    raise HostagentError(f"{path}: a symbolic link on the way was not made by root, so it could lead anywhere; name its end")
