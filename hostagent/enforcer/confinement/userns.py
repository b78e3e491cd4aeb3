"""User namespaces made only to describe an ownership mapping for a bind mount (mount_setattr(2), idmapped mounts)."""

from __future__ import annotations

import os
from pathlib import Path

from hostagent.enforcer import kernel


def mapping(owner_uid: int, owner_gid: int, uid: int, gid: int) -> int:
    """Return the descriptor of a user namespace by which files of ``owner`` appear as belonging to ``uid`` and ``gid``.

    Raises:
        OSError: user namespaces are not to be had.
    """
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(done_write)
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(ready_write, b"1")
            os.read(done_read, 1)
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(done_read)
    try:
        if os.read(ready_read, 1) != b"1":
            raise OSError("no user namespace")
        Path(f"/proc/{child}/uid_map").write_text(f"{owner_uid} {uid} 1\n")
        Path(f"/proc/{child}/gid_map").write_text(f"{owner_gid} {gid} 1\n")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(done_write)
        os.close(ready_read)
        os.waitpid(child, 0)
