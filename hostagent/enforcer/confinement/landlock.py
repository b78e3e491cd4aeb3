"""Keeps a workload away from what no mount hides: abstract unix sockets, and FIFOs of the host (``userspace-api/landlock.rst``).

Abstract sockets (Linux 6.12): a network namespace of its own hides the host's; in shared placement this is what does. FIFOs (Linux
5.19): one in a read-only mount can be written to all the same, and whoever reads it would get bytes that nobody recorded. It needs
no privilege, is inherited, and cannot be taken off.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterable

from hostagent.enforcer.kernel import system_call

_CREATE_RULESET = 444  # the same on every architecture
_ADD_RULE = 445
_RESTRICT_SELF = 446
_PATH_BENEATH = 1
_WRITE_FILE = 1 << 1
_REFER = 1 << 13
_REFER_SINCE = 2
"""Before, files could not be moved between folders any more."""
_ASK_VERSION = 1
_SCOPES_SINCE = 6
_SCOPE_ABSTRACT_UNIX_SOCKET = 1


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr."""

    _fields_ = [("handled_access_fs", ctypes.c_uint64), ("handled_access_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


def _version() -> int:
    """Return the kernel's version of Landlock, 0 where there is none."""
    try:
        return system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION, what="landlock_create_ruleset")
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def can_scope() -> bool:
    """Whether this kernel can keep abstract sockets of others out of reach."""
    return _version() >= _SCOPES_SINCE


def can_close_fifos() -> bool:
    """Whether this kernel can keep FIFOs of others from being written to."""
    return _version() >= _REFER_SINCE


def restrict(places: Iterable[str]) -> None:
    """Restrict this process and its children, for good, as far as the kernel can; see ``can_scope`` and ``can_close_fifos``.

    They connect and send to no abstract socket but their own, and open nothing to write but what lies below ``places``. A place
    that this process cannot reach, or that is a link, gives nothing.

    Raises:
        OSError: the kernel can, and did not (no_new_privs must be set).
    """
    if not can_close_fifos():
        return
    # One set for both: each further one would have to permit the same again. Older kernels know the first field alone.
    attributes = _Ruleset(_WRITE_FILE | _REFER, 0, _SCOPE_ABSTRACT_UNIX_SOCKET if can_scope() else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes) if can_scope() else 8)
    ruleset = system_call(_CREATE_RULESET, ctypes.byref(attributes), size, 0, what="landlock_create_ruleset")
    try:
        for place in places:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _permit(ruleset, place)
        system_call(_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    finally:
        os.close(ruleset)


def _permit(ruleset: int, place: str) -> None:
    found = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = os.fstat(found).st_mode
        if not stat.S_ISLNK(mode):
            rule = _PathBeneath(_WRITE_FILE | _REFER if stat.S_ISDIR(mode) else _WRITE_FILE, found)
            system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0, what=f"landlock_add_rule {place}")
    finally:
        os.close(found)
