"""Turns what the programs tell into events: refusals by leaf, destination and second; what was lost, as gaps.

Other rooms ask for the records they know: ``on`` gives those of one kind to a function, in the order in which the kernel made them.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import struct
import time
from collections.abc import Callable

from hostagent.enforcer import kernel
from hostagent.enforcer.bpf import layout
from hostagent.enforcer.bpf.layout import Heading
from hostagent.enforcer.bpf.programs import Programs, netns_cookie
from hostagent.enforcer.bpf.ring import Ring
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.model.errors import HostagentError
from hostagent.model.event import EventKind
from hostagent.model.flow import Endpoint

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_MAXIMUM_KEYS = 512
_RINGS = ("refusals", "events")

_REASONS = {
    1: "its cgroup is not a leaf that enforcerd has registered",
    2: "a network namespace that is not the workload's",
    3: "UDP other than DNS does not leave a workload",
    4: "neither a TCP nor a UDP socket",
    5: "the workload may not connect unix sockets",
    6: "map_full: no room to remember who connects",
    7: f"map_full: the workload has {layout.LEAF_CONNECTIONS} connections, all that are remembered of one at a time",
}
_MAP_FULL = (6, 7)
_PRUNE_S = 10.0
_UNIX = 1
_STREAM, _DATAGRAM, _RAW = 1, 2, 3
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmpv6", 132: "sctp", 136: "udplite", 262: "mptcp"}

Handler = Callable[[Heading, bytes], None]
"""Is given a record's heading and the whole record."""


def register(programs: Programs, governed: Governed) -> None:
    """Tell the programs what a leaf may, when everything else about it is ready.

    Raises:
        OSError: they cannot be told; the leaf could not use the network.
        HostagentError: its document asks for what only a program can do, and that program is missing.
    """
    flags = 0 if governed.isolated else layout.FLAG_SHARED
    if not governed.workload.unix_sockets:
        missing = [f"{name}: {programs.missing(name)}" for name in ("connect_unix", "sendmsg_unix") if programs.missing(name)]
        if missing:
            raise HostagentError(f"`unix_sockets: false` cannot be enforced here: no eBPF program {'; '.join(missing)}")
        flags |= layout.FLAG_NO_UNIX
    if not programs.installed:
        return
    with kernel.in_network(governed.network) if governed.network >= 0 else contextlib.nullcontext():
        netns = netns_cookie()
    governed.cgroup = governed.leaf.id
    programs.register(governed.cgroup, netns, flags, governed.number)


def expect(programs: Programs, governed: Governed) -> None:
    """As ``register``, of a leaf that runs, before the programs are put in force anew: they are never without it.

    Raises:
        OSError: its network is gone.
    """
    with kernel.in_network(governed.network) if governed.network >= 0 else contextlib.nullcontext():
        netns = netns_cookie()
    flags = (0 if governed.isolated else layout.FLAG_SHARED) | (0 if governed.workload.unix_sockets else layout.FLAG_NO_UNIX)
    programs.register(governed.leaf.id, netns, flags, governed.number)


class BpfWatch:
    """Reads the rings while enforcerd runs; what comes meanwhile waits in them for the next enforcerd."""

    def __init__(
        self,
        programs: Programs,
        evidence: Evidence,
        selector: selectors.BaseSelector,
        live: Callable[[], list[Governed]],
    ) -> None:
        """Nothing is read until ``begin``; ``live`` names the leaves."""
        self._programs = programs
        self._evidence = evidence
        self._selector = selector
        self._live = live
        self._rings: dict[str, Ring] = {}
        self._handlers: dict[int, Handler] = {layout.RECORD_REFUSAL: self._refused}
        self._names: dict[int, tuple[str, str]] = {}
        self._counts: dict[tuple[str, str, str, str, str], int] = {}
        self._lost: dict[str, int] = {}
        self._due = 0.0
        self._prune_at = 0.0

    def on(self, kind: int, handler: Handler) -> None:
        """Give the records of a kind (``layout.RECORD_…``) to ``handler``."""
        self._handlers[kind] = handler

    def begin(self) -> None:
        """Read the rings, if there are programs. Again after they were installed anew."""
        self.close()
        for name in _RINGS:
            found = self._programs.map(name)
            if found is None:
                continue
            ring = Ring(found[0], found[1].max_entries)
            self._rings[name] = ring
            self._selector.register(ring, selectors.EVENT_READ, self.read)
        self._lost = self._programs.losses()

    def mend(self) -> None:
        """Put the programs in force again that are not on the slice as it is now: it was recreated, or they were taken off."""
        astray = self._programs.astray
        if not astray:
            return
        self.close()
        self._programs.install()
        self.begin()
        detail = f"eBPF programs were not on the slice and are again: {', '.join(astray)} {self._programs.problem}".strip()
        self._evidence.service("failed", detail)
        log.error("%s", detail)

    def close(self) -> None:
        """Read no more."""
        self.read()
        self.flush()
        for ring in self._rings.values():
            self._selector.unregister(ring)
            ring.close()
        self._rings.clear()

    def read(self) -> None:
        """Take what is waiting."""
        for ring in self._rings.values():
            for data in ring.read():
                try:
                    heading = layout.heading(data)
                    handler = self._handlers.get(heading.kind)
                    if handler is not None:
                        handler(heading, data)
                except (struct.error, ValueError) as error:
                    log.error("a record of an eBPF program was not understood: %s", error)

    def leaf(self, cgroup: int) -> tuple[str, str]:
        """Return the names of the leaf with this cgroup id and of its workload, empty when it is none of ours."""
        if cgroup not in self._names:
            for each in self._live():
                if each.cgroup == cgroup:
                    self._names[cgroup] = (each.leaf.name, each.workload.name)
        return self._names.get(cgroup, ("", ""))

    def end(self, governed: Governed) -> None:
        """Deny the leaf, take what is left about it, and forget it."""
        if governed.cgroup == 0:
            return
        self._programs.forget(governed.cgroup)
        self.read()
        self.flush()
        self._names.pop(governed.cgroup, None)
        governed.cgroup = 0

    def tick(self, now: float) -> None:
        """Write down what was counted and lost, once a second (``now``: monotonic seconds)."""
        self.mend()
        if now >= self._due:
            self.flush()
            self._tell_losses()
            self._due = now + _INTERVAL_S

    def flush(self) -> None:
        """Write down what was counted."""
        counts, self._counts = self._counts, {}
        for (leaf, workload, transport, destination, reason), count in counts.items():
            fields: dict[str, object] = {
                "layer": "bpf",
                "leaf": leaf,
                "source": "",
                "destination": destination,
                "transport": transport,
                "reason": reason,
                "count": count,
            }
            self._evidence.note(EventKind.REFUSAL, workload, fields)

    def _tell_losses(self) -> None:
        losses = self._programs.losses()
        for what, count in losses.items():
            more = count - self._lost.get(what, 0)
            if more > 0:
                fields: dict[str, object] = {"reason": f"eBPF: the kernel had no room for {what}", "count": more}
                self._evidence.note(EventKind.GAP, "", fields)
        self._lost = losses

    def _make_room(self) -> None:
        """At most every ten seconds: it takes up to a third of a second for a map of 131,072."""
        now = time.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + _PRUNE_S
            gone = self._programs.prune(_PRUNE_S)
            log.warning("no room to remember who connects; %d sockets that never did are forgotten", gone)

    def _refused(self, heading: Heading, data: bytes) -> None:
        if heading.reason in _MAP_FULL:
            self._make_room()
        fields = layout.REFUSAL.unpack(data)
        family, kind, protocol, port = (int(fields[name]) for name in ("family", "type", "protocol", "port"))
        address = fields["addr"]
        assert isinstance(address, bytes)
        transport = "unix" if family == _UNIX else "raw" if kind == _RAW else _PROTOCOLS.get(protocol, f"ip-protocol-{protocol}")
        destination = str(Endpoint(layout.address(family, address), port)) if port or any(address) else ""
        leaf, workload = self.leaf(heading.leaf)
        key = (leaf, workload, transport, destination, _REASONS.get(heading.reason, f"reason {heading.reason}"))
        if key not in self._counts and len(self._counts) >= _MAXIMUM_KEYS:
            key = (leaf, workload, "various", "various", "various")
        self._counts[key] = self._counts.get(key, 0) + 1
