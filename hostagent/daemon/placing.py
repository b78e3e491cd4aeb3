"""Puts files of root's in place: whole by rename, never over what somebody wrote unless that was asked for."""

from __future__ import annotations

import contextlib
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
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")  # a process number comes again after a crash
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            fresh.replace(path)
        else:
            os.link(fresh, path)
    except FileExistsError:
        raise AlreadyThereError(f"{path} exists already and was left as it is; edit it, or say --force to replace it") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


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
