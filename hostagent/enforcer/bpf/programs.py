"""The programs in force: loaded, linked to the slice, replaced without a gap, told which leaves there are.

Nothing here is needed for the boundary to hold. What cannot be had is kept as a reason, for ``status``; but a leaf that cannot be
registered cannot be used, because the programs deny what they do not know.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hostagent.enforcer.bpf import calls, kept, layout, objects, pins
from hostagent.enforcer.bpf.objects import Objects
from hostagent.enforcer.bpf.table import PROGRAMS, Row
from hostagent.enforcer.cgroup import Slice
from hostagent.model.errors import HostagentError

log = logging.getLogger(__name__)

_LOAD_64 = 0x18
_MAP_DESCRIPTOR = 1
_SO_NETNS_COOKIE = 71
_PREFIX = "ha_"
"""Of the names under which programs are loaded, for people and to tell ours."""


_OF_LEAVES = ("leaves", "taken", "pruned", "followed")
"""The maps with an entry for each leaf. In the first is what it may; it is the last to be made and the first to go."""
_ID_SIZE = 8
_COUNT = struct.Struct("=q")


def netns_cookie() -> int:
    """Return the kernel's number of this process's network namespace, which no other ever had (Linux 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return int(struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])


class Programs:
    """``problem`` says why there is no program at all, empty when there are some; ``reasons`` why one is missing, by name; ``home`` is where they are pinned."""

    def __init__(
        self, table: str, slice_: Slice, *, off: bool = False, rows: Sequence[Row] = PROGRAMS, cache: Path | None = None
    ) -> None:
        """Nothing is touched until ``install``.

        Args:
            table: the name of the service's nft table, for the name of the folder of pins.
            slice_: where the programs hang.
            off: install none, and remove what an earlier enforcerd left.
            rows: the programs.
            cache: the folder of what was compiled before; see ``kept``.
        """
        self.problem = "not installed yet"
        self.reasons: dict[str, str] = {}
        self.home = pins.home(table, slice_.name)
        self._slice = slice_
        self._off = off
        self._rows = rows
        self._cache = cache
        self._leaves: dict[int, bytes] = {}
        self._maps: dict[str, int] = {}
        self._shapes: dict[str, calls.MapShape] = {}
        self._links: dict[str, int] = {}
        self._ready: Objects | None = None

    @property
    def installed(self) -> bool:
        """Whether any program is in force, and thus leaves must be registered."""
        return bool(self._maps)

    def install(self, compile_: Callable[[int], Objects] | None = None) -> None:
        """Compile, load and link; where programs of an earlier run are linked, replace each without a gap.

        Never raises: without eBPF the boundary holds. What was compiled before is used again, unless there is a ``compile_``,
        which is given the leaves' level.
        """
        try:
            if self._off:
                raise HostagentError("switched off (enforcement.bpf)")
            self._ready = compile_(self._slice.level + 1) if compile_ else self._ready or self._compile(self._slice.level + 1)
            self._install(self._ready)
            self.problem = ""
        except (HostagentError, OSError) as error:
            self.problem = str(error)
            log.warning("no eBPF: %s", error)
            # What an earlier run left would deny every new leaf, as it cannot be told of any.
            self._let_go()
            pins.remove(self.home)
            with contextlib.suppress(OSError):
                self._evict()

    def _compile(self, level: int) -> Objects:
        text = objects.source(level)
        return kept.kept_or_compiled(text, self._cache, self._rows) if self._cache else objects.compiled(text, self._rows)

    def _install(self, ready: Objects) -> None:
        place = pins.prepare(self.home, ready.maps)
        maps: dict[str, int] = {}
        try:
            for name, shape in ready.maps:
                maps[name] = pins.open_map(place / "maps" / name, shape)
            self._tell(maps)
            links = self._link_all(ready, place, maps)
        except OSError:
            for descriptor in maps.values():
                os.close(descriptor)
            raise
        self._let_go()
        self._maps, self._shapes, self._links = maps, dict(ready.maps), links
        for other in pins.layouts(self.home):
            if other != place:
                pins.remove_layout(other)
        self._evict()

    def _evict(self) -> None:
        """Take off what an enforcerd left on the slice whose pins are not to be found (another mount namespace's).

        It has maps of its own, which nobody tells of any leaf: it would deny all of them.
        """
        ours = {calls.link_info(link).number for link in self._links.values()}
        here = self._slice.id
        for link in calls.links():
            info = calls.link_info(link)
            if info.cgroup == here and info.number not in ours and calls.program_name(info.program).startswith(_PREFIX):
                calls.detach(link)

    def _tell(self, maps: Mapping[str, int]) -> None:
        """Make the maps say what is registered, nothing else."""
        for key, value in self._leaves.items():
            _admit(maps, struct.pack("=Q", key), value)
        for name in _OF_LEAVES:
            for stale in [key for key in calls.keys(maps[name], _ID_SIZE) if struct.unpack("=Q", key)[0] not in self._leaves]:
                calls.delete(maps[name], stale)

    def _link_all(self, ready: Objects, place: Path, maps: Mapping[str, int]) -> dict[str, int]:
        """Put every program in force that can be; return the links."""
        order = [maps[name] for name, _ in ready.maps]
        earlier = {path.name: path for folder in pins.layouts(self.home) for path in (folder / "links").iterdir()}
        links: dict[str, int] = {}
        self.reasons = {}
        cgroup = os.open(self._slice.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for row in self._rows:
                try:
                    links[row.name] = self._link(row, ready, order, cgroup, place / "links" / row.name, earlier.pop(row.name, None))
                except OSError as error:
                    self.reasons[row.name] = f"{error.strerror or error} (needs Linux {row.since})"
                    log.warning("eBPF program %s: %s", row.name, self.reasons[row.name])
                    (place / "links" / row.name).unlink(missing_ok=True)
            for path in earlier.values():
                path.unlink()
        finally:
            os.close(cgroup)
        return links

    def _link(self, row: Row, ready: Objects, order: Sequence[int], cgroup: int, pin: Path, earlier: Path | None) -> int:
        """Load one program and put it in the place of its forerunner, if there is one; return the link, pinned."""
        code = _with_maps(ready.code[row.name], order)
        program = calls.load(_PREFIX + row.name, row.kind, code, objects.LICENCE, 0 if row.tracepoint else row.attach)
        try:
            if row.tracepoint:
                return _link_tracepoint(row, ready, program, pin, earlier)
            found = _usable(earlier, self._slice.id)
            if found is None:
                pin.unlink(missing_ok=True)
                made = calls.link(program, cgroup, row.attach)
                calls.pin(made, str(pin))
                return made
            calls.replace(found, program)
            if earlier != pin:
                calls.pin(found, str(pin))
            return found
        finally:
            os.close(program)

    # -- leaves ----------------------------------------------------------------------------------------------------

    def register(self, leaf: int, netns: int, flags: int = 0, number: int = 0) -> None:
        """Let the leaf with cgroup id ``leaf`` use sockets of the network namespace with cookie ``netns``, from now on.

        Args:
            leaf: the cgroup's id.
            netns: see ``netns_cookie``.
            flags: of ``layout.FLAG_…``.
            number: enforcerd's own number of it.

        Raises:
            OSError: the map is full.
        """
        self._leaves[leaf] = layout.LEAF_RULE.pack(netns, flags, number)
        if self._maps:
            _admit(self._maps, struct.pack("=Q", leaf), self._leaves[leaf])

    def forget(self, leaf: int) -> None:
        """Deny the leaf from now on, and forget its sockets that never came to connect."""
        self._leaves.pop(leaf, None)
        if not self._maps:
            return
        key = struct.pack("=Q", leaf)
        calls.delete(self._maps["leaves"], key)
        if self.taken(leaf):
            self.prune(0.0, leaf)
        for name in _OF_LEAVES:
            calls.delete(self._maps[name], key)

    def taken(self, leaf: int) -> int:
        """Return how many sockets of the leaf are remembered, as far as is known; at most ``layout.LEAF_CONNECTIONS`` are."""
        return _number(self._maps["taken"], struct.pack("=Q", leaf)) - _number(self._maps["pruned"], struct.pack("=Q", leaf))

    @contextlib.contextmanager
    def proving(self, leaf: int) -> Iterator[None]:
        """Stand aside for the canary in ``leaf`` while the body runs: the nft table alone must refuse it."""
        self.register(leaf, 0, layout.FLAG_PROVING)
        try:
            yield
        finally:
            self.forget(leaf)

    # -- maps ------------------------------------------------------------------------------------------------------

    def map(self, name: str) -> tuple[int, calls.MapShape] | None:
        """Return a map's descriptor (ours, do not close) and shape; None when no program is in force."""
        return (self._maps[name], self._shapes[name]) if self._maps else None

    def losses(self) -> dict[str, int]:
        """Return how many records and entries were lost since the maps were made, by what they were."""
        found = self.map("losses")
        if found is None:
            return {}
        values = {name: calls.lookup(found[0], struct.pack("=I", place), 8) for place, name in enumerate(layout.LOSSES)}
        return {name: struct.unpack("=Q", value)[0] for name, value in values.items() if value is not None}

    def missing(self, name: str) -> str:
        """Return why the program called ``name`` is not in force, empty if it is."""
        return "" if name in self._links else self.reasons.get(name, self.problem)

    def prune(self, older_than_s: float, leaf: int = 0) -> int:
        """Forget the sockets that were to connect, never came to it, and whose end no program saw; return how many.

        A multipath socket's inner ones are the kernel's own: no program hears of their end unless they were dialled.

        Args:
            older_than_s: younger ones may come to connect yet.
            leaf: only this leaf's, 0 for all.
        """
        found = self.map("by_cookie")
        if found is None:
            return 0
        descriptor, shape = found
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(older_than_s * 1e9)
        gone: dict[int, int] = {}
        for key, value in list(calls.entries(descriptor, shape.key_size, shape.value_size)):
            origin = layout.ORIGIN.unpack(value)
            owner = int(origin["leaf"])
            if int(origin["at_ns"]) < until and leaf in (0, owner) and not any(bytes(origin["tuple"])) and calls.delete(descriptor, key):
                gone[owner] = gone.get(owner, 0) + 1
        for owner, count in gone.items():
            place = struct.pack("=Q", owner)
            before = calls.lookup(self._maps["pruned"], place, _COUNT.size)
            if before is not None:
                calls.update(self._maps["pruned"], place, _COUNT.pack(_COUNT.unpack(before)[0] + count))
        return sum(gone.values())

    # -- upkeep ----------------------------------------------------------------------------------------------------

    @property
    def astray(self) -> list[str]:
        """The programs that were in force and are not on the slice as it is now (it was recreated, or somebody detached them)."""
        here = self._slice.id
        hooked = [row.name for row in self._rows if row.name in self._links and not row.tracepoint]
        return [name for name in hooked if calls.link_info(self._links[name]).cgroup != here]

    def report(self) -> dict[str, Any]:
        """Return what ``status`` shows: ``problem``, ``losses``, ``programs`` (name, attached, reason, lost)."""
        programs = [
            {"name": row.name, "attached": row.name in self._links, "reason": self.missing(row.name), "lost": row.lost}
            for row in self._rows
        ]
        return {"problem": self.problem, "losses": self.losses(), "programs": programs}

    def weaker(self) -> list[str]:
        """Return a line for a person about each thing that is lost."""
        if self.problem:
            return [f"no eBPF: {self.problem}: which process inside a workload made a connection is not recorded (attribution: cgroup-only), and nothing but the shared leaves' own packet programs stands behind nft"]
        return [f"eBPF program {row.name} is not in force, {self.reasons[row.name]}: {row.lost}" for row in self._rows if row.name in self.reasons]

    def remove(self) -> list[str]:
        """Take every program out of the kernel; return what was removed."""
        self._let_go()
        self.problem = "removed"
        return pins.remove(self.home)

    def _let_go(self) -> None:
        for descriptor in (*self._maps.values(), *self._links.values()):
            os.close(descriptor)
        self._maps, self._shapes, self._links = {}, {}, {}


def _admit(maps: Mapping[str, int], leaf: bytes, rule: bytes) -> None:
    """Register a leaf; what is counted of one that is registered already goes on."""
    for name in _OF_LEAVES[1:]:
        if calls.lookup(maps[name], leaf, _COUNT.size) is None:
            calls.update(maps[name], leaf, _COUNT.pack(0))
    calls.update(maps["leaves"], leaf, rule)


def _number(counts: int, leaf: bytes) -> int:
    value = calls.lookup(counts, leaf, _COUNT.size)
    return int(_COUNT.unpack(value)[0]) if value is not None else 0


def _usable(pin: Path | None, cgroup: int) -> int | None:
    """Return the link pinned at ``pin`` if it hangs on the cgroup with this id; one that hangs nowhere is removed."""
    if pin is None:
        return None
    found = calls.pinned(str(pin))
    if calls.link_info(found).cgroup == cgroup:
        return found
    os.close(found)
    pin.unlink()
    return None


def _link_tracepoint(row: Row, ready: Objects, program: int, pin: Path, earlier: Path | None) -> int:
    """As for a cgroup, but such a link cannot be updated: the new one begins before the old one ends."""
    if row.tracepoint not in ready.tracepoints:
        raise OSError(f"the kernel has no tracepoint {row.tracepoint}")
    event = calls.tracepoint(ready.tracepoints[row.tracepoint])
    try:
        made = calls.link(program, event, calls.ATTACH_PERF_EVENT)
    finally:
        os.close(event)
    if earlier is not None:
        earlier.unlink()
    calls.pin(made, str(pin))
    return made


def _with_maps(code: bytes, order: Sequence[int]) -> bytes:
    """Put descriptors where the compiler left places (see ``compiler``)."""
    words = bytearray(code)
    for position in range(0, len(words), 8):
        operation, registers, _, value = struct.unpack_from("=BBhi", words, position)
        if operation == _LOAD_64 and registers >> 4 == _MAP_DESCRIPTOR:
            struct.pack_into("=i", words, position + 4, order[value])
    return bytes(words)
