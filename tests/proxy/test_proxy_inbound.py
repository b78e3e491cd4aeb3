"""Inbound connections at the rim: recorded before a byte passes, bounded in number and rate, and none without evidence or identity."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence

import pytest

from hostagent.ipc.messages import SUPPLY
from hostagent.model.errors import HostagentError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint
from hostagent.model.identity import Identity
from hostagent.proxy.inbound import InboundPorts, Surroundings

IDENTITY = Identity(issuer="i", subject="s", groups=frozenset({"g"}), purpose="p", token_id="t", expires_at=1e12, claims={})


class Rim:
    """The process around: draws plain sockets, keeps the journal, and can be made to fail."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.full = False
        self.identity: Identity | None = IDENTITY
        self.enforcer = True
        self.closed_ports: frozenset[int] = frozenset()
        self.now = 100.0
        self.idle_s = 3600.0
        self.drawn: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def append(self, events: Sequence[Event]) -> None:
        if self.full:
            raise JournalError("no space left on device")
        self.events.extend(events)

    def rows(self, kind: EventKind) -> list[dict[str, object]]:
        return [dict(event.fields) for event in self.events if event.kind is kind]

    async def draw(self, leaf: str) -> list[socket.socket]:
        if not self.enforcer:
            raise HostagentError("enforcerd is away")
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        made = [socket.socket(family, kind) for family in (socket.AF_INET, socket.AF_INET6) for _ in range(SUPPLY)]
        self.drawn += made
        return made

    def start(self, work: Coroutine[object, object, None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def ports(self, listener: socket.socket, port: int, most: int = 500) -> InboundPorts:
        around = Surroundings(
            identity=lambda: self.identity, policy=lambda: "hash", draw=self.draw, start=self.start, closed_ports=lambda: self.closed_ports,
            connect_timeout_s=5.0, most=most, clock=lambda: self.now, idle_s=self.idle_s,
        )  # fmt: skip
        return InboundPorts("leaf", "web", {Endpoint("127.0.0.1", port): listener}, self, around)


@contextlib.asynccontextmanager
async def open_port(rim: Rim, inside: int, most: int = 500) -> AsyncIterator[int]:
    """Serve a port of the host that leads to ``inside``; yield the host's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports = rim.ports(listener.dup(), inside, most)
        ports.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ports.stop("the workload ended")
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def workload() -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.write_eof()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield int(server.sockets[0].getsockname()[1])
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


def _ask(port: int, data: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as error:
        return b"reset" if error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN) else str(error).encode()


async def ask(port: int, data: bytes = b"x") -> bytes:
    """Return what comes back; ``reset`` where nobody is served."""
    return await asyncio.to_thread(_ask, port, data)


async def test_a_connection_is_a_row_before_a_byte_passes_and_another_when_it_ends() -> None:
    rim = Rim()
    async with workload() as inside, open_port(rim, inside) as port:
        assert await ask(port, b"hello") == b"hello"
    [connection] = rim.rows(EventKind.CONNECTION)
    wanted = {"direction": "inbound", "destination": f"127.0.0.1:{inside}", "protocol": "opaque", "outcome": "accepted", "subject": "s", "policy": "hash"}
    assert wanted.items() <= connection.items()
    [close] = rim.rows(EventKind.CLOSE)
    assert {"reason": "closed by both", "bytes_up": 5, "bytes_down": 5}.items() <= close.items()


async def _refused(rim: Rim, inside: int, most: int = 500) -> list[str]:
    async with open_port(rim, inside, most) as port:
        assert await ask(port) == b"reset"
    return [str(row["reason"]) for row in rim.rows(EventKind.CONNECTION) if row["outcome"] == "denied"]


async def test_without_evidence_nothing_is_let_in() -> None:
    rim = Rim()
    rim.full = True
    async with workload() as inside:
        assert await _refused(rim, inside) == []
    assert rim.drawn == []


async def test_without_an_identity_nothing_is_let_in() -> None:
    rim = Rim()
    rim.identity = None
    async with workload() as inside:
        assert await _refused(rim, inside) == ["no valid identity"]


async def test_a_port_of_a_target_on_loopback_is_never_dialled_inside() -> None:
    rim = Rim()
    async with workload() as inside:
        rim.closed_ports = frozenset({inside})
        assert await _refused(rim, inside) == ["a target on loopback has this port"]
    assert rim.drawn == []


async def test_more_than_so_many_at_a_time_are_refused() -> None:
    rim = Rim()
    async with workload() as inside, open_port(rim, inside, most=1) as port:
        first_in, first_out = await asyncio.open_connection("127.0.0.1", port)
        first_out.write(b"x")
        assert await first_in.read(1) == b"x"
        assert await ask(port) == b"reset"
        first_out.close()
    assert [row["reason"] for row in rim.rows(EventKind.CONNECTION)] == ["", "too many connections into this workload"]


async def test_more_than_200_in_a_second_are_refused_and_every_refusal_counted() -> None:
    rim = Rim()
    async with workload() as inside, open_port(rim, inside) as port:
        for _ in range(200):
            assert await ask(port) == b"x"
        for _ in range(103):
            assert await ask(port) == b"reset"
        rim.now += 1
        assert await ask(port) == b"x"
    outcomes = [row["outcome"] for row in rim.rows(EventKind.CONNECTION)]
    counted = sum(int(str(row["count"])) for row in rim.rows(EventKind.REFUSAL))
    assert (outcomes.count("accepted"), outcomes.count("denied") + counted) == (201, 103)


async def test_without_the_enforcer_a_connection_is_reset_and_says_why() -> None:
    rim = Rim()
    rim.enforcer = False
    async with workload() as inside, open_port(rim, inside) as port:
        assert await ask(port) == b"reset"
    assert [row["reason"] for row in rim.rows(EventKind.CLOSE)] == [f"port {inside} inside the workload: enforcerd is away"]


async def test_the_workloads_end_closes_what_is_open_and_every_socket_drawn() -> None:
    rim = Rim()
    async with workload() as inside:
        async with open_port(rim, inside) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
    assert [row["reason"] for row in rim.rows(EventKind.CLOSE)] == ["the workload ended"]
    async with asyncio.timeout(5):
        while any(each.fileno() >= 0 for each in rim.drawn):
            await asyncio.sleep(0.01)


async def test_tcp_that_meets_itself_is_not_taken_for_the_workload() -> None:
    # Dialling a free port of the dialling side's own range now and then connects a socket to itself.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    rim = Rim()

    async def bound(leaf: str) -> list[socket.socket]:
        made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)]
        made[0].bind(("127.0.0.1", free))
        others = [socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for family in [2] * 3 + [10] * 4]
        rim.drawn += made + others
        return [*others[:3], *made, *others[3:]]

    rim.draw = bound  # type: ignore[method-assign]
    async with open_port(rim, free) as port:
        assert await ask(port) == b"reset"
    assert [row["reason"] for row in rim.rows(EventKind.CLOSE)] == [f"nobody listens on port {free} inside the workload"]


async def test_a_connection_that_carries_nothing_for_long_is_closed_and_recorded() -> None:
    rim = Rim()
    rim.idle_s = 0.05
    async with workload() as inside, open_port(rim, inside) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):  # each is less than too long, all together are more
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            rim.now += 0.04
        assert rim.rows(EventKind.CLOSE) == []
        rim.now += 0.05
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
    assert [row["reason"] for row in rim.rows(EventKind.CLOSE)] == ["nothing passed for 0.05 s"]
