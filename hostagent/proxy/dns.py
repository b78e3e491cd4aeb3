"""Policy DNS: a resolver for workloads that knows the targets' names and nothing else, and never forwards anything.

``Resolver`` looks up the targets' host names on this host's own behalf, ahead of any question. ``PolicyDNS`` answers one leaf
from what is known, so that a name that no target has cannot carry a byte out: it is decided before it is resolved, and
unknown means NXDOMAIN, and so does a target at which policy lets this workload do nothing (REFUSED would make glibc ask again and report a temporary failure). Every answer is recorded before
it is given; a flood is recorded as a count.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from hostagent.model.errors import JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.ports import Journal
from hostagent.model.target import Target
from hostagent.proxy.flood import Flood
from hostagent.proxy.listener import endpoint, original_destination, waiting
from hostagent.wire.dns import (
    Code,
    ExtendedError,
    Kind,
    Query,
    QueryError,
    build_frame,
    build_response,
    parse_query,
    read_frame,
)

log = logging.getLogger(__name__)

ANSWER_TTL_S = 30
REFRESH_S = 30.0
LINGER_S = 300.0
"""How long an address that was given out may still be dialled after the name stopped resolving to it."""
_LOOKUP_TIMEOUT_S = 10.0
_STREAM_IDLE_S = 10.0
_STREAM_QUERIES = 100
_STREAMS = 64
_EVENTS_PER_WINDOW = 50
_WINDOW_S = 10.0

# What answers there is the machine's own cloud, not a database: credentials and configuration for whoever asks.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)

Lookup = Callable[[str], Awaitable[Iterable[str]]]


async def system_lookup(host: str) -> Iterable[str]:
    """Return the addresses that this host's own resolver gives for ``host``.

    Raises:
        OSError: it gives none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def forbidden_answer(target: Target, host: str, address: str) -> str:
    """Return why ``host`` may not mean ``address``, empty if it may: DNS must not lead a target's credential elsewhere.

    Loopback, link-local, multicast, unspecified and cloud metadata addresses count only if the target's document lists
    them (``localhost`` stands for loopback itself).
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "not an address"
    if str(parsed) in target.hosts:
        return ""
    if parsed.is_loopback:
        return "" if host == "localhost" else "a loopback address"
    if parsed in _METADATA:
        return "a cloud metadata address"
    if parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved:
        return "not an address of a server"
    return ""


def _canonical(address: str) -> str:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


@dataclass(slots=True)
class _Known:
    """One target's host name: the addresses it has now, and when each was last seen (monotonic seconds)."""

    current: tuple[str, ...] = ()
    seen: dict[str, float] = field(default_factory=dict)


class Resolver:
    """Knows the addresses of every target's host names. Keeps the last good answer when a lookup fails."""

    def __init__(
        self,
        targets: Callable[[], Iterable[Target]],
        *,
        lookup: Lookup = system_lookup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing yet; see ``refresh``. ``targets`` is asked anew each time."""
        self._targets = targets
        self._lookup = lookup
        self._clock = clock
        self._known: dict[tuple[str, str], _Known] = {}

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Addresses by lower-case host name, over all targets; a name that was never resolved has none."""
        return self.names_of(self._targets())

    def names_of(self, targets: Iterable[Target]) -> Mapping[str, tuple[str, ...]]:
        """Return the same for some targets only."""
        found: dict[str, tuple[str, ...]] = {}
        for target in targets:
            for host in _host_names(target):
                known = self._known.get((target.name, host))
                merged = (*found.get(host, ()), *(known.current if known else ()))
                found[host] = tuple(dict.fromkeys(merged))
        return found

    def host_of(self, target: Target, address: str) -> str | None:
        """Return the host of ``target`` that ``address`` belongs to; None means that it must not be dialled.

        An address that the document lists is its own host. One that a name resolved to counts for a while after it stopped.
        """
        if address in target.hosts:
            return address
        oldest = self._clock() - LINGER_S
        for host in _host_names(target):
            known = self._known.get((target.name, host))
            if known is not None and (address in known.current or known.seen.get(address, oldest) > oldest):
                return host
        return None

    async def refresh(self) -> None:
        """Look every name up once, all at the same time. Does not raise: what fails keeps its last good answer."""
        wanted = [(target, host) for target in self._targets() for host in _host_names(target)]
        keys = {(target.name, host) for target, host in wanted}
        self._known = {key: known for key, known in self._known.items() if key in keys}
        async with asyncio.TaskGroup() as tasks:
            for target, host in wanted:
                tasks.create_task(self._refresh(target, host))

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(REFRESH_S)

    async def _refresh(self, target: Target, host: str) -> None:
        known = self._known.setdefault((target.name, host), _Known())
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                answers = [_canonical(address) for address in await self._lookup(host)]
        except (OSError, TimeoutError, ValueError, UnicodeError) as error:
            log.warning("target host not resolved", extra={"target": target.name, "host": host, "error": str(error)})
            return
        good: list[str] = []
        for address in dict.fromkeys(answers):
            reason = forbidden_answer(target, host, address)
            if reason:
                extra = {"target": target.name, "host": host, "address": address, "reason": reason}
                log.warning("answer for a target's host refused", extra=extra)
            else:
                good.append(address)
        now = self._clock()
        known.current = tuple(good)
        known.seen = {address: at for address, at in known.seen.items() if now - at < LINGER_S}
        known.seen.update(dict.fromkeys(good, now))


def _host_names(target: Target) -> Iterable[str]:
    for host in target.hosts:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            yield host.lower().rstrip(".")


class _Limiter:
    """Lets so many events through per window and counts the rest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._let = 0
        self.dropped = 0

    def admits(self, *, quiet: bool) -> bool:
        if quiet or self._let >= _EVENTS_PER_WINDOW:
            self.dropped += 1
            return False
        self._let += 1
        return True

    def rolled(self) -> int:
        """Return how many were dropped if a window has just ended, and begin the next."""
        now = self._clock()
        if now - self._started < _WINDOW_S:
            return 0
        dropped, self.dropped = self.dropped, 0
        self._started, self._let = now, 0
        return dropped


class PolicyDNS:
    """Answers the questions of one leaf."""

    def __init__(
        self,
        names: Callable[[], Mapping[str, Sequence[str]]],
        families: Callable[[], frozenset[int]],
        journal: Journal,
        *,
        workload: str,
        leaf: str,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        withheld: Callable[[str], bool] = lambda _: False,
        quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        """Serve nothing yet; see ``start``, ``stream_protocol`` and ``answer``.

        Args:
            names: addresses by lower-case name, already resolved; whatever is missing does not exist.
            withheld: whether a name that ``names`` lacks is that of a target that policy lets this workload do nothing at: to
                the workload it does not exist either, but the record says why.
            families: IP versions (4, 6) that this host can reach; addresses of others are kept back.
            journal: every question becomes an event there before it is answered.
            workload: whose questions these are.
            leaf: the leaf's name, for records.
            clock: monotonic seconds.
            wall_ns: unix nanoseconds.
            quiet: whether questions are counted only, because the workload has filled its part of the journal.
        """
        self._names = names
        self._families = families
        self._journal = journal
        self._workload = workload
        self._leaf = leaf
        self._wall_ns = wall_ns
        self._withheld = withheld
        self._quiet = quiet
        self._limiter = _Limiter(clock)
        self._transports: list[asyncio.DatagramTransport] = []
        self._servers: list[asyncio.Server] = []
        self._listeners: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._streams = 0
        self._flood = Flood(leaf, workload, journal.append)

    async def start(self, datagram: Sequence[socket.socket], stream: Sequence[socket.socket] = ()) -> None:
        """Serve sockets that are already bound (and for streams, listening)."""
        loop = asyncio.get_running_loop()
        for bound in datagram:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=bound)
            self._transports.append(transport)
        for bound in stream:
            self._listeners.append(bound)
            self._servers.append(await loop.create_server(self.stream_protocol, sock=bound))
        self._timer = loop.call_later(_WINDOW_S, self._window_ended)

    def refuse_waiting(self) -> None:
        """The leaf has ended: refuse, and so record, the connections that wait to be accepted."""
        for listener in self._listeners:
            for connection, _ in waiting(listener):
                with connection:
                    self._connected(connection, "the workload ended")

    def stop(self) -> None:
        """Close what ``start`` was given and record what is still to be counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for transport in self._transports:
            transport.close()
        for server in self._servers:
            server.close()
        dropped, self._limiter.dropped = self._limiter.dropped, 0
        try:
            self._flood.flush()
            self._count(dropped)
        except JournalError:
            log.critical("evidence cannot be written; a count of DNS questions is lost")

    def stream_protocol(self) -> asyncio.Protocol:
        """Return a protocol for one accepted connection to port 53."""
        return _Stream(self)

    def admits(self, connection: socket.socket) -> bool:
        """Record a connection to port 53; the kernel saw it too, and compares. False: it is to be closed."""
        admitted = self._connected(connection, "" if self._streams < _STREAMS else "too many connections to port 53 at once")
        self._streams += admitted
        return admitted

    def _connected(self, connection: socket.socket, refused: str) -> bool:
        try:
            peer = str(endpoint(connection.getpeername()))
        except OSError:
            peer, refused = "", refused or "it had left"
        try:
            destination = original_destination(connection)
        except OSError:  # dialled directly: nowhere else to go
            destination = endpoint(connection.getsockname())
        if self._flood.takes(destination, "connections to port 53"):
            return False
        try:
            outcome = {"outcome": "refused", "reason": refused} if refused else {"outcome": "connected"}
            ends = {"leaf": self._leaf, "peer": peer, "destination": str(destination)}
            self._append(EventKind.DNS, {"name": "", "type": "TCP", **outcome, **ends})
        except JournalError as error:
            log.critical("evidence cannot be written; DNS connection not served", extra={"error": str(error)})
            return False
        return not refused

    def stream_ended(self) -> None:
        """A connection that was admitted is over."""
        self._streams -= 1

    def answer(self, data: bytes, limit: int = 0) -> bytes:
        """Return the reply to one message, empty for none.

        Args:
            data: what came.
            limit: most bytes of the reply; 0 for what a datagram to this client may hold.

        Does not raise: where the journal fails, nothing is answered.
        """
        try:
            self._count(self._limiter.rolled())
            try:
                query = parse_query(data)
            except QueryError as error:
                self._record("", 0, "refused", (), str(error))
                return error.reply
            return self._decide(query, limit or query.size)
        except JournalError as error:
            log.critical("evidence cannot be written; DNS question not answered", extra={"error": str(error)})
            return b""

    def _decide(self, query: Query, limit: int) -> bytes:
        known = self._names().get(query.name)
        if known is None:
            reason = "no target has this name"
            if self._withheld(query.name):
                reason = "policy allows this workload nothing at the target with this name"
            self._record(query.name, query.kind, "refused", (), reason)
            text = "hostagent: no target has this name"
            return build_response(query, Code.NXDOMAIN, limit=limit, explanation=(ExtendedError.PROHIBITED, text))
        if not known:
            reason = "the target's name does not resolve on this host"
            self._record(query.name, query.kind, "refused", (), reason)
            text = f"hostagent: {reason}"
            return build_response(query, Code.SERVFAIL, limit=limit, explanation=(ExtendedError.NETWORK, text))
        addresses = self._reachable(known, query.kind)
        self._record(query.name, query.kind, "answered", addresses, "")
        return build_response(query, Code.NOERROR, addresses, ttl=ANSWER_TTL_S, limit=limit)

    def _reachable(self, addresses: Sequence[str], kind: int) -> list[str]:
        version = {Kind.A: 4, Kind.AAAA: 6}.get(Kind(kind)) if kind in (Kind.A, Kind.AAAA) else None
        if version not in self._families():
            return []
        return [address for address in addresses if ipaddress.ip_address(address).version == version]

    def _record(self, name: str, kind: int, outcome: str, answers: Sequence[str], reason: str) -> None:
        if not self._limiter.admits(quiet=self._quiet()):
            return
        shown = Kind(kind).name if kind in (Kind.A, Kind.AAAA) else f"TYPE{kind}" if kind else ""
        fields = {"name": name, "type": shown, "outcome": outcome, "answers": list(answers), "reason": reason, "leaf": self._leaf}
        self._append(EventKind.DNS, fields)

    def _count(self, dropped: int) -> None:
        if dropped:
            fields = {
                "layer": "dns",
                "leaf": self._leaf,
                "source": "",
                "destination": "",
                "transport": "",
                "reason": "DNS questions beyond the rate that is recorded one by one",
                "count": dropped,
            }
            self._append(EventKind.REFUSAL, fields)

    def _append(self, kind: EventKind, fields: Mapping[str, object]) -> None:
        self._journal.append([Event(kind, self._wall_ns(), "", self._workload, fields)])

    def _window_ended(self) -> None:
        try:
            self._count(self._limiter.rolled())
        except JournalError:
            log.critical("evidence cannot be written; a count of DNS questions is lost")
        self._timer = asyncio.get_running_loop().call_later(_WINDOW_S, self._window_ended)


class _Datagrams(asyncio.DatagramProtocol):
    """One UDP socket. It is bound to one address, so replies come from the address that conntrack expects."""

    def __init__(self, dns: PolicyDNS) -> None:
        self._dns = dns
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's own classes derive from nothing

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._dns.answer(data)
        if reply and self._transport is not None:
            self._transport.sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("datagram not delivered", exc_info=exc)


class _Stream(asyncio.Protocol):
    """One TCP connection: questions one after the other, so many and no more, answered at once."""

    def __init__(self, dns: PolicyDNS) -> None:
        self._dns = dns
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._dns.admits(cast("socket.socket", transport.get_extra_info("socket"))):
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(_STREAM_IDLE_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:  # it was admitted
            self._timer.cancel()
            self._dns.stream_ended()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._transport is not None and (found := read_frame(bytes(self._buffer))):
                message, size = found
                del self._buffer[:size]
                self._reply(self._dns.answer(message, 65_535))
        except QueryError:
            if self._transport is not None:
                self._transport.abort()

    def _reply(self, reply: bytes) -> None:
        self._asked += 1
        if self._transport is None or self._transport.is_closing():
            return
        if not reply:
            self._transport.abort()
            return
        self._transport.write(build_frame(reply))
        if self._asked >= _STREAM_QUERIES:
            self._transport.close()
