"""Denied system calls that the kernel puts to us: what they were, and the error that each is answered with, always.

A pure mirror of ``seccomp.build_filter``: for every call that the filter denies it gives the errno that the filter without
notifications would. A test interprets the one and compares it with the other. Layouts: linux/seccomp.h ``seccomp_notif``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.seccomp import NAMESPACES, REFUSED_REQUESTS, TYPE_MASK
from hostagent.enforcer.syscalls import ABSENT, IDENTITIES, MODES, OPENS, Architecture

_NOTIFICATION = struct.Struct("=QII iIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_LOW = 0xFFFFFFFF
_FAMILIES = {int(value): name for name, value in vars(socket).items() if name.startswith("AF_") and value >= 0}
# What Python has no name for, or two (linux/socket.h).
_FAMILIES |= {16: "AF_NETLINK", 21: "AF_RDS", 30: "AF_TIPC", 31: "AF_BLUETOOTH", 38: "AF_ALG", 40: "AF_VSOCK", 41: "AF_KCM"}
_FAMILIES |= {43: "AF_SMC", 44: "AF_XDP", 45: "AF_MCTP"}
_TYPES = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET", 6: "SOCK_DCCP", 10: "SOCK_PACKET"}
_NAMESPACE_NAMES = {
    getattr(kernel, name): name
    for name in ("CLONE_NEWNS", "CLONE_NEWCGROUP", "CLONE_NEWUTS", "CLONE_NEWIPC", "CLONE_NEWUSER", "CLONE_NEWPID", "CLONE_NEWNET", "CLONE_NEWTIME")
}
_OPTION_NAMES = {(1, 36): "SO_MARK", (0, 19): "IP_TRANSPARENT", (41, 75): "IPV6_TRANSPARENT", (6, 19): "TCP_REPAIR"}
_X32_BIT = 0x40000000
_SET_USER_ID = 0o4000
_REQUEST_NAMES = {number: name for name, number in REFUSED_REQUESTS.items()}


class Denied(NamedTuple):
    """One denied call: ``what`` it was, in words of a bounded number, and the ``error`` it is answered with."""

    what: str
    error: int


def judge(architecture: Architecture, number: int, arguments: Sequence[int], audit: int = 0) -> Denied:
    """Return what the call is and the error for it; a call that is none of ours is refused like the rest.

    ``audit`` is the architecture that it was made by, 0 for ``architecture`` itself.
    """
    if audit not in (0, architecture.audit) or (architecture.x32 and number & _X32_BIT):
        return Denied("by the call gate of another architecture", errno.EPERM)
    name = _NAMES[architecture.audit].get(number, "")
    low = [argument & _LOW for argument in arguments]
    if name == "socket":
        return _socket(*low[:3])
    if name == "socketpair":
        return Denied(f"socketpair({_family(low[0])})", errno.EAFNOSUPPORT)
    if name in ("clone", "unshare"):
        return Denied(f"{name}({_flags(low[0] & (NAMESPACES | kernel.CLONE_NEWTIME))})", errno.EPERM)
    if name == "ioctl":
        return Denied(f"ioctl({_REQUEST_NAMES.get(low[1], 'other')})", errno.EPERM)
    if name == "setsockopt":
        return Denied(f"setsockopt({_OPTION_NAMES.get((low[1], low[2]), 'other')})", errno.EPERM)
    if name in IDENTITIES:
        return Denied(f"{name}(another account)", errno.EPERM)
    if name in MODES or name in OPENS:
        mode = low[MODES[name] if name in MODES else OPENS[name] + 1]
        return Denied(f"{name}({'set-user-id' if mode & _SET_USER_ID else 'set-group-id'})", errno.EPERM)
    return Denied(name or "unknown system call", errno.ENOSYS if name in ABSENT else errno.EPERM)


def _socket(family: int, kind: int, protocol: int) -> Denied:
    plain = kind & TYPE_MASK
    shown = f"{_family(family)}, {_TYPES.get(plain, 'other type')}"
    if family not in (socket.AF_INET, socket.AF_INET6):
        return Denied(f"socket({shown})", errno.EAFNOSUPPORT)
    if plain == socket.SOCK_STREAM:
        return Denied(f"socket({shown}, {_protocol(protocol)})", errno.EPROTONOSUPPORT)
    if plain == socket.SOCK_DGRAM:
        shown += f", {_protocol(protocol)}"
    return Denied(f"socket({shown})", errno.EPERM)


def _family(number: int) -> str:
    return _FAMILIES.get(number, "other family")


def _protocol(number: int) -> str:
    known = {1: "IPPROTO_ICMP", 58: "IPPROTO_ICMPV6", 33: "IPPROTO_DCCP", 132: "IPPROTO_SCTP", 136: "IPPROTO_UDPLITE", 262: "IPPROTO_MPTCP"}
    return known.get(number, "other protocol")


def _flags(bits: int) -> str:
    return "|".join(name for bit, name in _NAMESPACE_NAMES.items() if bits & bit) or "no namespace"


class _Names(dict[int, dict[int, str]]):
    """System call names by number, by audit number of the architecture; made when first asked for."""

    def __missing__(self, audit: int) -> dict[int, str]:
        from hostagent.enforcer.syscalls import ARCHITECTURES

        for architecture in ARCHITECTURES.values():
            self[architecture.audit] = {number: name for name, number in architecture.numbers.items()}
        return self.setdefault(audit, {})


_NAMES = _Names()


class CallListener:
    """The descriptor on which one workload's denied calls arrive. Owns it."""

    def __init__(self, descriptor: int, architecture: Architecture) -> None:
        """Take the descriptor over."""
        self._descriptor = descriptor
        self._architecture = architecture
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLIN)
        self.over = False

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._descriptor

    def answer(self, limit: int) -> Iterator[Denied]:
        """Answer what waits, at most ``limit`` calls, each with its error; yield them. Never blocks.

        A receive waits if nothing is there, so the descriptor is asked before each one: what it announces cannot go away without
        a receive, which then says so (ENOENT). ``over`` is set when nobody is left who could call.
        """
        for _ in range(limit):
            events = self._ready.poll(0)
            if not events or not events[0][1] & select.POLLIN:
                self.over = bool(events)
                return
            buffer = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(self._descriptor, _RECEIVE, buffer, True)
            except OSError:  # the caller was killed, or a signal took it out of the call
                continue
            identifier, _, _, number, audit, _, *arguments = _NOTIFICATION.unpack(buffer)
            denied = judge(self._architecture, number, arguments, audit)
            yield denied
            try:
                fcntl.ioctl(self._descriptor, _SEND, _ANSWER.pack(identifier, 0, -denied.error, 0))
            except OSError:
                continue

    def close(self) -> None:
        """Let it go: from now on the kernel answers ENOSYS by itself."""
        os.close(self._descriptor)
