"""Room in the maps of the eBPF programs: each leaf has its own, floods and forks fill no other's, what is lost is counted."""

from __future__ import annotations

import ast
import contextlib
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hostagent.enforcer.bpf import calls, layout, objects
from hostagent.enforcer.cgroup import Leaf
from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.reporting.connects import BpfWatch
from tests.netns.ground import Ground, answer, dial
from tests.netns.stage import wait_for

pytestmark = pytest.mark.root


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
