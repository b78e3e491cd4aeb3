"""``proxyd``'s working parts tied together: leaves and their listeners, sessions, upstream connections, approvals.

Everything a session asks of the process around it (``session.Outside``) ends here. Nothing here judges.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from hostagent.approval import Desk
from hostagent.documents import Config
from hostagent.gate import Gate, SessionContext
from hostagent.gate.context import PolicySource
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.registry import PROTOCOLS
from hostagent.model.command import Detach, Hold, Withdraw
from hostagent.model.errors import HostagentError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint, Flow
from hostagent.model.identity import Identity
from hostagent.model.ports import Journal
from hostagent.model.target import Target
from hostagent.model.ticket import Answer
from hostagent.proxy.analysts import INLINE, Analysts
from hostagent.proxy.authority import Authority
from hostagent.proxy.authority import Leaf as Certificate
from hostagent.proxy.cancel import deliver_cancel
from hostagent.proxy.catalogue import Catalogues, CatalogueView
from hostagent.proxy.context import PolicyStore
from hostagent.proxy.dialling import dial, upstream_of
from hostagent.proxy.dns import Resolver
from hostagent.proxy.drain import drain
from hostagent.proxy.flood import Flood
from hostagent.proxy.identities import Identities
from hostagent.proxy.idle import Watch
from hostagent.proxy.inbound import Draw, InboundPorts, Surroundings, identity_fields
from hostagent.proxy.journalbudget import JournalBudget, Refusing, Step
from hostagent.proxy.kept import KeptTickets
from hostagent.proxy.listener import Listeners, same_socket
from hostagent.proxy.memory import Keeper, Memory
from hostagent.proxy.secrets import Secrets
from hostagent.proxy.session import Session
from hostagent.proxy.shares import Shares
from hostagent.proxy.tls import end_point_hash, upstream_context, upstream_name
from hostagent.proxy.turn import Turn
from hostagent.proxy.unixpeer import Dialler, dialler

log = logging.getLogger(__name__)

_ENDED = "the workload ended"
_CANCELS = 16
"""Most cancel requests under way at once: each is a connection to a target."""


@dataclass
class Leaf:
    """One governed leaf, as enforcerd announced it. ``sockets``: what of the kernel's its listeners are."""

    name: str
    workload: str
    launcher: str
    listeners: Listeners
    flood: Flood
    inbound: InboundPorts
    uid: int
    sockets: frozenset[tuple[int, int]]
    sessions: set[Session] = field(default_factory=set)
    ended: bool = False


class _Served(NamedTuple):
    """What belongs to a session."""

    leaf: Leaf
    target: Target
    context: SessionContext
    view: CatalogueView
    watch: Watch
    upstream: Endpoint | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of; ``digest_key`` keys the digests of exact statements."""

    config: Config
    journal: Journal
    budget: JournalBudget
    authority: Authority
    policy: PolicyStore
    desk: Desk
    identities: Identities
    catalogues: Catalogues
    targets: Mapping[str, Target]
    resolver: Resolver
    secrets: Secrets
    digest_key: bytes


class Service:
    """Accepts connections and makes sessions of them."""

    def __init__(self, parts: Parts, tasks: asyncio.TaskGroup, draw: Draw) -> None:
        """``tasks`` owns every task started here; ``draw`` gets sockets of a leaf's network from enforcerd."""
        self.draw = draw
        self._parts = parts
        self._tasks = tasks
        loop = asyncio.get_running_loop()
        self._turn = Turn(parts.journal, loop.call_soon, loop.call_later)
        self._shares = Shares(loop.call_soon)
        self._analysts = Analysts(tasks.create_task)
        self._memory = Memory(self._budgets, self._over_budget)
        self._cancel_keys = CancelRegistry()
        self._cancels = asyncio.Semaphore(_CANCELS)
        self._leaves: dict[str, Leaf] = {}
        self._sessions: dict[Session, _Served] = {}
        self._held: dict[str, Session] = {}
        self._kept = KeptTickets(parts.desk, parts.journal)
        parts.budget.changed = self._journal_changed

    # -- what the surroundings tell --------------------------------------------------------------------------------------

    def listen(
        self,
        name: str,
        workload: str,
        launcher: str,
        sockets: list[socket.socket],
        *,
        paths: Mapping[str, socket.socket] = MappingProxyType({}),
        uid: int = -1,
        inbound: Mapping[Endpoint, socket.socket] = MappingProxyType({}),
    ) -> None:
        """Serve a leaf's listeners from now on; a leaf announced again gets the new ones, unless they are those that it has.

        Args:
            name: the leaf.
            workload: what runs there.
            launcher: who started it.
            sockets: TCP listeners.
            paths: unix listeners by the path at which they stand in its view.
            uid: the leaf's; only that may dial the unix listeners.
            inbound: the host's listeners for connections into the leaf, by where they are bound.
        """
        announced = frozenset(same_socket(each) for each in (*sockets, *paths.values(), *inbound.values()))
        if name in self._leaves and self._leaves[name].sockets == announced:  # another enforcerd goes on with it
            for each in (*sockets, *paths.values(), *inbound.values()):
                each.close()
            return
        self._let_go(name, "announced anew")

        def accepted(connection: socket.socket, peer: Endpoint, destination: Endpoint) -> None:
            self._accepted(leaf, connection, peer, destination)

        flood = Flood(name, workload, self._parts.journal.append)
        places = {Endpoint(path, 0): listener for path, listener in paths.items()}
        ports = InboundPorts(name, workload, inbound, self._parts.budget.uncounted, self._around(workload))
        leaf = Leaf(name, workload, launcher, Listeners(name, workload, sockets, accepted, places), flood, ports, uid, announced)
        self._leaves[name] = leaf
        leaf.listeners.start()
        ports.start()

    def _around(self, workload: str) -> Surroundings:
        parts = self._parts
        return Surroundings(
            identity=lambda: parts.identities.current(workload),
            policy=lambda: parts.policy.current.hash,
            draw=self.draw,
            start=self._tasks.create_task,
            closed_ports=lambda: frozenset(each.port for each in parts.targets.values() if each.loopback),
            connect_timeout_s=parts.config.limits.connect_timeout_s,
            most=parts.config.limits.sessions_per_workload,
            idle_s=parts.config.limits.inbound_idle_s,
        )

    def retire(self, name: str) -> None:
        """A leaf has ended: stop serving it, and end its sessions and what the targets run for them.

        What had dialled before the end and waits to be accepted is refused, and so has its record.
        """
        leaf = self._leaves.get(name)
        if leaf is not None:
            leaf.ended = True
            leaf.listeners.take_waiting()
        self._let_go(name, _ENDED)

    def _let_go(self, name: str, reason: str) -> None:
        leaf = self._leaves.pop(name, None)
        if leaf is None:
            return
        self._kept.void(name)
        leaf.listeners.stop()
        leaf.inbound.stop(reason)
        try:
            leaf.flood.flush()
        except JournalError as error:
            log.critical("a count of refused connections is lost: %s", error)
        for session in list(leaf.sessions):
            session.cut(reason)

    def identity_renewed(self, workload: str, identity: Identity) -> None:
        """Live sessions go on under the renewed token: the next statement is judged by it."""
        for served in self._sessions.values():
            if served.leaf.workload == workload:
                served.context.identity = identity

    def identity_lost(self, workload: str, reason: str) -> None:
        """Cut a workload's live sessions; new connections are refused because it has no current identity."""
        for leaf in self._leaves.values():
            if leaf.workload == workload:
                leaf.inbound.cut(f"the workload's identity is no longer valid: {reason}")
        for session, served in list(self._sessions.items()):
            if served.leaf.workload == workload:
                session.cut(f"the workload's identity is no longer valid: {reason}")

    def configure(self, config: Config) -> None:
        """Count by the limits and settings of ``config`` from now on."""
        self._parts = replace(self._parts, config=config)
        self._parts.budget.configure(config.limits.journal_per_workload_mib, config.limits.journal_free_mib)

    def _budgets(self) -> tuple[int, int]:
        limits = self._parts.config.limits
        return limits.memory_per_workload_mib, limits.memory_mib

    def _policy_for(self, workload: str) -> PolicySource:
        """Return what the sessions of ``workload`` are judged by now."""
        reason, policy = self._parts.budget.reason(workload), self._parts.policy
        return Refusing(lambda: policy.current, reason, lambda: policy.context) if reason else policy

    def _journal_changed(self, workload: str, _step: Step) -> None:
        asyncio.get_running_loop().call_soon(self._journal_step, workload)  # an append is no place to end sessions

    def _journal_step(self, workload: str) -> None:
        """A workload has used up its budget of the journal, or has some of it again."""
        budget = self._parts.budget
        step, reason = budget.step(workload), budget.reason(workload)
        fields = {"leaf": "", "finding": "journal-budget", "action": step.name.lower(), "detail": reason or "it may go on", "elapsed_us": 0}
        try:
            budget.uncounted.append([Event(EventKind.AUDIT, time.time_ns(), "", workload, fields)])
        except JournalError as error:
            log.critical("what became of a workload's budget of the journal could not be recorded: %s", error)
        log.warning("workload %s: %s", workload, fields["detail"])
        source = self._policy_for(workload)
        for session, served in list(self._sessions.items()):
            if served.leaf.workload == workload and step is Step.STOPPED:
                session.cut(reason)
            elif served.leaf.workload == workload:
                served.context.policy = source

    def targets_ended(self, names: frozenset[str]) -> None:
        """Cut the sessions of targets that are gone or are declared otherwise now, and forget their catalogues."""
        self._parts.catalogues.forget(names)
        for session, served in list(self._sessions.items()):
            if served.target.name in names:
                session.cut(f"target {served.target.name} is no longer declared as it was when this session began")

    def answered(self, answer: Answer) -> None:
        """Pass a human's (or the clock's) answer to the session that waits for it."""
        session = self._held.pop(answer.ticket_id, None)
        if session is not None:
            session.resume(answer)
        else:
            self._kept.answered(answer)

    async def drain(self, limit_s: float) -> int:
        """Accept nothing new and let what is under way finish; return how many sessions were left after ``limit_s`` seconds."""
        for leaf in self._leaves.values():
            leaf.listeners.stop()
        return await drain(self._sessions.keys, limit_s)

    def stop(self) -> None:
        """End every leaf and session: the service is stopping."""
        for name in list(self._leaves):
            self._let_go(name, "hostagent is stopping")
        self._analysts.stop()

    def summary(self) -> list[dict[str, object]]:
        """Return one line per leaf for ``hostagent status``."""
        return [
            {"leaf": leaf.name, "workload": leaf.workload, "launcher": leaf.launcher, "sessions": len(leaf.sessions)}
            for leaf in self._leaves.values()
        ]

    # -- connections -----------------------------------------------------------------------------------------------------

    def _accepted(self, leaf: Leaf, connection: socket.socket, peer: Endpoint, destination: Endpoint) -> None:
        transport = "unix" if destination.is_path else "tcp"
        flow = Flow(uuid.uuid4().hex, leaf.workload, leaf.name, peer, destination, transport)
        target = self._target_at(destination)
        identity = self._parts.identities.current(leaf.workload)
        process = self._dialler(leaf, connection) if destination.is_path else None
        reason = process.stranger if process and process.stranger else self._refusal(leaf, destination, target, identity)
        stopped = self._parts.budget.step(leaf.workload) is Step.STOPPED
        if stopped:
            reason = self._parts.budget.reason(leaf.workload)
        if reason and leaf.flood.takes(destination, reason, quiet=stopped):
            connection.close()
            return
        fields: dict[str, object] = {
            "leaf": leaf.name,
            "transport": transport,
            "peer": str(peer) if process is None else f"uid {process.uid}",
            "destination": str(destination),
            "target": target.name if target else "",
            "protocol": target.protocol if target else "",
            "outcome": "denied" if reason else "accepted",
            "reason": reason,
            "rules": [],
            "policy": self._parts.policy.current.hash,
            "attribution": "cgroup-only",
        }
        if process is not None:
            fields["pid"] = process.pid  # which called connect(2); whether it is still that program nobody has looked
        fields |= identity_fields(identity)
        try:
            self._parts.journal.append([Event(EventKind.CONNECTION, time.time_ns(), flow.flow_id, flow.workload, fields)])
        except JournalError as error:
            log.critical("a connection could not be recorded and was refused: %s", error, extra={"flow": flow.flow_id})
            connection.close()
            return
        if reason or target is None or identity is None:
            connection.close()
            return
        session = self._session(leaf, flow, target, identity)
        self._start(session, self._serve(session, connection))

    def _target_at(self, destination: Endpoint) -> Target | None:
        """Return the target whose port and (listed or resolved) address the workload dialled."""
        for target in self._parts.targets.values():
            if destination.is_path:
                if destination.host in target.sockets:
                    return target
            elif target.port == destination.port and self._parts.resolver.host_of(target, destination.host) is not None:
                return target
        return None

    def _dialler(self, leaf: Leaf, connection: socket.socket) -> Dialler:
        try:
            return dialler(connection, leaf.uid, self._parts.config.enforcement.slice, leaf.name)
        except OSError as error:
            return Dialler(0, -1, f"nobody knows who dialled: {error.strerror}")

    def _refusal(self, leaf: Leaf, destination: Endpoint, target: Target | None, identity: Identity | None) -> str:
        if leaf.ended:
            return _ENDED
        if leaf.listeners.is_own(destination):
            return "the listener was dialled directly"
        if identity is None:
            return "no valid identity"
        if target is None:
            return f"no target is declared at {destination}"
        if problem := self._parts.secrets.problems.get(target.name):
            return f"the credential of target {target.name} cannot be used: {problem}"
        if len(leaf.sessions) >= self._parts.config.limits.sessions_per_workload:
            return "too many connections of this workload"
        if self._memory.full(leaf.workload):
            return f"the memory budget of workload {leaf.workload} ({self._budgets()[0]} MiB) is used up"
        return ""

    def _session(self, leaf: Leaf, flow: Flow, target: Target, identity: Identity) -> Session:
        settings = self._parts.config.postgres
        view = self._parts.catalogues.view(target)
        context = SessionContext(
            flow=flow,
            identity=identity,
            target=target,
            launcher=leaf.launcher,
            policy=self._policy_for(leaf.workload),
            secret=self._parts.secrets.get(target.name),
            catalogue=view,
            digest_key=self._parts.digest_key,
            wall_offset_ns=time.time_ns() - time.monotonic_ns(),
            random=os.urandom,
            cancel_keys=self._cancel_keys,
            book=self._kept.book,
            park_s=self._parts.config.http.park_s,
            demand_scram=settings.client_auth == "scram",
            placeholder=settings.placeholder_password,
            inline=INLINE,
            wake=lambda: session.wake(),  # noqa: PLW0108 - the session is made of the context
            tls=not flow.destination.is_path,  # PostgreSQL offers none over unix sockets either
        )
        share, at_once = self._shares.of(flow.workload), PROTOCOLS[target.protocol].at_once
        session = Session(flow, Gate(context), self, self._turn, share=share, at_once=at_once)
        leaf.sessions.add(session)
        idle_s = self._parts.config.http.idle_s if target.web else None
        watch = Watch(session, self._parts.config.limits.login_timeout_s, idle_s, asyncio.get_running_loop().call_later)
        upstream = upstream_of(target, flow.destination, self._parts.resolver)
        self._sessions[session] = _Served(leaf, target, context, view, watch, upstream)
        return session

    def _start(self, session: Session, work: Coroutine[object, object, None]) -> None:
        """Run work of a session beside it. What it raises ends that session and nothing else (DESIGN §6)."""
        self._tasks.create_task(self._contained(session, work))

    @staticmethod
    async def _contained(session: Session, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as error:
            log.exception("session failed", extra={"flow": session.flow.flow_id})
            session.cut(f"internal error: {type(error).__name__}")

    async def _serve(self, session: Session, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: session.client.protocol, connection)
        except OSError as error:
            session.cut(f"the client left: {error}")

    # -- what sessions ask (session.Outside) -----------------------------------------------------------------------------

    def connect(self, session: Session, protocol: asyncio.Protocol) -> None:
        """Dial what the workload dialled, which is one of the target's own places (checked when accepted)."""
        self._start(session, self._dial(session, self._sessions[session], protocol))

    async def _dial(self, session: Session, served: _Served, protocol: asyncio.Protocol) -> None:
        target, view, place = served.target, served.view, served.upstream
        view.database = session.database
        if place is None:
            session.connect_failed(f"{target.name}: none of its hosts has an address now")
            return
        try:
            async with asyncio.timeout(self._parts.config.limits.connect_timeout_s):
                if PROTOCOLS[target.protocol].has_catalogue:
                    await self._parts.catalogues.prepare(target, place, session.database)
                await dial(lambda: protocol, place)
        except TimeoutError:
            session.connect_failed(f"{target.name} at {place} did not answer in time")
        except OSError as error:
            session.connect_failed(f"{target.name} at {place}: {error.strerror or error}")

    def client_tls(self, session: Session, alpn: str) -> ssl.SSLContext:
        """Return the context with our leaf certificate for every name of the session's target."""
        return self._parts.authority.leaf(self._names(session), (alpn,)).context

    def client_binding(self, session: Session) -> bytes:
        """Return the channel binding of that certificate."""
        return self._leaf(session).binding

    def _leaf(self, session: Session) -> Certificate:
        return self._parts.authority.leaf(self._names(session), (PROTOCOLS[self._sessions[session].target.protocol].alpn,))

    def server_tls(self, session: Session, name: str, alpn: str) -> tuple[ssl.SSLContext, str]:
        """Return the verifying context and the name the target must prove: ``name`` if the client asked for one of its own."""
        target, dialled = self._sessions[session].target, self._upstream(session).host
        limit = self._parts.config.limits.connect_timeout_s
        asyncio.get_running_loop().call_later(limit, self._tls_late, session, limit)
        if name:
            return upstream_context(target, alpn, self._parts.secrets.get(target.name)), target.server_name or name
        name = upstream_name(target, dialled, self._parts.resolver.host_of(target, dialled) or "")
        return upstream_context(target, alpn, self._parts.secrets.get(target.name)), name

    @staticmethod
    def _tls_late(session: Session, limit: float) -> None:
        pipe = session.server.tls
        if not session.over and pipe is not None and not pipe.is_up():
            session.connect_failed(f"TLS with the target was not up within {limit:g} s")

    def server_binding(self, certificate: bytes) -> bytes:
        """Return the channel binding of the target's certificate."""
        return end_point_hash(certificate)

    def hold(self, session: Session, command: Hold) -> None:
        """Put the ticket on the desk."""
        self._held[command.ticket.ticket_id] = session
        self._parts.desk.open(command.ticket, time.time())

    def withdraw(self, command: Withdraw) -> None:
        """Take the ticket off the desk."""
        self._held.pop(command.ticket_id, None)
        self._parts.desk.withdraw(command.ticket_id, command.reason)

    def detach(self, command: Detach) -> None:
        """Let the ticket's answer go to the book instead of the session."""
        self._held.pop(command.ticket_id, None)

    def analyse(self, session: Session, text: bytes) -> None:
        """Have a long statement analysed beside the loop."""
        self._analysts.analyse(session.flow.workload, text, session.analysed)

    def keeps(self, session: Session, size: int) -> None:
        """Count what a session keeps against its workload's budget."""
        self._memory.note(session.flow.workload, session, size)

    def _over_budget(self, session: Keeper, reason: str) -> None:
        served = self._sessions.get(session) if isinstance(session, Session) else None
        if served is None or not isinstance(session, Session) or served.leaf.flood.takes(session.flow.destination, reason):
            return
        flow = session.flow
        fields: dict[str, object] = {
            "layer": "proxy",
            "leaf": flow.leaf,
            "source": str(flow.peer),
            "destination": str(flow.destination),
            "transport": flow.transport,
            "reason": reason,
            "count": 1,
        }
        try:
            self._parts.journal.append([Event(EventKind.REFUSAL, time.time_ns(), flow.flow_id, flow.workload, fields)])
        except JournalError as error:
            log.critical("a session over its budget could not be recorded: %s", error, extra={"flow": flow.flow_id})

    def cancel_upstream(self, session: Session, data: bytes) -> None:
        """Deliver a cancel request on a connection of its own."""
        # Where to is asked now: the session may be over and forgotten before the task begins.
        self._start(session, self._cancel(session, self._sessions[session].target, self._upstream(session), data))

    async def _cancel(self, session: Session, target: Target, place: Endpoint, data: bytes) -> None:
        name = upstream_name(target, place.host, self._parts.resolver.host_of(target, place.host) or "")
        try:
            async with self._cancels, asyncio.timeout(self._parts.config.limits.connect_timeout_s):
                await deliver_cancel(target, name, place, data)
        except (OSError, TimeoutError, HostagentError) as error:
            log.warning("a cancel request could not be delivered: %s", error, extra={"flow": session.flow.flow_id})
        finally:
            session.cancel_delivered()

    def refresh_catalogue(self, session: Session) -> None:
        """Fetch the catalogue of the session's database anew."""
        target = self._sessions[session].target
        self._start(session, self._parts.catalogues.refresh(target, self._upstream(session), session.database))

    def closed(self, session: Session) -> None:
        """Forget a session that is over."""
        served = self._sessions.pop(session, None)
        if served is not None:
            served.watch.cancel()
            served.leaf.sessions.discard(session)
            self._memory.forget(served.leaf.workload, session)
            self._analysts.withdraw(served.leaf.workload, session.analysed)
        for ticket_id in [ticket for ticket, holder in self._held.items() if holder is session]:
            del self._held[ticket_id]
            self._parts.desk.withdraw(ticket_id, "the session ended")

    def _upstream(self, session: Session) -> Endpoint:
        return self._sessions[session].upstream or session.flow.destination

    def _names(self, session: Session) -> tuple[str, ...]:
        target = self._sessions[session].target
        return tuple(dict.fromkeys([*target.hosts, session.flow.destination.host]))
