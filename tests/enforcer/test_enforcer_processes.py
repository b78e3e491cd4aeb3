"""Chains of programs: right or unknown, whatever was lost, reused, forked or executed; and bounded."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.enforcer.bpf import layout
from hostagent.enforcer.reporting.lineage import command_line
from hostagent.enforcer.reporting.processes import Chain, Link, Name, Processes

LEAF, ROOT = 7, 100


def table() -> Processes:
    processes = Processes()
    processes.root(LEAF, ROOT)
    return processes


def link(pid: int, start: int, exe: str) -> Link:
    return Link(pid, start, exe, (exe,), 1000, exe)


def launched(processes: Processes) -> Name:
    processes.fork(LEAF, Name(ROOT, 0, 0), Name(101, 1, 0), 0, "first")
    processes.exec(LEAF, Name(101, 1, 1), link(101, 1, "agent"))
    return Name(101, 1, 1)


def names(chain: Chain) -> list[tuple[int, str]]:
    return [(each.pid, each.exe) for each in chain]


def test_agent_bash_python_driver_is_the_chain() -> None:
    processes = table()
    parent = launched(processes)
    for pid, exe in ((102, "bash"), (103, "python"), (104, "driver")):
        processes.fork(LEAF, parent, Name(pid, pid, 0), 1000, "copy")
        processes.exec(LEAF, Name(pid, pid, 1), link(pid, pid, exe))
        parent = Name(pid, pid, 1)
    assert names(processes.chain(LEAF, parent)) == [(104, "driver"), (103, "python"), (102, "bash"), (101, "agent")]


def test_a_copy_that_executes_nothing_runs_what_its_parent_ran() -> None:
    processes = table()
    processes.fork(LEAF, launched(processes), Name(102, 2, 0), 55, "worker")
    assert processes.chain(LEAF, Name(102, 2, 0)) == (Link(102, 2, "agent", ("agent",), 55, "worker"), link(101, 1, "agent"))


def test_what_a_process_ran_before_stays_in_its_chain_and_each_moment_has_its_own() -> None:
    processes = table()
    before = launched(processes)
    processes.exec(LEAF, Name(101, 1, 2), link(101, 1, "other"))
    assert names(processes.chain(LEAF, before)) == [(101, "agent")]
    assert names(processes.chain(LEAF, Name(101, 1, 2))) == [(101, "other"), (101, "agent")]


def test_a_pid_that_comes_again_is_another_process() -> None:
    processes = table()
    agent = launched(processes)
    processes.fork(LEAF, agent, Name(102, 2, 0), 1000, "a")
    processes.exec(LEAF, Name(102, 2, 1), link(102, 2, "first"))
    processes.exit(102, 2, 3)
    processes.fork(LEAF, agent, Name(102, 9, 0), 1000, "a")
    processes.exec(LEAF, Name(102, 9, 1), link(102, 9, "second"))
    assert names(processes.chain(LEAF, Name(102, 2, 1)))[0] == (102, "first")
    assert names(processes.chain(LEAF, Name(102, 9, 1)))[0] == (102, "second")


def test_parents_that_have_ended_long_ago_stay_in_the_chains_of_their_children() -> None:
    processes = table()
    processes.fork(LEAF, launched(processes), Name(102, 2, 0), 1000, "a")
    processes.exit(101, 1, 3)
    processes.expire(60_000_000_000)
    assert len(processes) == 1
    assert names(processes.chain(LEAF, Name(102, 2, 0))) == [(102, "agent"), (101, "agent")]


@pytest.mark.parametrize("asked", [Name(101, 2, 1), Name(101, 1, 2), Name(101, 1, 0), Name(102, 1, 1), Name(101, 0, 0)])
def test_what_is_not_exactly_known_is_unknown(asked: Name) -> None:
    processes = table()
    launched(processes)
    assert processes.chain(LEAF, asked) == ()
    assert processes.chain(LEAF + 1, Name(101, 1, 1)) == ()


def test_a_process_from_elsewhere_has_no_chain_and_gives_none() -> None:
    processes = table()
    processes.fork(LEAF, Name(555, 0, 0), Name(102, 2, 0), 0, "x")
    processes.exec(LEAF, Name(102, 2, 1), link(102, 2, "stray"))
    processes.fork(LEAF, Name(102, 2, 1), Name(103, 3, 0), 0, "x")
    processes.exec(LEAF, Name(103, 3, 1), link(103, 3, "child"))
    assert (processes.chain(LEAF, Name(102, 2, 1)), processes.chain(LEAF, Name(103, 3, 1))) == ((), ())


def test_memory_is_bounded_against_processes_and_generations() -> None:
    processes = table()
    parent = launched(processes)
    for number in range(20_000):
        child = Name(1000 + number, 1000 + number, 0)
        processes.fork(LEAF, parent, child, 1000, "x")
        processes.exit(parent.pid, parent.start_ns, number)
        processes.expire(number + 30_000_001_000)
        parent = child
    chain = processes.chain(LEAF, parent)
    assert len(chain) <= 50
    assert (chain[0].pid, chain[-1].exe) == (parent.pid, "agent")
    assert [each.argv[0] for each in chain if not each.pid] == ["<8 or more programs>"]
    for number in range(20_000):
        processes.fork(LEAF, parent, Name(100_000 + number, 1, 0), 1000, "x")
    assert len(processes) <= 8192 + 1
    processes.forget(LEAF)
    assert len(processes) == 0


@dataclass
class World:
    """What really happens, and the same as a table hears it that loses some of it."""

    heard: Processes = field(default_factory=table)
    truth: dict[tuple[int, int], list[Chain]] = field(default_factory=dict)
    alive: dict[int, int] = field(default_factory=dict)
    clock: int = 1

    def fork(self, parent: int, child: int, *, lost: bool) -> None:
        self.clock += 1
        start = self.alive.get(parent, 0)
        chain = self.truth[parent, start][-1] if start else ()
        image = len(self.truth[parent, start]) - 1 if start else 0
        copy = (Link(child, self.clock, chain[0].exe, chain[0].argv, 0, "c"), *chain) if chain else ()
        self.truth[child, self.clock] = [copy]
        self.before[child, self.clock] = chain
        self.alive[child] = self.clock
        if not lost:
            self.heard.fork(LEAF, Name(parent, start, image), Name(child, self.clock, 0), 0, "c")

    before: dict[tuple[int, int], Chain] = field(default_factory=dict)

    def exec(self, pid: int, *, lost: bool) -> None:
        self.clock += 1
        key = (pid, self.alive[pid])
        made = link(*key, f"program-{self.clock}")
        images = self.truth[key]
        before = self.before[key] if len(images) == 1 else images[-1]
        images.append((made, *before))
        if not lost:
            self.heard.exec(LEAF, Name(*key, len(images) - 1), made)

    def exit(self, pid: int, *, lost: bool) -> None:
        self.clock += 1
        start = self.alive.pop(pid)
        if not lost:
            self.heard.exit(pid, start, self.clock)


STEPS = st.lists(st.tuples(st.sampled_from("ffeex"), st.integers(1, 6), st.integers(1, 6), st.sampled_from([False] * 5 + [True])), max_size=60)


@given(steps=STEPS)
def test_a_chain_is_right_or_unknown_whatever_is_lost(steps: list[tuple[str, int, int, bool]]) -> None:
    world = World()
    world.fork(ROOT, 1, lost=False)
    world.exec(1, lost=False)
    for what, pid, other, lost in steps:
        if what == "f" and pid in world.alive and other not in world.alive:
            world.fork(pid, other, lost=lost)
        elif what == "e" and pid in world.alive:
            world.exec(pid, lost=lost)
        elif what == "x" and pid in world.alive and pid != 1:
            world.exit(pid, lost=lost)
        for (number, start), images in world.truth.items():
            for image, chain in enumerate(images):
                assert world.heard.chain(LEAF, Name(number, start, image)) in ((), chain)
    if not any(lost for *_, lost in steps):
        for number, start in world.alive.items():
            images = world.truth[number, start]
            assert world.heard.chain(LEAF, Name(number, start, len(images) - 1)) == images[-1]


def words(*given: bytes, unread: int = 0, more: int = 0) -> bytes:
    space = b"".join(each[:63].ljust(layout.WORD_SIZE, b"\0") for each in given).ljust(layout.WORD_COUNT * layout.WORD_SIZE, b"\0")
    return struct.pack("=IIII", len(given), unread, more, 0) + space


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (words(b"psql", b"-h", b"db"), ("psql", "-h", "db")),
        (words(b"psql", b"--password=hunter2"), ("psql", "--password=<7 characters>")),
        (words(b"sh", b"-c", b"x" * 70), ("sh", "-c", "<63 or more characters>")),
        (words(b"sh", b"", unread=2), ("sh", "<not read>")),
        (words(b"sh", more=1), ("sh", "<more>")),
        (words(more=1), ("<more>",)),
        (words(), ()),
        (words(*[b"a"] * 16, more=1), (*["a"] * 16, "<more>")),
    ],
)
def test_command_lines_are_redacted_and_say_what_is_missing(data: bytes, shown: tuple[str, ...]) -> None:
    assert command_line(data) == shown
