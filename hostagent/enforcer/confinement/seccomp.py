"""The workload's system call filter, as a classic BPF program (Linux ``Documentation/userspace-api/seccomp_filter.rst``).

A pure function of the architecture. What it closes is what packets cannot show: other socket families, raw sockets,
namespaces, io_uring (which would make every other rule here blind), foreign architectures, looking into other processes, and
set-user-id files, which somebody outside could start, and the limit that keeps a crash from starting a program outside.

With ``notify`` a denied call is put to enforcerd instead of being answered by the kernel; enforcerd always answers with the same
error (``deniedcalls``) and writes it down. Nothing is ever allowed by an answer. The newest filter that notifies is the one that
is asked, so a workload must never get a listener of its own: it could answer "continue" for us.
"""

from __future__ import annotations

import errno
import resource
import socket
import struct
from collections.abc import Mapping

from hostagent.enforcer import kernel
from hostagent.enforcer.syscalls import (
    ABSENT,
    IDENTITIES,
    LIMITS,
    MODES,
    OPENS,
    OPTIONS,
    REFUSED,
    WATCHED_ABSENT,
    Architecture,
)

# struct seccomp_data: nr, arch, instruction_pointer, args[6]; the low half of an argument comes first (little endian).
_NR = 0
_ARCH = 4
_ARGUMENT = (16, 24, 32, 40)

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ABOVE = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_NOTIFY = 0x7FC00000
_NEW_LISTENER = 0x8

_X32_BIT = 0x40000000
NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWCGROUP
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
)
REFUSED_REQUESTS = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423}
_NETLINK_ROUTE = 0
TYPE_MASK = 0xF
_UNCHANGED = 0xFFFFFFFF
_SET_USER_ID = 0o4000
_SET_GROUP_ID = 0o2000
_MAKES = 0o100 | 0o20000000  # O_CREAT, and what is O_TMPFILE's own; the same on every architecture here


def _fail(number: int) -> tuple[int, int]:
    return (_RETURN, _ERRNO | number)


_Step = tuple[int, int] | tuple[int, int, str, str] | str


class _Assembler:
    """Instructions with labels: a string is a label, ``(code, k)`` an instruction, ``(code, k, if_true, if_false)`` a jump."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def add(self, *steps: _Step) -> None:
        self._steps.extend(steps)

    def assemble(self) -> bytes:
        """Return the program; an empty label means the next instruction. Jumps go forward, at most 255 instructions."""
        places: dict[str, int] = {}
        count = 0
        for step in self._steps:
            if isinstance(step, str):
                places[step] = count
            else:
                count += 1
        program = bytearray()
        for step in self._steps:
            if isinstance(step, str):
                continue
            here = len(program) // 8 + 1
            if len(step) == 2:
                program += struct.pack("<HBBI", step[0], 0, 0, step[1])
            else:
                yes, no = (places[label] - here if label else 0 for label in step[2:])
                program += struct.pack("<HBBI", step[0], yes, no, step[1])
        return bytes(program)


def build_filter(
    architecture: Architecture, *, notify: bool = False, ids: tuple[int, int] | None = None, shares: bool = False
) -> bytes:
    """Return the filter program for ``architecture``.

    Args:
        architecture: whose system calls.
        notify: what is denied and could be an attack asks the listener.
        ids: uid and gid of the program, the only ones that it may change to; None leaves these calls to the kernel alone.
        shares: files that it makes are seen outside, where a set-group-id one would lend its group to whoever starts it. Elsewhere
            that bit is left to folders, which have a use for it.
    """
    numbers = architecture.numbers
    code = _Assembler()
    code.add((_LOAD, _ARCH), (_EQUAL, architecture.audit, "", "foreign"), (_LOAD, _NR))
    if architecture.x32:
        code.add((_ABOVE, _X32_BIT, "foreign", ""))
    _add_choice(code, numbers, ids=ids is not None)
    code.add((_RETURN, _ALLOW))
    _add_socket(code)
    _add_modes(code, _SET_USER_ID | (_SET_GROUP_ID if shares else 0))
    _add_options(code)
    _add_limits(code)
    if ids:
        _add_identities(code, *ids)
    code.add("clone", (_LOAD, _ARGUMENT[0]), (_ANY_BIT, NAMESPACES, "refuse", "allow"))
    code.add("unshare", (_LOAD, _ARGUMENT[0]), (_ANY_BIT, NAMESPACES | kernel.CLONE_NEWTIME, "refuse", "allow"))
    code.add("ioctl", (_LOAD, _ARGUMENT[1]))
    for request in REFUSED_REQUESTS.values():
        code.add((_EQUAL, request, "refuse", ""))
    code.add("seccomp", (_LOAD, _ARGUMENT[1]), (_ANY_BIT, _NEW_LISTENER, "silent", "allow"))
    code.add("allow", (_RETURN, _ALLOW))
    code.add("done", _fail(0))
    code.add("silent", _fail(errno.EPERM))
    code.add("absent", _fail(errno.ENOSYS))
    answers = {"refuse": errno.EPERM, "foreign": errno.EPERM, "hidden": errno.ENOSYS, "family": errno.EAFNOSUPPORT, "protocol": errno.EPROTONOSUPPORT}
    for label, number in answers.items():
        code.add(label, (_RETURN, _NOTIFY) if notify else _fail(number))
    return code.assemble()


def _add_choice(code: _Assembler, numbers: Mapping[str, int], *, ids: bool) -> None:
    """Jump to what is said about the call whose number is loaded; fall through if nothing is."""
    for name in ("socket", "socketpair", "clone", "unshare", "ioctl", "seccomp"):
        code.add((_EQUAL, numbers[name], name, ""))
    for name in ("setsockopt", *LIMITS):
        code.add((_EQUAL, numbers[name], name, ""))
    for name in IDENTITIES if ids else ():
        code.add((_EQUAL, numbers[name], _identity_label(name), ""))
    for name, position in {**MODES, **OPENS}.items():
        if name in numbers:
            code.add((_EQUAL, numbers[name], f"{'opens' if name in OPENS else 'mode'}{position}", ""))
    for name in ABSENT:
        code.add((_EQUAL, numbers[name], "hidden" if name in WATCHED_ABSENT else "absent", ""))
    for name in REFUSED:
        if name in numbers:
            code.add((_EQUAL, numbers[name], "refuse", ""))


def _add_modes(code: _Assembler, refused: int) -> None:
    """No bit of ``refused`` on anything, however it is set; the mode counts only where a file may be made."""
    for position in sorted(set(MODES.values())):
        code.add(f"mode{position}", (_LOAD, _ARGUMENT[position]), (_ANY_BIT, refused, "refuse", "allow"))
    for position in sorted(OPENS.values()):
        code.add(f"opens{position}", (_LOAD, _ARGUMENT[position]), (_ANY_BIT, _MAKES, "", "allow"))
        code.add((_LOAD, _ARGUMENT[position + 1]), (_ANY_BIT, refused, "refuse", "allow"))


def _add_options(code: _Assembler) -> None:
    """What a capability would be needed for anyhow: refused here, so that it is known."""
    code.add("setsockopt", (_LOAD, _ARGUMENT[1]))
    for level in OPTIONS:
        code.add((_EQUAL, level, f"level{level}", ""))
    code.add((_RETURN, _ALLOW))
    for level, options in OPTIONS.items():
        code.add(f"level{level}", (_LOAD, _ARGUMENT[2]))
        for option in options:
            code.add((_EQUAL, option, "refuse", ""))
        code.add((_RETURN, _ALLOW))


def _add_limits(code: _Assembler) -> None:
    """The limit of core files is set by us for good; programs that set it (to none, mostly) are told that they did."""
    code.add("setrlimit", (_LOAD, _ARGUMENT[0]), (_EQUAL, resource.RLIMIT_CORE, "done", "allow"))
    code.add("prlimit64", (_LOAD, _ARGUMENT[1]), (_EQUAL, resource.RLIMIT_CORE, "", "allow"))
    code.add((_LOAD, _ARGUMENT[2]), (_EQUAL, 0, "", "done"), (_LOAD, _ARGUMENT[2] + 4), (_EQUAL, 0, "allow", "done"))  # NULL: asked


def _identity_label(name: str) -> str:
    return "refuse" if not IDENTITIES[name] else f"{'uid' if name.endswith('uid') else 'gid'}{IDENTITIES[name]}"


def _add_identities(code: _Assembler, uid: int, gid: int) -> None:
    """An account may be changed to itself (all bits set: to be left), in each of one to three arguments."""
    for kind, own in (("uid", uid), ("gid", gid)):
        for count in (1, 2, 3):
            code.add(f"{kind}{count}")
            for position in range(count):
                last = position == count - 1
                following = "allow" if last else f"{kind}{count}.{position}"
                code.add((_LOAD, _ARGUMENT[position]), (_EQUAL, own, following, ""), (_EQUAL, _UNCHANGED, following, "refuse"))
                if not last:
                    code.add(following)


def _add_socket(code: _Assembler) -> None:
    """Unix; TCP and UDP over IPv4 and IPv6, nothing else of these; netlink's routing family, which getaddrinfo asks."""
    code.add(
        # Of pairs, unix ones only: for any other family the kernel would load a module to find out that it has none.
        "socketpair",
        (_LOAD, _ARGUMENT[0]),
        (_EQUAL, socket.AF_UNIX, "allow", "family"),
        "socket",
        (_LOAD, _ARGUMENT[0]),
        (_EQUAL, socket.AF_UNIX, "allow", ""),
        (_EQUAL, socket.AF_INET, "inet", ""),
        (_EQUAL, socket.AF_INET6, "inet", ""),
        (_EQUAL, socket.AF_NETLINK, "netlink", "family"),
        "inet",
        (_LOAD, _ARGUMENT[1]),
        (_AND, TYPE_MASK),
        (_EQUAL, socket.SOCK_STREAM, "stream", ""),
        (_EQUAL, socket.SOCK_DGRAM, "datagram", "refuse"),
        "stream",
        (_LOAD, _ARGUMENT[2]),
        (_EQUAL, 0, "allow", ""),
        (_EQUAL, socket.IPPROTO_TCP, "allow", "protocol"),
        "datagram",
        (_LOAD, _ARGUMENT[2]),
        (_EQUAL, 0, "allow", ""),
        (_EQUAL, socket.IPPROTO_UDP, "allow", "refuse"),
        "netlink",
        (_LOAD, _ARGUMENT[2]),
        (_EQUAL, _NETLINK_ROUTE, "allow", "family"),
    )
