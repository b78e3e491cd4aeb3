"""The eBPF programs are replaced without a gap, live beside those of others, and leave nothing when they go."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from hostagent.enforcer.bpf import calls, objects, pins
from hostagent.enforcer.bpf.programs import Programs, netns_cookie
from hostagent.enforcer.bpf.table import PROGRAMS
from hostagent.enforcer.cgroup import Leaf, Slice
from hostagent.enforcer.rules.backstop import instruction
from tests.netns.ground import ALLOW, HERE, Ground, answer, dial

pytestmark = pytest.mark.root


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
