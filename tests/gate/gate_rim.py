"""A tiny blocking rim: one thread relays one client through a gate to a server that trusts everybody."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from hostagent.gate import Gate, SessionContext
from hostagent.gate.desk import GateDesk
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.session import Session
from hostagent.model.catalogue import Catalogue
from hostagent.model.command import Again, CancelUpstream, Close, Command, Connect, Forward, Hold, Record
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.model.identity import Identity
from hostagent.model.operation import Operation
from hostagent.model.target import Login, Target, UpstreamTLS
from hostagent.model.ticket import Answer, Ticket
from hostagent.model.verdict import Decision, HoldTerms, Obligation, Verdict
from hostagent.policy import PolicyContext

NOW = 1000.0


@dataclass
class Rules:
    """A policy by a function: operation in, (decision, obligations) out. Stands where ``hostagent.policy.Policy`` stands."""

    decide: Callable[[Operation], Decision]
    obligations: tuple[Obligation, ...] = ()
    cacheable: bool = True
    hash: str = "0" * 64

    def evaluate(
        self, identity: Identity, workload: str, target: Target, operation: Operation, context: PolicyContext
    ) -> Verdict:
        """Return the function's decision as a verdict."""
        decision = self.decide(operation)
        return Verdict(
            decision,
            (f"{decision.value}-rule",),
            f"test says {decision.value}",
            self.hash,
            self.obligations,
            HoldTerms("hold-rule", "approvers", 60.0) if decision is Decision.HOLD else None,
            cacheable=self.cacheable and decision is not Decision.HOLD,
        )


@dataclass
class Source:
    """Both sources of a session context, set by hand."""

    current: object
    context: PolicyContext = field(default_factory=lambda: PolicyContext(0.0))


def deny_words(*words: str) -> Callable[[Operation], Decision]:
    """Return a rule that denies any operation whose exact text has one of ``words`` and allows the rest."""

    def decide(operation: Operation) -> Decision:
        return Decision.DENY if any(word in operation.text for word in words) else Decision.ALLOW

    return decide


def make_context(policy: object, catalogue: Catalogue | None = None, **changes: object) -> SessionContext:
    """Return a session context with fixed facts and ``policy`` in force."""
    flow = Flow("f1", "bot", "leaf", Endpoint("10.0.0.2", 4000), Endpoint("10.0.0.1", 5432))
    target = Target("crm", "postgres", ("10.0.0.1",), 5432, Login("postgres"), UpstreamTLS.DISABLE)
    counter = iter(range(1, 1_000_000))
    values: dict[str, object] = {
        "flow": flow,
        "identity": Identity("issuer", "subject", 2e9),
        "target": target,
        "launcher": "root",
        "policy": policy if isinstance(policy, Source) else Source(policy),
        "secret": None,
        "catalogue": Source(catalogue),
        "digest_key": b"k" * 32,
        "wall_offset_ns": 0,
        "random": lambda size: next(counter).to_bytes(size, "big"),
        "cancel_keys": None,
    }
    values.update(changes)
    return SessionContext(**values)  # type: ignore[arg-type]


def make_session(context: SessionContext) -> tuple[GateDesk, Session]:
    """Return a desk and a session that is signed in."""
    desk = GateDesk(context)
    desk.signed_in("postgres", "app")
    return desk, Session(desk, {"database": "postgres", "user": "app", "application": "test"})


def feed(gate: Gate | Session, side: Side, data: bytes, now: float) -> list[Command]:
    """Feed ``data``, again and again until all of it was looked at, and return all commands but those that ask for that."""
    found: list[Command] = []
    again = True
    while again:
        commands = gate.feed(side, data, now)
        data, again = b"", any(isinstance(command, Again) for command in commands)
        found += [command for command in commands if not isinstance(command, Again)]
    return found


def sent(commands: list[Command], side: Side) -> bytes:
    """Return all bytes that ``commands`` send to ``side``."""
    return b"".join(command.data for command in commands if isinstance(command, Forward) and command.side is side)


def events(commands: list[Command], *kinds: EventKind) -> list[Event]:
    """Return the events that ``commands`` record, of ``kinds`` or all."""
    found = [command.event for command in commands if isinstance(command, Record)]
    return [event for event in found if not kinds or event.kind in kinds]


class Relay:
    """Listens on loopback; every connection gets a gate. ``commands`` collects everything that every gate asked for.

    ``context`` makes the session context of each connection; the cancel keys are shared by all.
    """

    def __init__(self, upstream: int, context: Callable[[], SessionContext], chunk: int = 65536) -> None:
        """Start listening; ``chunk`` bytes are read at once."""
        self.upstream = upstream
        self.commands: list[Command] = []
        self.tickets: list[Ticket] = []
        self.fed: list[tuple[Side, bytes]] = []
        self.held = threading.Event()
        self.ended = threading.Event()
        self.errors: list[BaseException] = []
        self.now = NOW
        self._context = context
        self._chunk = chunk
        self._keys = CancelRegistry()
        self._steps: list[Callable[[Gate], list[Command]]] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(10)
        for thread in self._threads:
            thread.join(10)
        self._wake_read.close()
        self._wake_write.close()
        if self.errors:
            raise self.errors[0]

    def events(self, *kinds: EventKind) -> list[Event]:
        """Return what was recorded."""
        return events(self.commands, *kinds)

    def do(self, step: Callable[[Gate], list[Command]]) -> None:
        """Have the first connection's own thread carry out ``step``."""
        self._steps.append(step)
        self._wake_write.send(b"x")

    def answer(self, *, granted: bool, reason: str = "") -> None:
        """Wait for a ticket and answer it."""
        assert self.held.wait(10)
        ticket = self.tickets[-1]
        self.held.clear()
        self.do(
            lambda gate: gate.resume(Answer(ticket.ticket_id, granted=granted, by="alice", reason=reason), self.now)
        )

    def _accept(self) -> None:
        first = True
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client, first), daemon=True)
            first = False
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket, first: bool) -> None:
        context = self._context()
        context.cancel_keys = self._keys
        context.wake = lambda: self.do(lambda gate: gate.tick(self.now))
        context.tls = False
        server = socket.socket()
        try:
            with client, server:
                self._relay(client, server, Gate(context), first)
        except ConnectionError:
            pass
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.ended.set()

    def _relay(self, client: socket.socket, server: socket.socket, gate: Gate, first: bool) -> None:
        wakeup = [self._wake_read] if first else []
        watched = [client, *wakeup]
        while True:
            ready, _, _ = select.select(watched, [], [], 30)
            assert ready, "nothing happened for 30 seconds"
            for sock in ready:
                if sock is self._wake_read:
                    sock.recv(1)
                    commands = self._steps.pop(0)(gate)
                else:
                    side = Side.CLIENT if sock is client else Side.SERVER
                    data = self._read(sock)
                    self.fed.append((side, data))
                    commands = feed(gate, side, data, self.now) if data else gate.closed(side, self.now)
                if any(isinstance(command, Connect) for command in commands):
                    server.connect(("127.0.0.1", self.upstream))
                    watched = [client, server, *wakeup]
                    commands = commands + gate.connected(self.now)
                if self._obey(commands, client, server):
                    return

    def _read(self, sock: socket.socket) -> bytes:
        try:
            return sock.recv(self._chunk)
        except ConnectionResetError:
            return b""

    def _obey(self, commands: list[Command], client: socket.socket, server: socket.socket) -> bool:
        self.commands += commands
        for command in commands:
            if isinstance(command, Forward):
                (client if command.side is Side.CLIENT else server).sendall(command.data)
            elif isinstance(command, Hold):
                self.tickets.append(command.ticket)
                self.held.set()
            elif isinstance(command, CancelUpstream):
                with socket.create_connection(("127.0.0.1", self.upstream)) as other:
                    other.sendall(command.data)
            elif isinstance(command, Close):
                return True
        return False
