"""The programs: one row each, with where it hangs and what is lost without it."""

from __future__ import annotations

from typing import NamedTuple

from hostagent.enforcer.bpf import calls

_DENY = "no second no: nft alone"
_CHAIN = "no lineage: which program started which is not known (attribution: cgroup-only)"
_ARGUMENTS = "command lines are missing from lineage"
_WHO = "which process inside a workload made a connection is not recorded (attribution: cgroup-only)"


class Row(NamedTuple):
    """One program.

    ``name`` is its C function; ``kind`` and ``attach`` are ``calls.PROGRAM_…`` and ``calls.ATTACH_…``. ``tracepoint`` is
    "category/name" for those that hang there instead of on the slice. ``since``: the oldest kernel that has the hook.
    ``lost``: what is lost when it does not load, for people.
    """

    name: str
    kind: int
    attach: int
    since: str
    lost: str
    tracepoint: str = ""


PROGRAMS: tuple[Row, ...] = (
    Row("connect4", calls.PROGRAM_CGROUP_SOCK_ADDR, calls.ATTACH_CONNECT4, "5.15", f"{_DENY} for IPv4 connections; {_WHO}"),
    Row("connect6", calls.PROGRAM_CGROUP_SOCK_ADDR, calls.ATTACH_CONNECT6, "5.15", f"{_DENY} for IPv6 connections; {_WHO}"),
    Row("sendmsg4", calls.PROGRAM_CGROUP_SOCK_ADDR, calls.ATTACH_SENDMSG4, "5.15", f"{_DENY} for IPv4 datagrams"),
    Row("sendmsg6", calls.PROGRAM_CGROUP_SOCK_ADDR, calls.ATTACH_SENDMSG6, "5.15", f"{_DENY} for IPv6 datagrams"),
    Row("sock_create", calls.PROGRAM_CGROUP_SOCK, calls.ATTACH_SOCK_CREATE, "5.15", "no second no to raw and odd sockets"),
    Row("sock_release", calls.PROGRAM_CGROUP_SOCK, calls.ATTACH_SOCK_RELEASE, "5.15", "what is known of ended sockets piles up until the maps are full"),
    Row("tcp_connect", calls.PROGRAM_SOCK_OPS, calls.ATTACH_SOCK_OPS, "5.15", _WHO),
    Row("connect_unix", calls.PROGRAM_CGROUP_SOCK_ADDR, calls.ATTACH_UNIX_CONNECT, "6.7", "`unix_sockets: false` cannot be enforced"),
    Row("sendmsg_unix", calls.PROGRAM_CGROUP_SOCK_ADDR, calls.ATTACH_UNIX_SENDMSG, "6.7", "`unix_sockets: false` cannot be enforced"),
    Row("process_fork", calls.PROGRAM_TRACEPOINT, 0, "5.15", _CHAIN, "task/task_newtask"),
    Row("process_exec", calls.PROGRAM_TRACEPOINT, 0, "5.15", _CHAIN, "sched/sched_process_exec"),
    Row("process_exit", calls.PROGRAM_TRACEPOINT, 0, "5.15", "what is known of ended processes piles up", "sched/sched_process_exit"),
    Row("ask_execve", calls.PROGRAM_TRACEPOINT, 0, "5.15", _ARGUMENTS, "syscalls/sys_enter_execve"),
    Row("ask_execveat", calls.PROGRAM_TRACEPOINT, 0, "5.15", _ARGUMENTS, "syscalls/sys_enter_execveat"),
)
