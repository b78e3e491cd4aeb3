"""Ground for the eBPF programs alone: a slice of a test's own with the programs on it, attempts inside its leaves, and no nft."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import struct
from collections.abc import Callable

from hostagent.enforcer.bpf import calls, layout, objects
from hostagent.enforcer.bpf.programs import Programs, netns_cookie
from hostagent.enforcer.bpf.ring import Ring
from hostagent.enforcer.bpf.table import PROGRAMS
from hostagent.enforcer.cgroup import Leaf, Slice
from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.rules.backstop import instruction

KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
HERE = {row.name for row in PROGRAMS if tuple(map(int, row.since.split("."))) <= KERNEL}
"""The programs whose hooks this kernel has."""
UNIX = "connect_unix" in HERE
ALLOW = instruction(0xB7, 0, 0, 0, 1) + instruction(0x95)
"""The smallest program: return 1."""


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


def take_off(program: int) -> None:
    """Detach the program with this id, as root could."""
    for link in calls.links():
        if calls.link_info(link).program == program:
            calls.detach(link)
