"""Judges one socket that a governed process holds: was it made inside, and does it lead anywhere else?

Fences look at the cgroup of a socket's *maker*. A socket that was made elsewhere and handed in (SCM_RIGHTS, a moved process)
passes all of them, so it must not be held at all. Who made it is told by three independent witnesses of the kernel: the leaf's
mark (``leafmark``, cgroup BPF), the network namespace it belongs to, and the owner of its inode (the leaf's uid is nobody
else's).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.enforcer.audit import leafmark

_SO_TYPE = 3
_SO_PEERCRED = 17
_SO_PROTOCOL = 38
_SO_DOMAIN = 39
_SO_NETNS_COOKIE = 71
_SO_PEERPIDFD = 77
_CREDENTIALS = struct.Struct("=iII")
_NOBODY = 0xFFFFFFFF
_NETLINK_ROUTE = 0
_INET = (socket.AF_INET, socket.AF_INET6)
_COOKIE = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Inside:
    """What being made inside a leaf means.

    ``number`` the leaf's, in its mark; ``marked`` whether the kernel can answer for it; ``cookie`` the network namespace's;
    ``uid`` the workload's own uid, or -1 for a login user, whom others share; ``servers`` the pids, ``server_uid`` the uid behind
    the unix sockets that we put into a workload's view; ``former`` the pids, which may be others' by now, of enforcers before us, of
    root alone; ``has`` whether a process is in the leaf.
    """

    number: int
    marked: bool
    cookie: int
    uid: int
    servers: frozenset[int]
    former: frozenset[int]
    server_uid: int
    has: Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``finding`` is empty for a socket that may be held; ``settled`` that it can never become one that may not."""

    finding: str
    detail: str = ""
    settled: bool = True


FINE = Verdict("")
FINE_UNIX = Verdict("")
"""May be held; but what waits in its queue must be looked at again and again."""
_NOT_YET = Verdict("", settled=False)


def network_cookie() -> int:
    """Return the cookie of the network namespace that the calling process is in (SO_NETNS_COOKIE, Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return _cookie(probe)


def judge(descriptor: int, inside: Inside) -> Verdict:
    """Return what a duplicate of a held descriptor is. The duplicate stays open; a foreign socket is broken off its peer.

    Raises:
        OSError: the kernel gave no answer.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISSOCK(status.st_mode):
        return FINE
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)  # the true family is asked below
    try:
        family = held.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN)
    except OSError:
        held.detach()
        return FINE  # opened by its path (O_PATH): a name, not a socket
    try:
        verdict = _judge(held, family, status.st_uid, inside)
        if verdict.finding:
            _sever(held, family)
        return verdict
    finally:
        held.detach()


def _judge(held: socket.socket, family: int, owner: int, inside: Inside) -> Verdict:
    kind = held.getsockopt(socket.SOL_SOCKET, _SO_TYPE)
    refused = _odd(held, family, kind)
    if refused:
        return Verdict("foreign-socket", refused)
    if family == socket.AF_UNIX:
        peer = _foreign_peer(held, inside)
        if peer:
            return Verdict("foreign-peer", f"unix socket connected to {peer}")
    elsewhere = _elsewhere(held, owner, inside)
    if elsewhere:
        words = f"{_name(family)} {_kind(kind)} {elsewhere}"
        if family in _INET and not _connected(held):
            return Verdict("unconnected-socket", words)
        return Verdict("foreign-socket", words)
    if family == socket.AF_UNIX and _peer(held)[1] == _NOBODY:
        return _NOT_YET
    return FINE_UNIX if family == socket.AF_UNIX else FINE


def _odd(held: socket.socket, family: int, kind: int) -> str:
    """Return what is wrong with its kind: one that no governed process can have made."""
    if family in _INET and kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        return ""
    if family == socket.AF_UNIX:
        return ""
    protocol = held.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL)
    if family == socket.AF_NETLINK and protocol == _NETLINK_ROUTE:
        return ""
    return f"{_name(family)} {_kind(kind)} protocol {protocol}"


def _elsewhere(held: socket.socket, owner: int, inside: Inside) -> str:
    if _cookie(held) != inside.cookie:
        return "of another network namespace"
    if inside.marked and not leafmark.made_in(held, inside.number):
        return "made outside of the leaf"
    if inside.uid >= 0 and owner != inside.uid:
        return f"made by uid {owner}"
    return ""


def _foreign_peer(held: socket.socket, inside: Inside) -> str:
    """Return who is at the other end, if that is somebody outside who is not one of our own servers."""
    pid, uid = _peer(held)
    if uid in (_NOBODY, inside.server_uid) or pid in inside.servers or (uid == 0 and pid in inside.former):
        return ""
    if inside.uid >= 0:
        return "" if uid == inside.uid else f"uid {uid}, pid {pid}"
    pid = _living_peer(held)
    return "" if pid <= 0 or inside.has(pid) else f"uid {uid}, pid {pid}"


def _peer(held: socket.socket) -> tuple[int, int]:
    pid, uid, _ = _CREDENTIALS.unpack(held.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def _living_peer(held: socket.socket) -> int:
    """Return the peer's pid if that process still lives, else 0. Before Linux 6.5 its number may be another's by now."""
    try:
        pidfd = held.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        pid, _ = _peer(held)
        return pid if error.errno == errno.ENOPROTOOPT and Path(f"/proc/{pid}").exists() else 0
    try:
        found = re.search(r"^Pid:\s+(-?\d+)$", Path(f"/proc/self/fdinfo/{pidfd}").read_text(), re.MULTILINE)
    finally:
        os.close(pidfd)
    return int(found[1]) if found else 0


def _connected(held: socket.socket) -> bool:
    try:
        held.getpeername()
    except OSError:
        return False
    return True


def _cookie(held: socket.socket) -> int:
    (value,) = _COOKIE.unpack(held.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size))
    return int(value)


def _sever(held: socket.socket, family: int) -> None:
    """What its holder has queued must not leave after the holder is gone. Whoever handed it in loses it too."""
    with contextlib.suppress(OSError):
        if family in _INET:
            kernel.disconnect(held.fileno())
        else:
            held.shutdown(socket.SHUT_RDWR)


def _name(family: int) -> str:
    try:
        return socket.AddressFamily(family).name
    except ValueError:
        return f"family {family}"


def _kind(kind: int) -> str:
    try:
        return socket.SocketKind(kind).name
    except ValueError:
        return f"type {kind}"
