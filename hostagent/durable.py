"""Files put in place whole: a crash leaves what was there or what is there now. Every floor that owns files uses this one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: Path, content: bytes, mode: int = 0o600, gid: int = -1, *, new: bool = False) -> None:
    """Put ``content`` at ``path`` in one step, by default readable by this user alone; on return it is on disk.

    Args:
        path: where; its folder exists.
        content: all of it.
        mode: permission bits of the file.
        gid: its group, -1 for this process's own.
        new: only if there is none yet.

    Raises:
        FileExistsError: with ``new``: there is such a file, which stays.
        OSError: it cannot be written; what was there stays.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if gid >= 0:  # the units' call filter refuses every chown, also one that changes nothing
                os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if new:
            os.link(fresh, path)
        else:
            fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
