"""What every one of our processes does to itself before it does anything else."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# More than what is read from a socket at once (256 KiB) and its copies: to take those from the kernel anew each time would cost
# more than to look at what is in them.
_LARGE = 524_288


def give_back() -> None:
    """Have the allocator give large blocks back to the kernel as soon as they are free, always (glibc; elsewhere nothing happens).

    By default it stops doing so after the first few, and one workload's large messages would stay ours for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, 4 * _LARGE)


def harden() -> None:
    """Close this process's memory to others of its uid, leave no core file, and take every descriptor it may have.

    A workload's sessions need two descriptors each; the usual soft limit of 1024 would let one workload use up everybody's.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, *[ctypes.c_ulong(0)] * 4) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # 1: not even by a program that core_pattern names, for which 0 does not count (core(5)). Workloads inherit it.
    with contextlib.suppress(ValueError):  # 0 already, and not ours to raise
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
