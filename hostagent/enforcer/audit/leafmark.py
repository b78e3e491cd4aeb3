"""A mark by which the kernel says of any socket whether it was made inside a given leaf, without touching the socket.

A socket belongs for good to the cgroup of the process that made it, and setsockopt programs run for the socket's cgroup, not
the caller's. So a leaf gets a program that answers "done" to one option that no kernel knows; whoever holds a duplicate of a
socket asks for that option: "done" means made in this leaf, any error means made elsewhere. It works for every family and
state, also for what is in no list because it was never bound or connected.

``struct bpf_sockopt``: linux/bpf.h; the program goes with the cgroup.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hostagent.enforcer.rules.backstop import attach_program, instruction

_PROG_TYPE_CGROUP_SOCKOPT = 25
_CGROUP_SETSOCKOPT = 22
_LEVEL = 24
_NAME = 28
_LENGTH = 32

_LOAD_WORD = 0x61
_STORE_WORD = 0x63  # *(u32 *)(r[destination] + offset) = r[source]; of a constant only since Linux 6.3
_JUMP_NOT_EQUAL = 0x55
_SET = 0xB7
_EXIT = 0x95

_OUR_LEVEL = 0x6861
_OUR_OPTION = 0x10000
_DONE = -1
"""As the length: the kernel is not asked, the call succeeds."""
_AS_IT_WAS = 0
"""As the length: the kernel takes what the caller gave, of whatever size."""


def attach(leaf: Path, number: int) -> None:
    """Mark every socket that was or will be made in the cgroup ``leaf``; ``number`` tells live leaves apart.

    Raises:
        OSError: the kernel has no cgroup BPF, or somebody attached a program above that allows none below.
    """
    descriptor = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attach_program(descriptor, _PROG_TYPE_CGROUP_SOCKOPT, _CGROUP_SETSOCKOPT, _program(number))
    finally:
        os.close(descriptor)


def made_in(made: socket.socket, number: int) -> bool:
    """Return whether the socket was made in the live leaf that has ``number``."""
    try:
        made.setsockopt(_OUR_LEVEL, _OUR_OPTION + number, 0)
    except OSError:
        return False
    return True


def _program(number: int) -> bytes:
    return b"".join(
        (
            instruction(_LOAD_WORD, 2, 1, _LEVEL),
            instruction(_JUMP_NOT_EQUAL, 2, 0, 6, _OUR_LEVEL),
            instruction(_LOAD_WORD, 2, 1, _NAME),
            instruction(_JUMP_NOT_EQUAL, 2, 0, 4, _OUR_OPTION + number),
            instruction(_SET, 3, 0, 0, _DONE),
            instruction(_STORE_WORD, 1, 3, _LENGTH),
            instruction(_SET, 0, 0, 0, 1),
            instruction(_EXIT),
            instruction(_SET, 3, 0, 0, _AS_IT_WAS),
            instruction(_STORE_WORD, 1, 3, _LENGTH),
            instruction(_SET, 0, 0, 0, 1),
            instruction(_EXIT),
        )
    )
