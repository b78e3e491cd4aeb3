"""Connections from outside into a workload, at the ports that its document declares: recorded, relayed, not understood.

A connection is accepted on the host's own port, and goes on through a socket that enforcerd made inside the leaf's network, where
there is nothing but loopback. So the workload's answer cannot leave but through here, and each connection is a row with the bytes
both ways. To the workload everyone seems to be 127.0.0.1 (or ::1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from hostagent.ipc.messages import SUPPLY
from hostagent.model.errors import HostagentError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint
from hostagent.model.identity import Identity
from hostagent.model.ports import Journal
from hostagent.proxy.flood import Flood
from hostagent.proxy.listener import Listeners

log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1")
_RESET = struct.pack("=ii", 1, 0)
_HIGH_WATER = 65_536
_LINGER_S = 10.0
_MOST_PER_S = 200

Draw = Callable[[str], Awaitable[Sequence[socket.socket]]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What inbound ports need of the process around them.

    ``identity`` is the workload's, None while it has none; ``policy`` the hash of the policy in force; ``draw`` gets sockets of the
    leaf's network from enforcerd, as ``ipc.Drawn`` says; ``start`` runs work beside; ``closed_ports`` may not be dialled inside;
    ``most`` connections at a time, each until nothing passed for ``idle_s`` seconds.
    """

    identity: Callable[[], Identity | None]
    policy: Callable[[], str]
    draw: Draw
    start: Callable[[Coroutine[object, object, None]], object]
    closed_ports: Callable[[], frozenset[int]]
    connect_timeout_s: float
    most: int
    clock: Callable[[], float] = time.monotonic
    idle_s: float = 3600.0


def identity_fields(identity: Identity | None) -> dict[str, object]:
    """Return what a connection's row says about who the workload is."""
    if identity is None:
        return {}
    return {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "groups": sorted(identity.groups),
        "purpose": identity.purpose,
        "token_id": identity.token_id,
    }


class InboundPorts:
    """The inbound ports of one leaf."""

    def __init__(
        self,
        leaf: str,
        workload: str,
        ports: Mapping[Endpoint, socket.socket],
        journal: Journal,
        around: Surroundings,
    ) -> None:
        """``ports`` are the host's listeners by where they are bound."""
        self.leaf = leaf
        self.workload = workload
        self._journal = journal
        self.around = around
        self._flood = Flood(leaf, workload, journal.append)
        self._listeners = Listeners(leaf, workload, (), self._accepted, ports)
        self._relays: set[_Relay] = set()
        self._supply: dict[int, list[socket.socket]] = {socket.AF_INET: [], socket.AF_INET6: []}
        self._drawing = asyncio.Lock()
        self._over = False
        self._second = 0
        self._count = 0

    def start(self) -> None:
        """Begin accepting on the running event loop."""
        self._listeners.start()

    def cut(self, reason: str) -> None:
        """End every connection."""
        for relay in list(self._relays):
            relay.end(reason)

    def stop(self, reason: str) -> None:
        """Stop accepting and end every connection."""
        self._over = True
        self._listeners.stop()
        self.cut(reason)
        for sockets in self._supply.values():
            for each in sockets:
                each.close()
            sockets.clear()
        try:
            self._flood.flush()
        except JournalError as error:
            log.critical("a count of refused connections is lost: %s", error)

    def _accepted(self, connection: socket.socket, peer: Endpoint, destination: Endpoint) -> None:
        identity = self.around.identity()
        reason = self._refusal(identity, destination)
        if reason and self._flood.takes(destination, reason):
            _reset(connection)
            return
        relay = _Relay(self, connection)
        fields: dict[str, object] = {
            "leaf": self.leaf,
            "transport": "tcp",
            "direction": "inbound",
            "peer": str(peer),
            "destination": str(destination),
            "target": "",
            "protocol": "opaque",
            "outcome": "denied" if reason else "accepted",
            "reason": reason,
            "rules": [],
            "policy": self.around.policy(),
            "attribution": "cgroup-only",
            **identity_fields(identity),
        }
        if not self.record(EventKind.CONNECTION, relay.flow_id, fields) or reason:
            _reset(connection)
            return
        self._relays.add(relay)
        self.around.start(self._serve(relay, destination.port))

    def _refusal(self, identity: Identity | None, destination: Endpoint) -> str:
        if identity is None:
            return "no valid identity"
        if destination.port in self.around.closed_ports():
            return "a target on loopback has this port"
        if len(self._relays) >= self.around.most:
            return "too many connections into this workload"
        second = int(self.around.clock())
        self._second, self._count = second, self._count + 1 if second == self._second else 1
        if self._count > _MOST_PER_S:  # each is two rows, and whoever is outside must not be able to fill the disk
            return "too many connections a second into this workload"
        return ""

    async def _serve(self, relay: _Relay, port: int) -> None:
        try:
            async with asyncio.timeout(self.around.connect_timeout_s):
                inside = await self._dial(port)
        except TimeoutError:
            relay.end(f"the workload did not accept on port {port} in time")
        except ConnectionRefusedError:
            relay.end(f"nobody listens on port {port} inside the workload")
        except (OSError, HostagentError) as error:
            relay.end(f"port {port} inside the workload: {getattr(error, 'strerror', '') or error}")
        except Exception as error:
            log.exception("inbound connection failed", extra={"flow": relay.flow_id})
            relay.end(f"internal error: {type(error).__name__}")
        else:
            await relay.begin(inside)

    async def _dial(self, port: int) -> socket.socket:
        """Return a socket connected to the workload's ``port``, over IPv4 or else IPv6.

        Raises:
            OSError: nobody listens there.
            HostagentError: enforcerd gave no socket.
        """
        refused: OSError = ConnectionRefusedError("nobody listens")
        for family, address in zip((socket.AF_INET, socket.AF_INET6), _LOOPBACK, strict=True):
            made = await self._draw(family)
            try:
                await asyncio.get_running_loop().sock_connect(made, (address, port))
                if made.getsockname()[:2] != made.getpeername()[:2]:  # TCP can meet itself on a port of its own range
                    return made
            except OSError as error:
                refused = error
            except BaseException:
                made.close()
                raise
            made.close()
        raise refused

    async def _draw(self, family: int) -> socket.socket:
        async with self._drawing:
            if not self._supply[family]:
                drawn = await self.around.draw(self.leaf)
                self._supply[socket.AF_INET] += drawn[:SUPPLY]
                self._supply[socket.AF_INET6] += drawn[SUPPLY:]
            if self._over or not self._supply[family]:
                for each in (one for many in self._supply.values() for one in many):
                    each.close()
                raise HostagentError("the workload has ended")
            made = self._supply[family].pop()
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made

    def record(self, kind: EventKind, flow_id: str, fields: Mapping[str, object]) -> bool:
        """Append a row; return whether it could be written."""
        try:
            self._journal.append([Event(kind, time.time_ns(), flow_id, self.workload, fields)])
        except JournalError as error:
            log.critical("an inbound connection could not be recorded: %s", error, extra={"flow": flow_id})
            return False
        return True

    def ended(self, relay: _Relay) -> None:
        """Forget a relay that is over."""
        self._relays.discard(relay)


class _Relay:
    """One connection and its other half inside."""

    def __init__(self, ports: InboundPorts, connection: socket.socket) -> None:
        self.flow_id = uuid.uuid4().hex
        self._ports = ports
        self._connection: socket.socket | None = connection
        self._outside = _Half(self)
        self._inside = _Half(self)
        self._clock = ports.around.clock
        self._began = self.active = self._clock()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    async def begin(self, inside: socket.socket) -> None:
        """Carry bytes from now on."""
        connection, self._connection = self._connection, None
        if self._over or connection is None:
            inside.close()
            return
        self._outside.other, self._inside.other = self._inside, self._outside
        loop = asyncio.get_running_loop()
        try:
            # The far half first: what arrives on either has somewhere to go.
            await loop.create_connection(lambda: self._inside, sock=inside)
            await loop.connect_accepted_socket(lambda: self._outside, connection)
        except OSError as error:
            connection.close()
            self.end(f"{error.strerror or error}")
        self._watch()

    def _watch(self) -> None:
        """End this when nothing has passed for long; look again when that could be."""
        if self._over:
            return
        left = self.active + self._ports.around.idle_s - self._clock()
        if left <= 0:
            self.end(f"nothing passed for {self._ports.around.idle_s:g} s")
        else:
            self._timer = asyncio.get_running_loop().call_later(left, self._watch)

    def passed(self) -> None:
        """Something was carried: it is not idle."""
        self.active = self._clock()

    def half_closed(self) -> None:
        """One half will send no more; when neither will, all is said."""
        if self._outside.eof and self._inside.eof:
            self.end("closed by both", done=True)

    def end(self, reason: str, *, done: bool = False) -> None:
        """Close both halves and record it. ``done``: everything was said, what is queued may still go out."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            _reset(self._connection)
            self._connection = None
        for half in (self._outside, self._inside):
            half.finish(done=done)
        fields = {
            "reason": reason,
            "bytes_up": self._inside.received,
            "bytes_down": self._outside.received,
            "statements": 0,
            "elapsed_us": int((self._clock() - self._began) * 1e6),
        }
        self._ports.record(EventKind.CLOSE, self.flow_id, fields)
        self._ports.ended(self)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over


class _Half(asyncio.Protocol):
    """One half's transport callbacks: what comes goes out by the other half, no faster than that takes it."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay
        self.other: _Half | None = None
        self.transport: asyncio.Transport | None = None
        self.received = 0
        self.eof = False
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._relay.over:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        for data in self.waiting:  # the workload spoke first
            self.transport.write(data)
        self.waiting.clear()
        if self.other is not None and self.other.eof:
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._relay.passed()
        assert self.other is not None
        if self.other.transport is None:
            self.other.waiting.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.eof = True
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.write_eof()
        self._relay.half_closed()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._relay.end("closed" if exc is None else f"broken off: {exc}")

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def finish(self, *, done: bool) -> None:
        """Close; if all is ``done``, after what is queued, for which the other end has a few seconds."""
        if self.transport is None:
            return
        if not done:
            self.transport.abort()
            return
        self.transport.close()
        asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)


def _reset(connection: socket.socket) -> None:
    """Close so that the other end learns that it was refused, not served and done."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
