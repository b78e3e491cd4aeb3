"""The eBPF programs: what they refuse and record by themselves, without nft; replacing, removing, and living beside others."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import secrets
import selectors
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.enforcer.bpf import calls, layout, objects, pins
from hostagent.enforcer.bpf.programs import Programs, netns_cookie
from hostagent.enforcer.bpf.ring import Ring
from hostagent.enforcer.bpf.table import PROGRAMS
from hostagent.enforcer.cgroup import Leaf, Slice
from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.reporting.connects import BpfWatch
from hostagent.enforcer.rules.backstop import instruction
from tests.netns.stage import SINK_4, Stage, stage, wait_for

pytestmark = pytest.mark.root

KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
HERE = {row.name for row in PROGRAMS if tuple(map(int, row.since.split("."))) <= KERNEL}
"""The programs whose hooks this kernel has."""
UNIX = "connect_unix" in HERE
ALLOW = instruction(0xB7, 0, 0, 0, 1) + instruction(0x95)
"""The smallest program: return 1."""


@pytest.fixture(scope="module")
def built() -> objects.Objects:
    return objects.compiled(objects.source(2))


class Ground:
    """A slice of the test's own with the programs on it, and no nft at all."""

    def __init__(self, built: objects.Objects) -> None:
        self.tag = secrets.token_hex(3)
        self.built = built
        self.slice = Slice(f"hatest-{self.tag}.slice")
        self.slice.create()
        self.programs = Programs(f"ha{self.tag}", self.slice)
        self.programs.install(lambda _: built)
        assert self.programs.problem == ""

    def leaf(self) -> Leaf:
        leaf = self.slice.leaf(f"leaf-{secrets.token_hex(3)}")
        leaf.create()
        return leaf

    def registered(self, flags: int = 0, netns: int | None = None) -> Leaf:
        leaf = self.leaf()
        self.programs.register(leaf.id, netns_cookie() if netns is None else netns, flags)
        return leaf

    def ids(self) -> dict[str, list[int]]:
        """The programs on the slice, by row."""
        cgroup = os.open(self.slice.path, os.O_RDONLY)
        try:
            return {row.name: calls.attached(cgroup, row.attach) for row in PROGRAMS if not row.tracepoint and row.name in HERE}
        finally:
            os.close(cgroup)

    def records(self, ring: str = "refusals") -> list[bytes]:
        found = self.programs.map(ring)
        assert found is not None
        reader = Ring(found[0], found[1].max_entries)
        try:
            return list(reader.read())
        finally:
            reader.close()

    def followed(self) -> dict[int, tuple[int, int]]:
        """By leaf: how many of its processes are followed, as counted and as there are."""
        counts, tasks = self.programs.map("followed"), self.programs.map("tasks")
        assert counts is not None
        assert tasks is not None
        owners = [layout.IMAGE.unpack(value)["leaf"] for _, value in calls.entries(tasks[0], 4, layout.IMAGE.size)]
        counted = {struct.unpack("=Q", key)[0]: struct.unpack("=q", value)[0] for key, value in calls.entries(counts[0], 8, 8)}
        return {leaf: (count, owners.count(leaf)) for leaf, count in counted.items()}

    def close(self) -> None:
        for name in self.slice.leaves():
            self.slice.leaf(name).remove()
        self.programs.remove()
        self.slice.remove()


@pytest.fixture
def ground(built: objects.Objects) -> Iterator[Ground]:
    made = Ground(built)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def port() -> Iterator[int]:
    """A listener on loopback that accepts as fast as it can."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def answer(leaf: Leaf, attempt: Callable[[], object]) -> str:
    """What an attempt inside the leaf comes to: the name of its error, or ok."""

    def body() -> str:
        try:
            attempt()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "ok"

    return in_child(body, before=leaf.enter, timeout_s=10.0)


def dial(port: int, family: int = socket.AF_INET, host: str = "127.0.0.1", protocol: int = 0) -> None:
    with socket.socket(family, socket.SOCK_STREAM, protocol) as one:
        one.connect((host, port))


def send(port: int, host: str = "127.0.0.1", family: int = socket.AF_INET) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", (host, port))


def fast_open(port: int) -> None:
    with socket.socket() as one:
        one.sendto(b"x", 0x20000000, ("127.0.0.1", port))


def dial_unix() -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect("\0nobody listens here")


def answers(leaf: Leaf, port: int) -> dict[str, str]:
    attempts: dict[str, Callable[[], object]] = {
        "tcp": lambda: dial(port),
        "mapped": lambda: dial(port, socket.AF_INET6, "::ffff:127.0.0.1"),
        "multipath": lambda: dial(port, protocol=262),
        "fast open": lambda: fast_open(port),
        "loopback datagram": lambda: send(9),
        "datagram": lambda: send(443, "192.0.2.1"),
        "mapped datagram": lambda: send(443, "::ffff:192.0.2.1", socket.AF_INET6),
        "datagram 6": lambda: send(443, "2001:db8::1", socket.AF_INET6),
        "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "raw 6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58),
        "unix": dial_unix,
    }
    return {name: answer(leaf, attempt) for name, attempt in attempts.items() if UNIX or name != "unix"}


OPEN = {"tcp": "ok", "mapped": "ok", "multipath": "ok", "fast open": "ok", "loopback datagram": "ok"}
NO_ROUTE = dict.fromkeys(("datagram", "mapped datagram", "datagram 6"), "ENETUNREACH")
NOBODY = {"unix": "ECONNREFUSED"} if UNIX else {}
NO_RAW = {"raw": "EPERM", "raw 6": "EPERM"}


def test_a_leaf_that_is_not_registered_has_no_socket(ground: Ground, port: int) -> None:
    leaf = ground.leaf()
    assert set(answers(leaf, port).values()) == {"EPERM"}
    headings = [layout.heading(data) for data in ground.records()]
    assert {(each.leaf, each.kind, each.reason) for each in headings} == {(leaf.id, layout.RECORD_REFUSAL, 1)}


def test_a_registered_leaf_has_tcp_and_udp_sockets_and_no_others(ground: Ground, port: int) -> None:
    assert answers(ground.registered(), port) == OPEN | NO_ROUTE | NO_RAW | NOBODY


def test_in_shared_placement_datagrams_go_to_port_53_and_loopback_only(ground: Ground, port: int) -> None:
    leaf = ground.registered(layout.FLAG_SHARED)
    refused = dict.fromkeys(NO_ROUTE, "EPERM")
    assert answers(leaf, port) == OPEN | refused | NO_RAW | NOBODY
    assert answer(leaf, lambda: send(53, "192.0.2.1")) == "ENETUNREACH"


def test_a_network_namespace_that_is_not_the_leafs_is_refused(ground: Ground, port: int) -> None:
    leaf = ground.registered(netns=netns_cookie() + 1)
    assert set(answers(leaf, port).values()) == {"EPERM", *NOBODY.values()}  # unix has no such notion
    assert {layout.heading(data).reason for data in ground.records()} == {2}


def test_a_leaf_without_unix_sockets_connects_none(ground: Ground) -> None:
    leaf = ground.registered(layout.FLAG_NO_UNIX)
    assert answer(leaf, dial_unix) == ("EPERM" if UNIX else "ECONNREFUSED")
    assert bool(ground.programs.missing("connect_unix")) is not UNIX


def test_a_leaf_is_denied_again_when_it_is_forgotten(ground: Ground, port: int) -> None:
    leaf = ground.registered()
    assert answer(leaf, lambda: dial(port)) == "ok"
    ground.programs.forget(leaf.id)
    assert answer(leaf, lambda: dial(port)) == "EPERM"


def test_whoever_gets_a_socket_out_of_the_slice_cannot_connect_it(ground: Ground, port: int) -> None:
    leaf = ground.registered()
    here, there = socket.socketpair()

    def hand_out() -> str:
        with socket.socket() as one:
            socket.send_fds(there, [b"x"], [one.fileno()])
        return ""

    in_child(hand_out, before=leaf.enter, timeout_s=10.0)
    _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
    with here, there, socket.socket(fileno=descriptors[0]) as outside, pytest.raises(PermissionError):
        outside.connect(("127.0.0.1", port))


def test_who_connects_is_told_with_the_tuple_that_the_listener_sees(ground: Ground) -> None:
    leaf = ground.registered()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pid = int(in_child(lambda: dial(port) or str(os.getpid()), before=leaf.enter, timeout_s=10.0))
        accepted, peer = listener.accept()
        (data,) = ground.records("events")
        heading, tuple_ = layout.heading(data), layout.TUPLE.unpack(data[layout.HEADING.size :])
        seen = (layout.address(2, bytes(tuple_["saddr"])), tuple_["sport"], layout.address(2, bytes(tuple_["daddr"])), tuple_["dport"])
        assert (heading.kind, heading.leaf, heading.tgid, heading.netns) == (layout.RECORD_FLOW, leaf.id, pid, netns_cookie())
        assert seen == (*peer, "127.0.0.1", port)
        accepted.close()


def test_what_is_known_of_a_connection_is_forgotten_with_it(ground: Ground, port: int) -> None:
    leaf = ground.registered()
    for _ in range(5):
        answers(leaf, port)
    answer(leaf, lambda: dial(1))  # nobody listens

    def left() -> int:
        return sum(len(list(calls.keys(fd, shape.key_size))) for fd, shape in filter(None, map(ground.programs.map, ("by_cookie", "by_tuple"))))

    wait_for("the maps to be empty", lambda: left() == 0)


def test_without_room_to_remember_who_connects_nobody_does(built: objects.Objects, port: int) -> None:
    """Fail closed: by_cookie cut to one place."""
    maps = [(name, shape._replace(max_entries=1) if name == "by_cookie" else shape) for name, shape in built.maps]
    ground = Ground(objects.Objects(built.code, maps, built.tracepoints))
    try:
        leaf = ground.registered()

        def two() -> None:
            with socket.socket() as first:
                first.connect(("127.0.0.1", port))
                dial(port)

        assert answer(leaf, two) == "EPERM"
        assert [layout.heading(data).reason for data in ground.records()] == [6]
    finally:
        ground.close()


def test_what_never_came_to_connect_and_whose_end_nobody_saw_makes_room_again(built: objects.Objects, port: int) -> None:
    """Multipath sockets to where there is no route: the inner socket is the kernel's own, and no program hears of its end."""
    maps = [(name, shape._replace(max_entries=3) if name == "by_cookie" else shape) for name, shape in built.maps]
    ground = Ground(objects.Objects(built.code, maps, built.tracepoints))
    try:
        leaf = ground.registered()
        met = [answer(leaf, lambda: dial(443, host="192.0.2.1", protocol=262)) for _ in range(5)]
        assert met == ["ENETUNREACH"] * 3 + ["EPERM"] * 2
        assert answer(leaf, lambda: dial(port)) == "EPERM"
        assert ground.programs.prune(3600.0) == 0
        assert ground.programs.prune(0.0) == 3
        assert answer(leaf, lambda: dial(port)) == "ok"
    finally:
        ground.close()


_NO_ROUTE = "192.0.2.1"
_FLOOD = """
import errno, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]) + 100,) * 2)
kept, counts = [], {}
for _ in range(int(sys.argv[1])):
    one = socket.socket()
    try:
        one.connect((sys.argv[2], 443))
    except OSError as error:
        name = errno.errorcode[error.errno]
        counts[name] = counts.get(name, 0) + 1
    kept.append(one)
print(counts, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def flooding(leaf: Leaf, sockets: int) -> Iterator[dict[str, int]]:
    """A process of the leaf that holds so many sockets that were to connect and never came to it; what each was told."""
    arguments = [sys.executable, "-I", "-c", _FLOOD, str(sockets), _NO_ROUTE]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=leaf.enter) as process:  # noqa: PLW1509 - one short step
        assert process.stdout is not None
        try:
            yield dict(ast.literal_eval(process.stdout.readline()))
        finally:
            process.kill()


MANY = layout.LEAF_CONNECTIONS


def test_a_leaf_that_fills_its_room_is_refused_alone_and_recorded(ground: Ground, port: int) -> None:
    greedy, other = ground.registered(), ground.registered()
    with flooding(greedy, MANY + 50) as met:
        assert met == {"ENETUNREACH": MANY, "EPERM": 50}
        assert ground.programs.taken(greedy.id) == MANY
        assert answer(greedy, lambda: dial(port)) == "EPERM"
        assert answer(other, lambda: dial(port)) == "ok"
        headings = [layout.heading(data) for data in ground.records()]
        assert {(each.leaf, each.reason) for each in headings} == {(greedy.id, 7)}
        assert len(headings) == 51
    # What ended gives its room back.
    wait_for("room", lambda: ground.programs.taken(greedy.id) == 0)
    assert answer(greedy, lambda: dial(port)) == "ok"


def test_room_that_enforcerd_makes_is_the_leafs_again_and_counted_once(ground: Ground, port: int) -> None:
    greedy, other = ground.registered(), ground.registered()
    with flooding(greedy, MANY + 1), flooding(other, 10):
        assert (ground.programs.taken(greedy.id), ground.programs.taken(other.id)) == (MANY, 10)
        assert ground.programs.prune(0.0, greedy.id) == MANY
        assert (ground.programs.taken(greedy.id), ground.programs.taken(other.id)) == (0, 10)
        assert answer(greedy, lambda: dial(port)) == "ok"
    # Their sockets end now, and give nothing back a second time.
    wait_for("room", lambda: ground.programs.taken(other.id) == 0)
    assert ground.programs.taken(greedy.id) == 0
    with flooding(greedy, MANY + 1) as met:
        assert met == {"ENETUNREACH": MANY, "EPERM": 1}


def test_many_at_once_do_not_outwit_the_count(ground: Ground) -> None:
    """Threads of several processes, on every processor, over the last places; in the end the count is what is there."""
    leaf = ground.registered()

    def pound() -> str:
        def dials() -> None:
            for _ in range(400):
                with contextlib.suppress(OSError), socket.socket() as one:
                    one.connect((_NO_ROUTE, 443))

        threads = [threading.Thread(target=dials) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ""

    with flooding(leaf, MANY - 2) as met:
        assert met == {"ENETUNREACH": MANY - 2}
        rounds = [threading.Thread(target=in_child, args=(pound,), kwargs={"before": leaf.enter, "timeout_s": 30.0}) for _ in range(3)]
        for each in rounds:
            each.start()
        for each in rounds:
            each.join()
        assert ground.programs.taken(leaf.id) == MANY - 2
    wait_for("room", lambda: ground.programs.taken(leaf.id) == 0)


def test_a_leaf_that_ends_leaves_nothing_in_the_others_way(ground: Ground) -> None:
    """Multipath: no program hears of the end of the inner sockets."""
    leaf = ground.registered()
    assert {answer(leaf, lambda: dial(443, host=_NO_ROUTE, protocol=262)) for _ in range(3)} == {"ENETUNREACH"}
    found = ground.programs.map("by_cookie")
    assert found is not None
    assert len(list(calls.keys(found[0], 8))) == 3
    ground.programs.forget(leaf.id)
    assert list(calls.keys(found[0], 8)) == []


@pytest.mark.parametrize("layouts", ["same", "changed"])
def test_the_count_outlives_programs_that_are_replaced(ground: Ground, built: objects.Objects, port: int, layouts: str) -> None:
    """With the same maps the places taken stay so; with new ones both the table and the count begin anew."""
    leaf = ground.registered()
    changed = [(name, shape._replace(max_entries=shape.max_entries * 2) if name == "by_tuple" else shape) for name, shape in built.maps]
    other = objects.Objects(built.code, changed if layouts == "changed" else built.maps, built.tracepoints)
    with flooding(leaf, 20):
        assert ground.programs.prune(0.0) == 20
        with flooding(leaf, 7):
            ground.programs.install(lambda _: other)
            assert ground.programs.taken(leaf.id) == (7 if layouts == "same" else 0)
    wait_for("room", lambda: ground.programs.taken(leaf.id) == 0)
    assert answer(leaf, lambda: dial(port)) == "ok"
    wait_for("room", lambda: ground.programs.taken(leaf.id) == 0)


_STORM = """
import os, sys, threading, time
kept, ended = int(sys.argv[1]), int(sys.argv[2])
for _ in range(ended):
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        threading.Thread(target=lambda: os.execv("/bin/true", ["true"])).start()
        time.sleep(60)
    os.wait()
hold, go = os.pipe()
for _ in range(kept):
    if os.fork() == 0:
        os.close(go)
        os.read(hold, 1)
        os._exit(0)
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def storming(leaf: Leaf, kept: int, ended: int = 0) -> Iterator[None]:
    """A process of the leaf with so many children, after so many others have ended (half of them executed by another thread)."""
    arguments = [sys.executable, "-I", "-c", _STORM, str(kept), str(ended)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=leaf.enter) as process:  # noqa: PLW1509 - one short step
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield
        finally:
            leaf.kill()


def test_a_leaf_that_forks_without_end_is_not_followed_further_and_leaves_the_others_room() -> None:
    """As compiled for at most 20 processes of a leaf; what ended, by whichever way, gives its room back."""
    text = objects.source(2)
    for word in ("LEAF_PROCESSES ", "LEAF_PROCESSES == "):
        assert text.count(f"{word}{layout.LEAF_PROCESSES}") == 1
        text = text.replace(f"{word}{layout.LEAF_PROCESSES}", f"{word}20")
    ground = Ground(objects.compiled(text))
    try:
        greedy, other = ground.registered(), ground.registered()
        with storming(greedy, kept=50, ended=30), storming(other, kept=5, ended=3):
            assert ground.followed() == {greedy.id: (20, 20), other.id: (5, 5)}
            assert ground.programs.losses()["processes"] == 30
        wait_for("room", lambda: ground.followed() == {greedy.id: (0, 0), other.id: (0, 0)})
        with storming(greedy, kept=20):
            assert ground.followed()[greedy.id] == (20, 20)
        assert ground.programs.losses()["processes"] == 30
    finally:
        ground.close()


class Notes:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def note(self, kind: Any, workload: str, fields: dict[str, object]) -> None:
        self.events.append((str(kind), fields))


def test_lost_records_are_counted_and_become_a_gap(built: objects.Objects) -> None:
    """A ring of one page, and more refusals than fit."""
    maps = [(name, shape._replace(max_entries=4096) if name == "refusals" else shape) for name, shape in built.maps]
    ground = Ground(objects.Objects(built.code, maps, built.tracepoints))
    try:
        notes, leaf = Notes(), ground.leaf()
        with selectors.DefaultSelector() as selector:
            watch = BpfWatch(ground.programs, notes, selector, list)  # type: ignore[arg-type]
            watch.begin()

            def flood() -> str:
                for _ in range(200):
                    with contextlib.suppress(PermissionError):
                        socket.socket()
                return ""

            in_child(flood, before=leaf.enter, timeout_s=10.0)
            watch.read()
            watch.tick(1.0)
            watch.close()
        seen = sum(int(str(fields["count"])) for kind, fields in notes.events if kind == "refusal")
        lost = [fields for kind, fields in notes.events if kind == "gap"]
        assert lost == [{"reason": "eBPF: the kernel had no room for refusals", "count": 200 - seen}]
        assert seen > 10
        assert ground.programs.losses()["refusals"] == 200 - seen
    finally:
        ground.close()


def test_a_flood_of_refusals_in_one_leaf_does_not_push_out_those_of_another(ground: Ground) -> None:
    """More than the ring has room for; what a leaf does not get into it is counted."""
    loud, quiet = ground.leaf(), ground.leaf()

    def flood() -> str:
        for _ in range(3000):
            with contextlib.suppress(PermissionError):
                socket.socket()
        return ""

    in_child(flood, before=loud.enter, timeout_s=30.0)
    assert answer(quiet, socket.socket) == "EPERM"
    leaves = [layout.heading(data).leaf for data in ground.records()]
    assert leaves.count(quiet.id) == 1
    assert leaves.count(loud.id) >= 1000
    assert ground.programs.losses()["refusals"] == 3000 - leaves.count(loud.id) > 0


# -- replacing and removing -----------------------------------------------------------------------------------------------


_LOOP = """
import errno, signal, socket, sys
going, counts = [True], {}
signal.signal(signal.SIGTERM, lambda *_: going.clear())
print("going", flush=True)
while going:
    try:
        with socket.socket() as one:
            one.connect(("127.0.0.1", int(sys.argv[1])))
            name = "ok"
    except OSError as error:
        name = errno.errorcode[error.errno]
    counts[name] = counts.get(name, 0) + 1
print(counts)
"""


def looping(leaf: Leaf, port: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-I", "-c", _LOOP, str(port)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, preexec_fn=leaf.enter)  # noqa: PLW1509 - one short step
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    return process


def counted(process: subprocess.Popen[str]) -> dict[str, int]:
    process.terminate()
    return dict(ast.literal_eval(process.communicate(timeout=20)[0]))


@pytest.mark.parametrize("layouts", ["same", "changed"])
def test_programs_are_replaced_under_load_without_a_gap(ground: Ground, built: objects.Objects, port: int, layouts: str) -> None:
    """A registered leaf never meets a no, one that is not never a yes, while the programs are replaced again and again."""
    known, unknown = looping(ground.registered(), port), looping(ground.leaf(), port)
    changed = [(name, shape._replace(max_entries=shape.max_entries * 2) if name == "by_tuple" else shape) for name, shape in built.maps]
    other = objects.Objects(built.code, changed if layouts == "changed" else built.maps, built.tracepoints)
    for times in range(10):
        text = built if times % 2 else other
        ground.programs.install(lambda _, text=text: text)
        assert ground.programs.problem == ""
    passed, refused = counted(known), counted(unknown)
    assert set(passed) == {"ok"}, passed
    assert set(refused) == {"EPERM"}, refused
    assert min(passed["ok"], refused["EPERM"]) > 50
    assert {name: len(found) for name, found in ground.ids().items()} == dict.fromkeys(ground.ids(), 1)


def test_fifty_reloads_pile_nothing_up(ground: Ground, built: objects.Objects) -> None:
    before = sorted(str(path.relative_to(pins.MOUNT)) for path in ground.programs.home.rglob("*"))
    first = ground.ids()
    for _ in range(50):
        ground.programs.install(lambda _: built)
    assert sorted(str(path.relative_to(pins.MOUNT)) for path in ground.programs.home.rglob("*")) == before
    assert {name: len(found) for name, found in ground.ids().items()} == dict.fromkeys(first, 1)
    assert ground.ids() != first


def test_a_new_enforcerd_takes_over_what_the_old_one_left_pinned(ground: Ground, built: objects.Objects, port: int) -> None:
    leaf = ground.registered()
    ground.programs._let_go()  # as if killed: only the pins hold
    assert answer(leaf, lambda: dial(port)) == "ok"
    successor = Programs(f"ha{ground.tag}", ground.slice)
    successor.install(lambda _: built)
    assert {name: len(found) for name, found in ground.ids().items()} == dict.fromkeys(ground.ids(), 1)
    assert answer(leaf, lambda: dial(port)) == "EPERM"  # it was not told of this leaf
    successor.register(leaf.id, netns_cookie())
    assert answer(leaf, lambda: dial(port)) == "ok"
    ground.programs = successor


def test_programs_of_others_on_the_same_cgroup_stay(ground: Ground, built: objects.Objects) -> None:
    cgroup = os.open(ground.slice.path, os.O_RDONLY)
    try:
        theirs = calls.load("theirs", calls.PROGRAM_CGROUP_SOCK_ADDR, ALLOW, "none", calls.ATTACH_CONNECT4)
        calls.attach(cgroup, theirs, calls.ATTACH_CONNECT4)  # as systemd does: BPF_F_ALLOW_MULTI
        os.close(theirs)
        ours = ground.ids()["connect4"]
        assert len(ours) == 2
        ground.programs.install(lambda _: built)
        assert len(ground.ids()["connect4"]) == 2
        ground.programs.remove()
        (left,) = ground.ids()["connect4"]
        assert left in ours
    finally:
        os.close(cgroup)


def test_programs_whose_pins_are_out_of_sight_are_taken_off(ground: Ground, built: objects.Objects, port: int) -> None:
    """As after an enforcerd that ran in a mount namespace of its own: its links live on, its maps cannot be told anything."""
    held = [os.dup(link) for link in ground.programs._links.values()]
    try:
        ground.programs._let_go()
        for place in pins.layouts(ground.programs.home):
            pins.remove_layout(place)
        assert set(map(len, ground.ids().values())) == {1}
        ground.programs.install(lambda _: built)
        assert set(map(len, ground.ids().values())) == {1}
        assert answer(ground.registered(), lambda: dial(port)) == "ok"
    finally:
        for link in held:
            os.close(link)


def test_removal_leaves_nothing(built: objects.Objects) -> None:
    ground = Ground(built)
    assert ground.programs.home.is_dir()
    assert ground.programs.remove() == [f"eBPF programs and maps in /sys/fs/bpf/hostagent-ha{ground.tag}-hatest-{ground.tag}"]
    assert not ground.programs.home.exists()
    assert set(map(len, ground.ids().values())) == {0}
    ground.close()


def test_another_service_with_the_same_table_elsewhere_is_left_alone(ground: Ground, built: objects.Objects, port: int) -> None:
    leaf, other = ground.registered(), Slice(f"hatest-{ground.tag}-other.slice")
    other.create()
    try:
        theirs = Programs(f"ha{ground.tag}", other)
        theirs.install(lambda _: built)
        assert answer(leaf, lambda: dial(port)) == "ok"
        theirs.remove()
        assert ground.programs.astray == []
        assert answer(leaf, lambda: dial(port)) == "ok"
    finally:
        other.remove()


def test_switched_off_removes_what_an_earlier_run_left(ground: Ground, port: int) -> None:
    ground.programs._let_go()
    off = Programs(f"ha{ground.tag}", ground.slice, off=True)
    off.install()
    assert off.problem == "switched off (enforcement.bpf)"
    assert set(map(len, ground.ids().values())) == {0}
    assert answer(ground.leaf(), lambda: dial(port)) == "ok"  # here is no nft: only the programs said no


def test_a_program_that_does_not_load_is_named_and_the_others_hold(ground: Ground, built: objects.Objects, port: int) -> None:
    broken = built.code | {"sendmsg6": instruction(0x95)}  # returns what nobody set
    ground.programs.install(lambda _: objects.Objects(broken, built.maps, built.tracepoints))
    (line,) = [each for each in ground.programs.weaker() if "sendmsg6" in each]
    assert line.startswith("eBPF program sendmsg6 is not in force, load program ha_sendmsg6: ")
    assert "R0 !read_ok" in line
    assert ground.ids()["sendmsg6"] == []
    assert answer(ground.leaf(), lambda: dial(port)) == "EPERM"


def test_a_slice_made_anew_is_seen_and_mended(ground: Ground, built: objects.Objects, port: int) -> None:
    ground.slice.remove()
    ground.slice.create()
    assert set(ground.programs.astray) == {row.name for row in PROGRAMS if not row.tracepoint and row.name in HERE}
    ground.programs.install(lambda _: built)
    assert ground.programs.astray == []
    assert answer(ground.leaf(), lambda: dial(port)) == "EPERM"


def take_off(program: int) -> None:
    """Detach the program with this id, as root could."""
    for link in calls.links():
        if calls.link_info(link).program == program:
            calls.detach(link)


# -- in the whole enforcer ------------------------------------------------------------------------------------------------


def test_status_lists_every_program(host: Stage) -> None:
    report = host.status()["bpf"]
    assert report["problem"] == ""
    assert {each["name"]: each["attached"] for each in report["programs"]} == {row.name: row.name in HERE for row in PROGRAMS}


def test_programs_that_somebody_takes_off_are_put_back(host: Stage) -> None:
    cgroup = os.open(Slice(host.slice).path, os.O_RDONLY)
    try:
        before = calls.attached(cgroup, calls.ATTACH_CONNECT4)
        take_off(before[0])
        assert wait_for("the program", lambda: calls.attached(cgroup, calls.ATTACH_CONNECT4)) != before
    finally:
        os.close(cgroup)
    wait_for("the row", lambda: [row for row in host.events("service") if "eBPF" in str(row["detail"]) and "connect4" in str(row["detail"])])
    assert host.status()["bpf"]["problem"] == ""
    assert host.probe("shared", "print(1)") == 1


_UNIX = """
import json, socket
def attempt(kind, name):
    with socket.socket(socket.AF_UNIX, kind) as own, socket.socket(socket.AF_UNIX, kind) as one:
        own.bind(name)
        if kind == socket.SOCK_STREAM:
            own.listen()
        try:
            one.connect(name)
            return "connected"
        except OSError as error:
            return type(error).__name__
pair = socket.socketpair()
pair[0].send(b"x")
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
names = ("\\0abstract", "/tmp/pathname")
print(json.dumps([attempt(kind, f"{name}-{int(kind)}") for kind in kinds for name in names] + [pair[1].recv(1).decode()]))
"""


def test_a_workload_that_needs_no_unix_socket_connects_none_not_even_its_own(host: Stage) -> None:
    assert host.probe("shared", _UNIX) == [*["connected"] * 4, "x"]
    if not UNIX:
        refused = host.run("without-unix", "true")
        assert (refused.returncode, "no eBPF program connect_unix" in refused.stderr) == (77, True)
        return
    assert host.probe("without-unix", _UNIX) == [*["PermissionError"] * 4, "x"]
    rows = wait_for("the row", lambda: [row for row in host.events("refusal") if row["workload"] == "without-unix" and row["transport"] == "unix"])
    assert rows[0]["reason"] == "the workload may not connect unix sockets"


def test_without_the_program_such_a_workload_is_refused(place: Path) -> None:
    with stage(place, [{"name": "plain"}, {"name": "without-unix", "unix_sockets": False}], bpf="off") as bare:
        assert bare.run("plain", "true").returncode == 0
        done = bare.run("without-unix", "true")
        assert done.returncode == 77
        assert "`unix_sockets: false` cannot be enforced here: no eBPF program connect_unix: switched off" in done.stderr
        report = bare.status()
        assert report["bpf"]["problem"] == "switched off (enforcement.bpf)"
        assert not any(each["attached"] for each in report["bpf"]["programs"])
        assert any(line.startswith("no eBPF: switched off") for line in report["weaker"])


def test_a_refusal_by_a_program_is_a_row(host: Stage) -> None:
    script = "import json, socket\ntry: socket.socket(2, 2).sendto(b'x', (SINK, 443))\nexcept OSError as error: print(json.dumps(error.errno))"
    assert host.probe("shared", script, SINK=SINK_4) == errno.EPERM
    rows = wait_for("the row", lambda: [row for row in host.events("refusal") if row["layer"] == "bpf" and row["transport"] == "udp"])
    wanted = {"workload": "shared", "destination": f"{SINK_4}:443", "transport": "udp", "count": 1}
    assert {key: rows[0][key] for key in wanted} == wanted
