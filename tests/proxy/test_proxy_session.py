"""The session rim: records before it forwards, cuts everything when it cannot, and fails alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from hostagent.gate import Gate
from hostagent.model.command import Close, Command, Connect, Forward, Record, StartTLS
from hostagent.model.errors import DocumentError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.proxy.session import Session
from hostagent.proxy.turn import Turn

FLOW = Flow("f1", "bot", "leaf", Endpoint("192.0.0.8", 4000), Endpoint("10.0.0.5", 5432))
EVENT = Event(EventKind.STATEMENT, 1, "f1", "bot", {})


class ListJournal:
    """Keeps events in memory; ``broken`` makes it a full disk."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.broken = False

    def append(self, events: Sequence[Event]) -> None:
        if self.broken:
            raise JournalError("No space left on device")
        self.events.extend(events)


class ScriptedGate:
    """Answers each chunk by a function; everything else does nothing."""

    statements = 0
    items = 0
    deadline: float | None = None

    def __init__(self, on_feed: Callable[[Side, bytes], list[Command]]) -> None:
        self._on_feed = on_feed
        self.closed_sides: list[Side] = []
        self.ticks = 0

    def feed(self, side: Side, data: bytes, _now: float) -> list[Command]:
        return self._on_feed(side, data)

    def weigh(self) -> int:
        return 0

    def ahead(self) -> int:
        return 0

    def connected(self, _now: float) -> list[Command]:
        return []

    def connect_failed(self, reason: str, _now: float) -> list[Command]:
        return [Forward(Side.CLIENT, b"failed: " + reason.encode()), Close(reason)]

    def closed(self, side: Side, _now: float) -> list[Command]:
        self.closed_sides.append(side)
        return [Close(f"{side.value} left")]

    def cut(self, reason: str, _now: float) -> list[Command]:
        return [Forward(Side.CLIENT, b"cut"), Close(reason)]

    def tick(self, _now: float) -> list[Command]:
        self.ticks += 1
        self.deadline = None
        return [Forward(Side.CLIENT, b"tick")]


class Outside:
    """The process around: connects the server side to a socket of the test's."""

    def __init__(self, server: socket.socket) -> None:
        self.server: socket.socket | None = server
        self.over: list[Session] = []

    def connect(self, session: Session, protocol: asyncio.Protocol) -> None:
        server, self.server = self.server, None
        self.task = asyncio.ensure_future(asyncio.get_running_loop().create_connection(lambda: protocol, sock=server))

    def keeps(self, session: Session, size: int) -> None:
        pass

    def closed(self, session: Session) -> None:
        self.over.append(session)


class World:
    """A session between two socket pairs: ``client`` and ``server`` are the test's ends."""

    def __init__(self, on_feed: Callable[[Side, bytes], list[Command]]) -> None:
        self.client, self._client_end = socket.socketpair()
        self.server, server_end = socket.socketpair()
        for end in (self.client, self._client_end, self.server, server_end):
            end.setblocking(False)
        self.journal = ListJournal()
        self.gate = ScriptedGate(on_feed)
        self.outside = Outside(server_end)
        self.session = Session(FLOW, cast("Gate", self.gate), cast("Any", self.outside), Turn(self.journal, asyncio.get_running_loop().call_soon))

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.session.client, sock=self._client_end)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    async def receive(self, end: socket.socket) -> bytes:
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(end, 65536)

    async def close(self) -> None:
        self.session.cut("end of test")
        self.client.close()
        self.server.close()
        if self.outside.server is not None:
            self.outside.server.close()
        while self.session.client.transport is not None or self.session.server.transport is not None:
            await asyncio.sleep(0.01)


async def test_a_record_is_in_the_journal_before_anything_is_forwarded() -> None:
    order: list[str] = []

    def feed(side: Side, data: bytes) -> list[Command]:
        order.append("fed")
        return [Forward(side, b"answer to " + data), Record(EVENT)]  # even if the gate listed it last

    world = World(feed)
    await world.start()
    await world.send(b"hello")
    assert await world.receive(world.client) == b"answer to hello"
    assert world.journal.events == [EVENT]
    await world.close()


async def test_without_evidence_not_a_byte_passes_and_both_sides_are_cut() -> None:
    world = World(lambda side, data: [Connect()] if data == b"dial" else [Record(EVENT), Forward(Side.SERVER, data)])
    await world.start()
    await world.send(b"dial")
    async with asyncio.timeout(5):
        while world.session.server.transport is None:
            await asyncio.sleep(0.01)
    world.journal.broken = True
    await world.send(b"drop table customers")
    assert await world.receive(world.server) == b""
    assert await world.receive(world.client) == b""
    assert world.outside.over == [world.session]
    await world.close()


async def test_an_internal_error_ends_its_own_session_only() -> None:
    def crash(_side: Side, _data: bytes) -> list[Command]:
        raise ZeroDivisionError

    broken, sound = World(crash), World(lambda side, data: [Forward(side, data)])
    await broken.start()
    await sound.start()
    await broken.send(b"x")
    assert await broken.receive(broken.client) == b""
    assert [event.kind for event in broken.journal.events] == [EventKind.CLOSE]
    assert broken.journal.events[0].fields["reason"] == "internal error: ZeroDivisionError"
    await sound.send(b"y")
    assert await sound.receive(sound.client) == b"y"
    await broken.close()
    await sound.close()


async def test_the_last_words_reach_the_client_before_the_connection_ends() -> None:
    world = World(lambda _side, _data: [Forward(Side.CLIENT, b"x" * 300_000), Close("denied")])
    await world.start()
    await world.send(b"?")
    got = b""
    while chunk := await world.receive(world.client):
        got += chunk
    assert len(got) == 300_000
    assert [event.fields["reason"] for event in world.journal.events] == ["denied"]
    await world.close()


async def test_a_slow_reader_stops_the_other_side_instead_of_filling_memory() -> None:
    world = World(lambda side, data: [Connect()] if side is Side.CLIENT else [Forward(Side.CLIENT, data)])
    await world.start()
    await world.send(b"dial")
    sent = 0
    chunk = b"r" * 65536
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(1.0):
            while sent < 64 * 1024 * 1024:
                await loop.sock_sendall(world.server, chunk)
                sent += len(chunk)
    except TimeoutError:
        pass
    assert sent < 8 * 1024 * 1024, "the server was read although the client takes nothing"
    received = 0
    while received < sent:
        received += len(await world.receive(world.client))
    await world.close()


async def test_a_client_that_leaves_is_told_to_the_gate_and_recorded_once() -> None:
    world = World(lambda _side, _data: [])
    await world.start()
    world.client.close()
    async with asyncio.timeout(5):
        while not world.outside.over:
            await asyncio.sleep(0.01)
    assert world.gate.closed_sides == [Side.CLIENT]
    assert [event.fields["reason"] for event in world.journal.events] == ["client left"]
    await world.close()


async def test_cut_says_why_and_ends() -> None:
    world = World(lambda _side, _data: [])
    await world.start()
    world.session.cut("the workload's identity is no longer valid: revoked")
    assert await world.receive(world.client) == b"cut"
    assert await world.receive(world.client) == b""
    assert world.journal.events[0].fields["reason"] == "the workload's identity is no longer valid: revoked"
    await world.close()


async def test_the_gates_deadline_is_kept() -> None:
    def feed(_side: Side, _data: bytes) -> list[Command]:
        world.gate.deadline = asyncio.get_running_loop().time()
        return []

    world = World(feed)
    await world.start()
    await world.send(b"hold me")
    assert await world.receive(world.client) == b"tick"
    assert world.gate.ticks == 1
    await world.close()


async def test_a_target_that_answers_after_the_end_is_let_go() -> None:
    world = World(lambda _side, _data: [Connect()])
    await world.start()
    world.session.cut("identity lost while dialling")
    loop = asyncio.get_running_loop()
    server, world.outside.server = world.outside.server, None
    await loop.create_connection(lambda: world.session.server, sock=server)
    assert await world.receive(world.server) == b""
    await world.close()


async def test_a_target_whose_certificate_or_trust_cannot_be_read_cannot_be_reached_and_the_client_hears_why() -> None:
    world = World(lambda _side, _data: [StartTLS(Side.SERVER, "h2")])

    def server_tls(*_: object) -> None:
        raise DocumentError("target api: its credential is not a certificate with its key, in PEM")

    world.outside.server_tls = server_tls  # type: ignore[attr-defined]
    await world.start()
    await world.send(b"ask")
    assert await world.receive(world.client) == b"failed: target api: its credential is not a certificate with its key, in PEM"
    await world.close()
