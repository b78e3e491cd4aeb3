"""Hears at once that the slice was removed or made anew, by inotify on the cgroup folder it lies in.

Rules hold the slice's id, so a new one is unknown to them until they are loaded again; enforcerd's tick would notice only after
half a second. Layout: ``struct inotify_event``, inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_CREATE = 0x100
_DELETE = 0x200
_OVERFLOW = 0x4000
_ONLY_FOLDERS = 0x01000000
_HEADER = struct.calcsize("iIII")


class SliceWatch:
    """Hears of the folder ``path`` coming and going from now on."""

    def __init__(self, path: Path) -> None:
        """Watch the folder that holds ``path``, which must exist.

        Raises:
            OSError: the kernel has no inotify, or no more watches for us.
        """
        self._name = path.name.encode()
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            mask = ctypes.c_uint32(_CREATE | _DELETE | _ONLY_FOLDERS)
            _checked(libc.inotify_add_watch(self._descriptor, os.fsencode(path.parent), mask))
        except OSError:
            os.close(self._descriptor)
            raise

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._descriptor

    def close(self) -> None:
        """Stop."""
        os.close(self._descriptor)

    def changed(self) -> bool:
        """Return whether it came or went since the last call; lost events count."""
        found = False
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return found
            found = self._concerns(data) or found

    def _concerns(self, data: bytes) -> bool:
        position = 0
        while position + _HEADER <= len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, position)
            name = data[position + _HEADER : position + _HEADER + length].rstrip(b"\0")
            if mask & _OVERFLOW or name == self._name:
                return True
            position += _HEADER + length
        return False


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
