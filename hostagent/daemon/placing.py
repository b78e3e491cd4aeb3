"""Puts files of root's in place: whole by rename, never over what somebody wrote unless that was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hostagent.durable import write_whole
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
