"""Reading a file that decides who a workload is: only if nobody but root and this service could have put it there.

Each step of the path is opened and looked at by descriptor, so that no step can be exchanged between the look and the use.
Symbolic links are followed only where root or this user made them, in a folder that nobody else may write (Kubernetes publishes
projected tokens through such links).
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection
from pathlib import PurePosixPath

from hostagent.identity.compact import MAX_TOKEN
from hostagent.model.errors import IdentityError
from hostagent.model.workload import Workload

_MAX_STEPS = 200
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read_trusted(path: str, limit: int, *, secret: bool, foreign_groups: Collection[int] = ()) -> bytes:
    """Return the content of the regular file at the absolute ``path``.

    Args:
        path: every folder on the way and the file itself must belong to root or this user and be writable by nobody else;
            a folder such as /tmp, where only owners may rename, will do on the way.
        limit: most bytes accepted.
        secret: additionally refuse a file that all users may read, or a group in ``foreign_groups``.
        foreign_groups: numbers of groups whose members must not read a secret.

    Raises:
        IdentityError: the file is missing, too long, or others could read or replace it.
    """
    try:
        descriptor = _walk(path)
    except OSError as error:
        raise IdentityError(f"{path}: {_reason(error)}") from None
    try:
        _check_file(path, os.fstat(descriptor), secret, foreign_groups)
        content = b""
        while len(content) <= limit and (chunk := os.read(descriptor, limit + 1 - len(content))):
            content += chunk
    except OSError as error:
        raise IdentityError(f"{path}: {_reason(error)}") from None
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise IdentityError(f"{path}: longer than {limit} bytes")
    return content


def read_token(workload: Workload) -> bytes:
    """Return the token in the workload's file, if the workload can neither read nor replace it.

    Raises:
        IdentityError: it can, or there is no such file.
    """
    foreign: list[int] = []
    if workload.user:
        try:
            account = pwd.getpwnam(workload.user)
        except KeyError:
            raise IdentityError(f"workload {workload.name}: there is no user {workload.user}") from None
        if account.pw_uid in (0, os.geteuid()):
            raise IdentityError(f"workload {workload.name} runs as {workload.user}, who could read its token")
        foreign = os.getgrouplist(workload.user, account.pw_gid)
    content = read_trusted(workload.identity.path, MAX_TOKEN + 64, secret=True, foreign_groups=foreign)
    return content.strip(b" \t\r\n")


def _walk(path: str) -> int:
    """Return a descriptor of the file at ``path``; every folder and link on the way was checked."""
    if not path.startswith("/"):
        raise IdentityError(f"{path}: must be an absolute path")
    steps = list(PurePosixPath(path).parts)
    folder = os.open("/", _FOLDER)
    try:
        for _ in range(_MAX_STEPS):
            if not steps:
                break
            step = steps.pop(0)
            if step == "/":
                folder = _exchange(folder, os.open("/", _FOLDER))
                continue
            _check_folder(path, os.fstat(folder))
            status = os.stat(step, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                _check_owner(path, status, "a symbolic link on the way")
                steps = [*PurePosixPath(os.readlink(step, dir_fd=folder)).parts, *steps]
            elif steps:
                folder = _exchange(folder, os.open(step, _FOLDER, dir_fd=folder))
            else:
                return os.open(step, _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    raise IdentityError(f"{path}: has too many steps or symbolic links, or ends at none")


def _exchange(folder: int, following: int) -> int:
    os.close(folder)
    return following


def _check_owner(path: str, status: os.stat_result, what: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise IdentityError(
            f"{path}: {what} belongs to user {status.st_uid}; it must belong to root or to this service"
        )


def _check_folder(path: str, status: os.stat_result) -> None:
    _check_owner(path, status, "a folder on the way")
    if status.st_mode & _SHARED_WRITE and not status.st_mode & stat.S_ISVTX:
        raise IdentityError(
            f"{path}: others may write a folder on the way, so they could replace the file (chmod go-w)"
        )


def _check_file(path: str, status: os.stat_result, secret: bool, foreign_groups: Collection[int]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IdentityError(f"{path}: is not a regular file")
    _check_owner(path, status, "the file")
    if status.st_mode & _SHARED_WRITE:
        raise IdentityError(f"{path}: others may write it (chmod go-w)")
    if secret and status.st_mode & stat.S_IROTH:
        raise IdentityError(f"{path}: every user may read it, the workload too (chmod o-r)")
    if secret and status.st_mode & stat.S_IRGRP and status.st_gid in foreign_groups:
        raise IdentityError(f"{path}: the workload's user is in group {status.st_gid}, which may read it")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
