"""Puts files of root's in place: whole by rename, never over what somebody wrote unless that was asked for."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from hostagent.model.errors import HostagentError


class AlreadyThereError(HostagentError):
    """The file exists and was not to be replaced; nothing was written."""


def place(path: Path, text: str, *, mode: int = 0o644, replace: bool = False) -> None:
    """Write ``text`` to ``path``, readable as ``mode`` says and complete at every moment.

    Raises:
        AlreadyThereError: there is such a file, and it is not to be replaced.
        HostagentError: its folder is missing.
        OSError: it cannot be written.
    """
    if not path.parent.is_dir():
        raise HostagentError(f"{path.parent} does not exist: run `hostagent init` first")
    try:
        write_whole(path, text.encode(), mode, new=not replace)
    except FileExistsError:
        raise AlreadyThereError(f"{path} exists already and was left as it is; edit it, or say --force to replace it") from None


def write_whole(path: Path, content: bytes, mode: int, gid: int = -1, *, new: bool = False) -> None:
    """Put ``content`` at ``path`` in one step; on return it is on disk. A crash leaves what was there or what is there now.

    Raises:
        FileExistsError: with ``new``: there is such a file, which stays.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchown(file.fileno(), -1, gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if new:
            os.link(fresh, path)
            fresh.unlink()
        else:
            fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_folder(path: Path, mode: int) -> str:
    """Make ``path`` with ``mode``, or see that it has it; return what was done in a word, empty for nothing.

    Raises:
        HostagentError: something else is there, or it belongs to someone else.
    """
    try:
        path.mkdir(mode=mode, parents=True)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise HostagentError(f"{path} exists and is not a folder of this user's; look at it before going on") from None
        found = stat.S_IMODE(status.st_mode)
        if found == mode:
            return ""
        path.chmod(mode)
        return f"mode {found:o} -> {mode:o}"
    path.chmod(mode)
    return "made"
