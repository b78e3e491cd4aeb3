"""Who dialled: the programs' records about processes and dials, as events ``kernel_flow``.

A workload that dials in a loop must not fill the journal: beyond a rate its dials are counted, per destination and second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from hostagent.enforcer.bpf import layout
from hostagent.enforcer.bpf.layout import Heading
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.connects import BpfWatch
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.reporting.processes import Chain, Link, Name, Processes
from hostagent.enforcer.reporting.redaction import redact
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint

_ROWS_PER_WINDOW = 100
_WINDOW_NS = 1_000_000_000
_MAXIMUM_KEYS = 256
_OTHERS = "various"


class _Dial(NamedTuple):
    """What dials are counted by. ``own``: to the leaf's own loopback."""

    workload: str
    leaf: str
    destination: str
    established: bool
    own: bool

    def fields(self, source: str, count: int) -> dict[str, object]:
        """Return the event's fields about where it went."""
        about = self._asdict() | {"transport": "tcp", "source": source, "count": count}
        del about["workload"]
        return about



class Lineage:
    """Follows the processes of every leaf and writes down their dials."""

    def __init__(self, watch: BpfWatch, evidence: Evidence) -> None:
        """Ask ``watch`` for the records."""
        self._watch = watch
        self._evidence = evidence
        self._processes = Processes()
        self._leaves: dict[int, Governed] = {}
        self._rows: dict[str, int] = {}
        self._counts: dict[_Dial, tuple[int, int]] = {}
        self._window = 0
        self._events: list[Event] = []
        watch.on(layout.RECORD_FORK, self._forked)
        watch.on(layout.RECORD_EXEC, self._executed)
        watch.on(layout.RECORD_EXIT, self._exited)
        watch.on(layout.RECORD_FLOW, self._dialled)

    def begin(self, governed: Governed) -> None:
        """Follow a leaf whose first process (ours, inside it) is there and has started nothing yet."""
        if governed.cgroup and governed.process is not None:
            self._leaves[governed.cgroup] = governed
            self._processes.root(governed.cgroup, governed.process.pid)

    def end(self, governed: Governed) -> None:
        """Write down what is left about a leaf and forget it. The rings must have been read."""
        self.flush()
        for cgroup in [number for number, each in self._leaves.items() if each is governed]:
            del self._leaves[cgroup]
            self._processes.forget(cgroup)

    def tick(self) -> None:
        """Write down what came since the last time; drop what is known of processes long ended."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if now - self._window >= _WINDOW_NS:
            self._count(now)
        self.write()
        self._processes.expire(now)

    def flush(self) -> None:
        """Write down everything, counts too."""
        self._count(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self.write()

    def write(self) -> None:
        """Write down the dials that came since the last time."""
        events, self._events = self._events, []
        if events:
            self._evidence.note_all(events)

    # -- records --------------------------------------------------------------------------------------------------

    def _forked(self, heading: Heading, data: bytes) -> None:
        fields = layout.FORK.unpack(data)
        parent = Name(heading.tgid, int(fields["parent_start_ns"]), int(fields["parent_image"]))
        child = Name(int(fields["child"]), heading.at_ns, 0)
        self._processes.fork(heading.leaf, parent, child, heading.uid, heading.comm)

    def _executed(self, heading: Heading, data: bytes) -> None:
        fields = layout.EXEC.unpack(data)
        name = Name(heading.tgid, int(fields["start_ns"]), int(fields["image"]))
        filename, words = fields["filename"], fields["words"]
        assert isinstance(filename, bytes)
        assert isinstance(words, bytes)
        link = Link(name.pid, name.start_ns, layout.text(filename), command_line(words), heading.uid, heading.comm)
        self._processes.exec(heading.leaf, name, link)

    def _exited(self, heading: Heading, data: bytes) -> None:
        self._processes.exit(heading.tgid, int(layout.END.unpack(data)["start_ns"]), heading.at_ns)

    def _dialled(self, heading: Heading, data: bytes) -> None:
        fields = layout.FLOW.unpack(data)
        raw = fields["tuple"]
        assert isinstance(raw, bytes)
        ends = layout.TUPLE.unpack(raw)
        family = int(ends["family"])
        source, destination = (_endpoint(family, ends[f"{end}addr"], ends[f"{end}port"]) for end in ("s", "d"))
        leaf, workload = self._watch.leaf(heading.leaf)
        dial = _Dial(workload, leaf, str(destination), bool(fields["established"]), self._own(heading.leaf, destination))
        taken = self._rows.get(leaf, 0)
        if taken >= _ROWS_PER_WINDOW:
            self._add(dial, heading.at_ns)
            return
        self._rows[leaf] = taken + 1
        chain = self._processes.chain(heading.leaf, Name(heading.tgid, int(fields["start_ns"]), int(fields["image"])))
        who: dict[str, object] = {
            "cookie": heading.cookie,
            "netns": heading.netns,
            "pid": heading.tgid,
            "start_ns": int(fields["start_ns"]),
            "uid": heading.uid,
            "comm": heading.comm,
            "attribution": "process" if chain else "cgroup-only",
            "lineage": _shown(chain),
        }
        self._append(workload, heading.at_ns, dial.fields(str(source), 1) | who)
        if len(self._events) >= _ROWS_PER_WINDOW:
            self.write()

    # -- counting --------------------------------------------------------------------------------------------------

    def _own(self, cgroup: int, destination: Endpoint) -> bool:
        """Whether a dial stays on the leaf's own loopback: the rules redirect only the ports of declared targets there."""
        leaf = self._leaves.get(cgroup)
        return leaf is not None and destination.port not in leaf.loopback_ports and ip_address(destination.host).is_loopback

    def _add(self, dial: _Dial, at_ns: int) -> None:
        if dial not in self._counts and len(self._counts) >= _MAXIMUM_KEYS:
            dial = dial._replace(destination=_OTHERS)
        first, count = self._counts.get(dial, (at_ns, 0))
        self._counts[dial] = (first, count + 1)

    def _count(self, now: int) -> None:
        counts, self._counts, self._rows, self._window = self._counts, {}, {}, now
        for dial, (first, count) in counts.items():
            self._append(dial.workload, first, dial.fields("", count) | {"attribution": "cgroup-only", "lineage": []})

    def _append(self, workload: str, boot_ns: int, fields: dict[str, object]) -> None:
        at = boot_ns + time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._events.append(Event(EventKind.KERNEL_FLOW, at, "", workload, fields))


def command_line(data: bytes) -> tuple[str, ...]:
    """Return the redacted words of a record's ``words``; what was not read is said to be missing."""
    fields = layout.WORDS.unpack(data)
    space = fields["word"]
    assert isinstance(space, bytes)
    count, unread = int(fields["count"]), int(fields["unread"])
    size = layout.WORD_SIZE
    raw = [space[place * size : (place + 1) * size] for place in range(min(count, layout.WORD_COUNT))]
    words = redact([layout.text(each) for each in raw])
    for place, each in enumerate(raw):
        if unread >> place & 1:
            words[place] = "<not read>"
        elif each[size - 2]:  # it fills its place, so this is its beginning
            words[place] = f"<{size - 1} or more characters>"
    if fields["more"]:
        words.append("<more>")
    return tuple(words)


def _shown(chain: Chain) -> list[Mapping[str, object]]:
    return [link._asdict() for link in chain]


def _endpoint(family: int, address: int | bytes, port: int | bytes) -> Endpoint:
    assert isinstance(address, bytes)
    return Endpoint(layout.address(family, address), int(port))
