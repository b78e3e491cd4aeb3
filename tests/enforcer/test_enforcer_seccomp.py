"""The system call filter, interpreted instruction by instruction as the kernel would."""

from __future__ import annotations

import errno
import resource
import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hostagent.enforcer.confinement.seccomp import build_filter
from hostagent.enforcer.reporting.deniedcalls import judge
from hostagent.enforcer.syscalls import (
    AARCH64,
    ABSENT,
    ARCHITECTURES,
    MODES,
    OPENS,
    REFUSED,
    X86_64,
    Architecture,
)

ALLOW = 0
NOTIFY = -1
PRETENDED = -2


def interpret(program: bytes, number: int, audit: int, arguments: tuple[int, ...] = ()) -> int:
    """Return 0 if the call is allowed, -1 if it is put to the listener, -2 if it only seems to succeed, else the errno."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(value & (1 << 64) - 1 for value in padded))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    for _ in range(len(instructions)):
        code, yes, no, k = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:
                accumulator &= k
            case 0x15:
                at += yes if accumulator == k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x45:
                at += yes if accumulator & k else no
            case 0x06:
                return {0x7FFF0000: ALLOW, 0x7FC00000: NOTIFY, 0x00050000: PRETENDED}.get(k, k & 0xFFFF)
            case _:
                raise AssertionError(hex(code))
    raise AssertionError("ran off the end")


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


def ask(architecture: Architecture, name: str, *arguments: int) -> int:
    return interpret(build_filter(architecture), architecture.numbers[name], architecture.audit, arguments)


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "expected"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, ALLOW),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC, 0, ALLOW),
        (socket.AF_INET, socket.SOCK_STREAM, 0, ALLOW),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 6, ALLOW),
        (socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 17, ALLOW),
        (socket.AF_INET, socket.SOCK_STREAM, 262, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, 132, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_DGRAM, 1, errno.EPERM),
        (socket.AF_INET6, socket.SOCK_DGRAM, 58, errno.EPERM),
        (socket.AF_INET, socket.SOCK_RAW, 6, errno.EPERM),
        (socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 255, errno.EPERM),
        (socket.AF_INET, socket.SOCK_SEQPACKET, 132, errno.EPERM),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0, ALLOW),
        (socket.AF_NETLINK, socket.SOCK_RAW, 12, errno.EAFNOSUPPORT),
        (socket.AF_NETLINK, socket.SOCK_RAW, 4, errno.EAFNOSUPPORT),
    ],
)
def test_sockets_are_unix_tcp_udp_and_routing_netlink_only(
    architecture: Architecture, family: int, kind: int, protocol: int, expected: int
) -> None:
    assert ask(architecture, "socket", family, kind, protocol) == expected


def test_every_other_family_does_not_exist(architecture: Architecture) -> None:
    known = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    answers = {ask(architecture, "socket", family, kind, 0) for family in range(64) if family not in known for kind in (1, 2, 3)}
    assert answers == {errno.EAFNOSUPPORT}


def test_pairs_are_unix_ones_only(architecture: Architecture) -> None:
    answers = [ask(architecture, "socketpair", family, 1, 0) for family in range(46)]
    assert [family for family, answer in enumerate(answers) if answer == ALLOW] == [socket.AF_UNIX]
    assert set(answers) == {ALLOW, errno.EAFNOSUPPORT}


@pytest.mark.parametrize("name", [*MODES, *OPENS])
def test_no_file_gets_the_set_user_id_bit(architecture: Architecture, name: str) -> None:
    if name not in architecture.numbers:
        return
    before = (0,) * MODES[name] if name in MODES else (*(0,) * OPENS[name], 0o101)
    assert ask(architecture, name, *before, 0o4755) == errno.EPERM
    assert ask(architecture, name, *before, 0o2755) == ALLOW
    assert ask(architecture, name, *before, 0o755) == ALLOW


@pytest.mark.parametrize("name", [*MODES, *OPENS])
def test_where_files_are_seen_outside_none_gets_the_set_group_id_bit(architecture: Architecture, name: str) -> None:
    if name not in architecture.numbers:
        return
    before = (0,) * MODES[name] if name in MODES else (*(0,) * OPENS[name], 0o101)
    program = build_filter(architecture, shares=True)
    asked = [interpret(program, architecture.numbers[name], architecture.audit, (*before, mode)) for mode in (0o4755, 0o2755, 0o1777, 0o755)]
    assert asked == [errno.EPERM, errno.EPERM, ALLOW, ALLOW]


def test_the_mode_of_an_open_that_makes_nothing_is_not_looked_at(architecture: Architecture) -> None:
    assert ask(architecture, "openat", 0, 0, 0o2, 0o4755) == ALLOW
    assert ask(architecture, "openat", 0, 0, 0o20200002, 0o4755) == errno.EPERM


def test_high_argument_bits_that_the_kernel_ignores_change_nothing(architecture: Architecture) -> None:
    assert ask(architecture, "socket", (1 << 32) | socket.AF_INET, (1 << 40) | socket.SOCK_RAW, 6) == errno.EPERM


@pytest.mark.parametrize("name", REFUSED)
def test_dangerous_calls_are_refused(architecture: Architecture, name: str) -> None:
    if name in architecture.numbers:
        assert ask(architecture, name) == errno.EPERM


@pytest.mark.parametrize("name", ABSENT)
def test_calls_that_would_blind_the_filter_do_not_exist(architecture: Architecture, name: str) -> None:
    assert ask(architecture, name) == errno.ENOSYS


@pytest.mark.parametrize("bit", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_no_namespace_is_made(architecture: Architecture, bit: int) -> None:
    assert (ask(architecture, "clone", bit | 17), ask(architecture, "unshare", bit)) == (errno.EPERM, errno.EPERM)


def test_threads_and_processes_are_made_as_ever(architecture: Architecture) -> None:
    thread = 0x3D0F00
    assert (ask(architecture, "clone", thread), ask(architecture, "clone", 17), ask(architecture, "unshare", 0x400)) == (0, 0, 0)


def test_a_terminal_cannot_be_typed_into_but_can_be_asked(architecture: Architecture) -> None:
    assert [ask(architecture, "ioctl", 0, request) for request in (0x5412, 0x541C, 0x5423, 0x5413, 0x5401)] == [1, 1, 1, 0, 0]


def test_foreign_architectures_are_refused() -> None:
    program = build_filter(X86_64)
    assert interpret(program, 102, 0x40000003) == errno.EPERM  # i386 socketcall
    assert interpret(program, 41, AARCH64.audit) == errno.EPERM
    assert interpret(program, 0x40000000 | 41, X86_64.audit, (2, 1, 0)) == errno.EPERM  # x32


@given(number=st.integers(0, 600), first=st.integers(0, 2**64 - 1), second=st.integers(0, 2**64 - 1))
def test_every_call_gets_an_answer(number: int, first: int, second: int) -> None:
    assert interpret(build_filter(X86_64), number, X86_64.audit, (first, second)) in {
        ALLOW,
        errno.EPERM,
        errno.ENOSYS,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
    }


@example(number=X86_64.numbers["socket"], first=17, second=3, third=768)
@example(number=X86_64.numbers["socket"], first=2, second=1, third=262)
@example(number=X86_64.numbers["socket"], first=2, second=2, third=1)
@example(number=X86_64.numbers["socketpair"], first=40, second=1, third=0)
@example(number=X86_64.numbers["io_uring_setup"], first=8, second=0, third=0)
@given(
    number=st.one_of(st.sampled_from(sorted(X86_64.numbers.values())), st.integers(0, 600)),
    first=st.one_of(st.integers(0, 60), st.integers(0, 2**64 - 1)),
    second=st.one_of(st.integers(0, 12), st.integers(0, 2**64 - 1)),
    third=st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1)),
)
def test_a_call_put_to_enforcerd_is_answered_as_the_silent_filter_would(number: int, first: int, second: int, third: int) -> None:
    silent = interpret(build_filter(X86_64, ids=OWN), number, X86_64.audit, (first, second, third, third))
    asked = interpret(build_filter(X86_64, notify=True, ids=OWN), number, X86_64.audit, (first, second, third, third))
    if asked == NOTIFY:
        assert (judge(X86_64, number, (first, second, third, third, 0, 0)).error, silent != ALLOW) == (silent, True)
    else:
        assert asked == silent


def test_a_workload_never_gets_a_listener_of_its_own(architecture: Architecture) -> None:
    """The newest filter that notifies is the one that is asked, and its listener may answer "continue"."""
    program = build_filter(architecture, notify=True)
    number = architecture.numbers["seccomp"]
    answers = [interpret(program, number, architecture.audit, (1, flags, 1)) for flags in (0, 1, 8, 9, 0x28)]
    assert answers == [ALLOW, ALLOW, errno.EPERM, errno.EPERM, errno.EPERM]


def test_what_every_program_tries_is_answered_by_the_kernel_alone(architecture: Architecture) -> None:
    program = build_filter(architecture, notify=True)
    assert [interpret(program, architecture.numbers[name], architecture.audit) for name in ("clone3", "openat2")] == [errno.ENOSYS] * 2


def test_foreign_architectures_are_put_to_enforcerd_which_knows_them_as_such() -> None:
    program = build_filter(X86_64, notify=True)
    assert [interpret(program, 102, 0x40000003), interpret(program, 0x40000000 | 41, X86_64.audit, (2, 1, 0))] == [NOTIFY] * 2
    answers = [judge(X86_64, 102, (0,) * 6, 0x40000003), judge(X86_64, 0x40000000 | 41, (2, 1, 0, 0, 0, 0), X86_64.audit)]
    assert answers == [("by the call gate of another architecture", errno.EPERM)] * 2


OWN = (64000, 64001)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("setuid", (64000,), ALLOW),
        ("setuid", (0,), errno.EPERM),
        ("setgid", (64001,), ALLOW),
        ("setgid", (64000,), errno.EPERM),
        ("setreuid", (0xFFFFFFFF, 64000), ALLOW),
        ("setreuid", (64000, 901), errno.EPERM),
        ("setregid", (0, 64001), errno.EPERM),
        ("setresuid", (64000, 0xFFFFFFFF, 64000), ALLOW),
        ("setresuid", (64000, 64000, 0), errno.EPERM),
        ("setresuid", (64000, 0, 64000), errno.EPERM),
        ("setresgid", (64001, 64001, 64001), ALLOW),
        ("setresgid", (0, 64001, 64001), errno.EPERM),
        ("setgroups", (0, 0), errno.EPERM),
    ],
)
def test_an_account_is_changed_to_itself_only(
    architecture: Architecture, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    number = architecture.numbers[name]
    assert interpret(build_filter(architecture, ids=OWN), number, architecture.audit, arguments) == expected
    asked = interpret(build_filter(architecture, ids=OWN, notify=True), number, architecture.audit, arguments)
    assert asked == (NOTIFY if expected else ALLOW)
    assert interpret(build_filter(architecture), number, architecture.audit, arguments) == ALLOW


def test_socket_options_that_need_a_capability_are_refused_and_others_are_not(architecture: Architecture) -> None:
    refused = [ask(architecture, "setsockopt", 3, level, option) for level, option in ((1, 36), (0, 19), (41, 75), (6, 19))]
    allowed = [ask(architecture, "setsockopt", 3, level, option) for level, option in ((1, 2), (0, 1), (41, 26), (6, 1), (17, 103))]
    assert (refused, allowed) == ([errno.EPERM] * 4, [ALLOW] * 5)


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("socket", (17, 3 | socket.SOCK_CLOEXEC, 0x300), "socket(AF_PACKET, SOCK_RAW)"),
        ("socket", (40, 1, 0), "socket(AF_VSOCK, SOCK_STREAM)"),
        ("socket", (2, 3, 1), "socket(AF_INET, SOCK_RAW)"),
        ("socket", (10, 2, 58), "socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6)"),
        ("socket", (2, 1, 262), "socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)"),
        ("socket", (16, 3, 12), "socket(AF_NETLINK, SOCK_RAW)"),
        ("socket", (99, 99, 0), "socket(other family, SOCK_RAW)"),
        ("unshare", (0x50000000,), "unshare(CLONE_NEWUSER|CLONE_NEWNET)"),
        ("clone", (0x10000011,), "clone(CLONE_NEWUSER)"),
        ("ioctl", (0, 0x5412), "ioctl(TIOCSTI)"),
        ("openat", (0, 0, 0o101, 0o4755), "openat(set-user-id)"),
        ("fchmodat", (0, 0, 0o2755), "fchmodat(set-group-id)"),
        ("setns", (3, 0), "setns"),
        ("setresuid", (0, 0, 0), "setresuid(another account)"),
        ("setsockopt", (3, 1, 36), "setsockopt(SO_MARK)"),
    ],
)
def test_a_denied_call_is_named_with_the_argument_that_decided(name: str, arguments: tuple[int, ...], what: str) -> None:
    assert judge(X86_64, X86_64.numbers[name], (*arguments, *(0,) * (6 - len(arguments)))).what == what


def test_the_limit_of_core_files_stays_and_can_be_asked(architecture: Architecture) -> None:
    program, numbers = build_filter(architecture, notify=True), architecture.numbers

    def call(name: str, *arguments: int) -> int:
        return interpret(program, numbers[name], architecture.audit, arguments)

    assert call("setrlimit", resource.RLIMIT_CORE, 0x7F00_0000_1000) == PRETENDED
    assert call("setrlimit", resource.RLIMIT_NOFILE, 0x7F00_0000_1000) == ALLOW
    for own, new in ((0, 0x7F00_0000_1000), (4711, 0x7F01_0000_0000), (0, 0x1000)):  # a pointer whose lower half is zero, too
        assert call("prlimit64", own, resource.RLIMIT_CORE, new) == PRETENDED
        assert call("prlimit64", own, resource.RLIMIT_CORE, 0, new) == ALLOW
        assert call("prlimit64", own, resource.RLIMIT_NPROC, new) == ALLOW
