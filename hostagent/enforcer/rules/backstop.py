"""The second no for shared placement: two tiny eBPF programs on the leaf's own cgroup, which no nft command can remove.

A leaf in the host's network is held by the host's table. Where the kernel cannot protect that table, another tool's ``nft
flush ruleset`` removes it for the milliseconds until it is loaded again. What the leaf sends meanwhile stops here: a packet
leaves only by loopback, and only with the mark that the table's fence gave it; one comes in only by loopback. No map, no
helper, no compiler: a few instructions, written out below as classic seccomp's are.

They belong to the cgroup: they hold when enforcerd is gone and end with the leaf. Instruction set: RFC 9669; ``struct
__sk_buff``: linux/bpf.h.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from hostagent.enforcer.bpf import calls

_MARK = 8
_INTERFACE = 40
# In every network namespace.
_LOOPBACK = 1

_LOAD_WORD = 0x61  # r[destination] = *(u32 *)(r[source] + offset)
_JUMP_NOT_EQUAL = 0x55
_SET = 0xB7
_EXIT = 0x95


def attach(leaf: Path, mark: int) -> None:
    """Hold the leaf from now on. Nothing needs to be undone: the programs go with the cgroup.

    Args:
        leaf: its cgroup.
        mark: what the table's fence marks this leaf's packets with; an unprivileged program cannot set it.

    Raises:
        OSError: the kernel has no cgroup BPF, or somebody attached a program above that allows none below.
    """
    descriptor = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attach_program(descriptor, calls.PROGRAM_CGROUP_SKB, calls.ATTACH_EGRESS, _only((_INTERFACE, _LOOPBACK), (_MARK, mark)))
        attach_program(descriptor, calls.PROGRAM_CGROUP_SKB, calls.ATTACH_INGRESS, _only((_INTERFACE, _LOOPBACK)))
    finally:
        os.close(descriptor)


def _only(*wanted: tuple[int, int]) -> bytes:
    """Return a program that lets a packet through when each field (offset in ``__sk_buff``) has its value."""
    code = b""
    for position, (offset, value) in enumerate(wanted):
        # Over the remaining comparisons and the two instructions that let through.
        over = 2 * (len(wanted) - position - 1) + 2
        code += instruction(_LOAD_WORD, 2, 1, offset) + instruction(_JUMP_NOT_EQUAL, 2, 0, over, value)
    through = instruction(_SET, 0, 0, 0, 1) + instruction(_EXIT)
    return code + through + instruction(_SET) + instruction(_EXIT)


def instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Return one eBPF instruction (RFC 9669 §3)."""
    return struct.pack("=BBhi", code, source << 4 | destination, offset, value)


def attach_program(cgroup: int, kind: int, attach_type: int, code: bytes) -> None:
    """Attach a program of ``kind`` (``BPF_PROG_TYPE_*``) to a cgroup, beside what is there; it goes with the cgroup.

    Raises:
        OSError: the kernel has no cgroup BPF, or somebody attached a program above that allows none below.
    """
    # It calls no helper, so no helper's licence binds it.
    program = calls.load("hostagent", kind, code, "none", attach_type)
    try:
        calls.attach(cgroup, program, attach_type)
    finally:
        os.close(program)
