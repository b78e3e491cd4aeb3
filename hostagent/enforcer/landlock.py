"""Keeps a workload away from abstract unix sockets, which no mount hides (Linux 6.12, ``userspace-api/landlock.rst``).

A network namespace of its own hides the host's; in shared placement this is what does. It needs no privilege, is inherited, and
cannot be taken off.
"""

from __future__ import annotations

import ctypes
import errno
import os

from hostagent.enforcer.kernel import system_call

_CREATE_RULESET = 444  # the same on every architecture
_RESTRICT_SELF = 446
_ASK_VERSION = 1
_SCOPES_SINCE = 6
_SCOPE_ABSTRACT_UNIX_SOCKET = 1


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr."""

    _fields_ = [("handled_access_fs", ctypes.c_uint64), ("handled_access_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


def can_scope() -> bool:
    """Whether this kernel can keep abstract sockets of others out of reach."""
    try:
        version = system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION, what="landlock_create_ruleset")
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    return version >= _SCOPES_SINCE


def scope_abstract_sockets() -> None:
    """From now on this process and its children connect and send to no abstract socket but their own. No-op where it cannot be.

    Raises:
        OSError: the kernel can, and did not (no_new_privs must be set).
    """
    if not can_scope():
        return
    attributes = _Ruleset(0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    ruleset = system_call(_CREATE_RULESET, ctypes.byref(attributes), size, 0, what="landlock_create_ruleset")
    try:
        system_call(_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    finally:
        os.close(ruleset)
