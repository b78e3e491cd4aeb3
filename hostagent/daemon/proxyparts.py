"""Puts ``proxyd`` together: journal, keys, identities, policy, approvals, DNS, control socket, and the link to enforcerd."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from hostagent import __version__
from hostagent.approval import ApprovalRefused, Approver, Desk, describe
from hostagent.daemon.configfile import load_workloads
from hostagent.daemon.journalfile import JournalFile
from hostagent.daemon.renewal import Renewal
from hostagent.documents import Config
from hostagent.durable import write_whole
from hostagent.ipc.messages import Admit, Admitted, Listen, Renewed, Retire
from hostagent.mask import DETECTORS, TRANSFORMS
from hostagent.model.errors import DocumentError, HostagentError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint
from hostagent.model.target import Target
from hostagent.model.workload import CANARY, Workload
from hostagent.proxy.authority import open_authority
from hostagent.proxy.carotation import Rotation
from hostagent.proxy.catalogue import Catalogues
from hostagent.proxy.context import PolicyStore
from hostagent.proxy.control import Caller, Control, Refused
from hostagent.proxy.dns import PolicyDNS, Resolver
from hostagent.proxy.enforcer_link import EnforcerLink, first
from hostagent.proxy.identities import Identities
from hostagent.proxy.issuer import LocalIssuer
from hostagent.proxy.journalbudget import JournalBudget, Step
from hostagent.proxy.keys import Keys
from hostagent.proxy.secrets import Secrets
from hostagent.proxy.service import Parts, Service

log = logging.getLogger(__name__)

WRITER = "proxyd-0"
_EXPIRY_S = 0.5
_BUDGET_S = 5.0
_CANARY_S = 300.0
_DOCUMENTS_S = 1.0


class Proxy:
    """One running ``proxyd``."""

    def __init__(
        self, config: Config, targets: dict[str, Target], secrets: Secrets, config_path: str | None = None
    ) -> None:
        """Open everything that can fail before anything is served. ``config_path`` is where a reload reads ``config`` again.

        Raises:
            HostagentError: a document, key or journal is not usable; one line says which and why.
        """
        self._config = config
        self._targets = targets
        self._renewal = Renewal(config_path, config, targets, secrets)
        state = Path(config.proxy_state)
        self._journal = JournalFile(f"{config.journal}/{WRITER}", WRITER, key_file=state / "journal.key")
        self._budget = JournalBudget(self._journal, config.limits.journal_per_workload_mib, config.limits.journal_free_mib)
        self._workloads = _Workloads(config)
        self._keys = Keys()
        issuer = self._issuer = LocalIssuer(
            state, audience=config.identity.audience, lifetime=float(config.identity.token_lifetime_s)
        )
        self._identities = Identities(self._workloads.current, issuer, self._keys, self._journal, state)
        self._policy = PolicyStore(
            config.policy, self._journal, detectors=frozenset(DETECTORS), transforms=frozenset(TRANSFORMS)
        )
        self._desk = Desk()
        self._resolver = Resolver(self._targets.values)
        self._control = Control(config.control_socket, config.enforcement.slice)
        authority = open_authority(state, Path(config.ca_certificate))
        self._rotation = Rotation(authority, state, Path(config.ca_certificate))
        self._parts = Parts(
            config=config,
            journal=self._budget,
            budget=self._budget,
            authority=authority,
            policy=self._policy,
            desk=self._desk,
            identities=self._identities,
            catalogues=Catalogues(secrets, self._resolver.host_of),
            targets=targets,
            resolver=self._resolver,
            secrets=secrets,
            digest_key=_digest_key(state / "digest.key"),
        )
        self._dns: dict[str, PolicyDNS] = {}
        self._launchers: dict[str, tuple[str, str]] = {}

    async def run(self, stopping: asyncio.Event, ready: Callable[[], None], *, drain_s: float = 0.0) -> None:
        """Serve until ``stopping`` is set; ``ready`` is called once enforcerd has taken us on.

        Then sessions have ``drain_s`` seconds to finish what is under way.
        """
        self._record("started")
        self._policy.reload()
        await self._resolver.refresh()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                link = EnforcerLink(
                    self._config.enforcer_socket,
                    WRITER,
                    admit=self._admit,
                    listen=self._listen,
                    retire=self._retire,
                    renew=self._renew,
                    known=self._forget_others,
                )
                self._service = Service(self._parts, tasks, link.draw)
                self._identities.on_lost = self._service.identity_lost
                self._identities.on_renewed = self._service.identity_renewed
                self._answer_calls()
                await self._control.start()
                running = [
                    tasks.create_task(job)
                    for job in (
                        link.run(),
                        self._policy.run(),
                        self._identities.run(),
                        self._resolver.run(),
                        self._parts.catalogues.run(),
                        self._expire(),
                        self._count_journal(),
                        self._workloads.run(),
                    )
                ]
                if await first(link.attached, stopping):
                    ready()
                    await stopping.wait()
                if drain_s:
                    await link.leave()
                    left = await self._service.drain(drain_s)
                    log.info("stopping: %d sessions were not at rest within %g s and are cut", left, drain_s)
                await self._control.stop()
                self._service.stop()
                for dns in self._dns.values():
                    dns.stop()
                for job in running:
                    job.cancel()
        finally:
            self._record("stopped")
            self._journal.close()

    # -- what enforcerd asks ---------------------------------------------------------------------------------------------

    async def _admit(self, request: Admit) -> Admitted:
        if request.workload == CANARY:
            # Served, so that the whole way is tried; without an identity every connection of it is refused and recorded.
            self._launchers[request.leaf] = (CANARY, "")
            return Admitted(admitted=True, expires_at=time.time() + _CANARY_S)
        admission = await self._identities.admit(request.workload, request.launcher)
        identity = admission.identity
        if not admission.admitted or identity is None:
            return Admitted(admitted=False, reason=admission.reason)
        if request.leaf in self._launchers:  # enforcerd attached anew: the leaf counts once
            self._identities.release(self._launchers[request.leaf][0])
        self._launchers[request.leaf] = (request.workload, request.launcher)
        return Admitted(
            admitted=True,
            expires_at=identity.expires_at,
            identity={
                "issuer": identity.issuer,
                "subject": identity.subject,
                "groups": sorted(identity.groups),
                "purpose": identity.purpose,
                "claims": dict(identity.claims),
                "token_id": identity.token_id,
            },
        )

    def _listen(self, request: Listen, sockets: list[socket.socket]) -> None:
        workload, launcher = self._launchers.get(request.leaf, ("", ""))
        if workload != request.workload or len(sockets) != 6 + len(request.sockets) + len(request.inbound):
            raise DocumentError(f"leaf {request.leaf} was not admitted as {request.workload}")
        tcp, datagram, stream, more = sockets[:2], sockets[2:4], sockets[4:6], sockets[6:]
        paths = dict(zip(request.sockets, more, strict=False))
        inbound = {Endpoint(*place): each for place, each in zip(request.inbound, more[len(paths) :], strict=True)}
        self._service.listen(request.leaf, workload, launcher, tcp, paths=paths, uid=request.uid, inbound=inbound)
        previous = self._dns.pop(request.leaf, None)
        if previous is not None:
            previous.stop()
        dns = PolicyDNS(
            lambda: self._resolver.names_of(self._open_targets(workload)),
            _reachable_families,
            self._budget,
            workload=workload,
            leaf=request.leaf,
            withheld=lambda name: name in self._resolver.names,
            quiet=lambda: self._budget.step(workload) is Step.STOPPED,
        )
        self._dns[request.leaf] = dns
        for bound in (*datagram, *stream):
            bound.setblocking(False)
        self._tasks.create_task(dns.start(datagram, stream))

    def _open_targets(self, workload: str) -> list[Target]:
        """Return the targets at which policy could allow ``workload`` anything at all: only their names exist for it.

        All of them for our own intruder, which has no identity: that a name resolves proves that not everything is simply dead.
        """
        if workload == CANARY:
            return list(self._targets.values())
        identity, policy = self._identities.current(workload), self._policy.current
        if identity is None:
            return []
        return [each for each in self._targets.values() if policy.could_allow(identity, workload, each)]

    def _forget_others(self, leaves: Collection[str]) -> None:
        """Let go of leaves that enforcerd no longer has: it was restarted, and they ended with its predecessor."""
        for leaf in set(self._launchers) - set(leaves):
            self._end_leaf(leaf)

    def _retire(self, request: Retire) -> None:
        self._end_leaf(request.leaf)

    async def _renew(self, descriptor: int) -> Renewed:
        return await self._renewal.renew(
            descriptor, self._service, self._resolver, lambda detail: self._record("reloaded", detail)
        )

    def _end_leaf(self, leaf: str) -> None:
        self._service.retire(leaf)
        dns = self._dns.pop(leaf, None)
        if dns is not None:
            dns.refuse_waiting()
            dns.stop()
        admitted = self._launchers.pop(leaf, None)
        if admitted is not None and admitted[0] != CANARY:
            self._identities.release(admitted[0])

    # -- what people ask -------------------------------------------------------------------------------------------------

    def _answer_calls(self) -> None:
        on = self._control.on
        on("approvals.list", self._approvals_list)
        on("approvals.show", self._approvals_show)
        on("approvals.answer", self._approvals_answer)
        on("identity.list", self._root_only(lambda _args, _by: self._identities.status()))
        on("identity.revoke", self._root_only(self._revoke))
        on("identity.restore", self._root_only(self._restore))
        on("identity.rotate_key", self._root_only(self._rotate_key))
        on("ca", self._root_only(self._rotate_ca))
        on("status", lambda _caller, _args: self._status())

    def _approvals_list(self, caller: Caller, _args: Mapping[str, object]) -> object:
        now = time.time()
        return [describe(ticket, now) for ticket in self._desk.pending(now, _approver(caller))]

    def _approvals_show(self, caller: Caller, args: Mapping[str, object]) -> object:
        now = time.time()
        try:
            return describe(self._desk.find(_word(args, "ticket"), _approver(caller), now), now)
        except ApprovalRefused as refusal:
            raise Refused(str(refusal)) from refusal

    def _approvals_answer(self, caller: Caller, args: Mapping[str, object]) -> object:
        granted = args.get("granted")
        if not isinstance(granted, bool):
            raise Refused("granted must be true or false")
        try:
            answer = self._desk.answer(
                _word(args, "ticket"),
                _approver(caller),
                granted,
                _word(args, "reason", default=""),
                time.time(),
                _word(args, "digest", default=""),
            )
        except ApprovalRefused as refusal:
            raise Refused(str(refusal)) from refusal
        self._service.answered(answer)
        return {"ticket": answer.ticket_id, "granted": answer.granted, "by": answer.by}

    def _root_only(
        self, answer: Callable[[Mapping[str, object], str], object]
    ) -> Callable[[Caller, Mapping[str, object]], object]:
        def handler(caller: Caller, args: Mapping[str, object]) -> object:
            if caller.uid != 0:
                raise Refused("only root may do this")
            try:
                return answer(args, caller.user)
            except HostagentError as error:
                raise Refused(str(error)) from error
            except OSError as error:
                raise Refused(f"it could not be done: {error}") from error

        return handler

    def _revoke(self, args: Mapping[str, object], by: str) -> object:
        self._identities.revoke(_word(args, "workload"), by, _word(args, "reason", default=""))
        return {"revoked": _word(args, "workload")}

    def _restore(self, args: Mapping[str, object], by: str) -> object:
        self._identities.restore(_word(args, "workload"), by)
        return {"restored": _word(args, "workload")}

    def _rotate_key(self, args: Mapping[str, object], by: str) -> object:
        withdraw = args.get("withdraw") is True
        self._issuer.rotate(withdraw=withdraw)
        former = "tokens of former keys are refused" if withdraw else "tokens of the former key stay valid until they expire"
        self._record("issuer-key", f"tokens are signed with a new key from now on, by {by}; {former}")
        return {"keys": self._issuer.jwks["keys"], "lifetime_s": self._issuer.lifetime}

    def _rotate_ca(self, args: Mapping[str, object], by: str) -> object:
        steps = {"announce": self._rotation.announce, "activate": self._rotation.activate, "retire": self._rotation.retire}
        step = _word(args, "step", default="show")
        if step in steps:
            steps[step]()
            self._record("ca", f"{step}, by {by}: {msgspec.json.encode(self._rotation.describe()).decode()}")
        elif step != "show":
            raise Refused(f"unknown step {step}")
        return self._rotation.describe()

    async def _status(self) -> dict[str, object]:
        return {
            "version": __version__,
            "policy": self._policy.current.hash,
            "policy_problem": self._policy.problem,
            "workloads_problem": self._workloads.problem,
            "targets": sorted(self._targets),
            "unusable": self._renewal.unusable(),
            "pending": await asyncio.to_thread(self._renewal.pending),
            "leaves": self._service.summary(),
            "held": len(self._desk.pending(time.time())),
            "journal": self._budget.report(),
        }

    # -- background ------------------------------------------------------------------------------------------------------

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_S)
            for answer in self._desk.expire(time.time()):
                self._service.answered(answer)

    async def _count_journal(self) -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(_BUDGET_S)
            now = time.monotonic()
            self._budget.passed(now - before, self._journal.free)
            before = now

    def _record(self, change: str, detail: str = "") -> None:
        detail = detail or f"pid {os.getpid()}"
        fields = {"component": "proxyd", "change": change, "version": __version__, "detail": detail}
        self._journal.append([Event(EventKind.SERVICE, time.time_ns(), "", "", fields)])


class _Workloads:
    """The workload documents in force: read again when they change, kept when they are wrong."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._documents = load_workloads(config)
        self.problem = ""

    def current(self) -> Mapping[str, Workload]:
        return self._documents

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_DOCUMENTS_S)
            try:
                self._documents = await asyncio.to_thread(load_workloads, self._config)
                self.problem = ""
            except (DocumentError, OSError) as error:
                if str(error) != self.problem:
                    log.error("workload documents refused, the last good ones stay: %s", error)
                self.problem = str(error)


def _approver(caller: Caller) -> Approver:
    return Approver(user=caller.user, uid=caller.uid, groups=caller.groups, governed=caller.governed)


def _word(args: Mapping[str, object], name: str, *, default: str | None = None) -> str:
    value = args.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise Refused(f"{name} is missing")
    return value


def _digest_key(path: Path) -> bytes:
    """Return the key of the digests of exact statements, made on first use."""
    if path.exists():
        return path.read_bytes()
    key = os.urandom(32)
    write_whole(path, key)
    return key


def _reachable_families() -> frozenset[int]:
    """Return the IP versions that this host has a route for, default or not."""
    families = set()
    try:
        with Path("/proc/net/route").open(encoding="ascii") as table:
            if len(table.readlines()) > 1:
                families.add(4)
        with Path("/proc/net/ipv6_route").open(encoding="ascii") as table:
            if any(line.split()[-1] != "lo" and not line.startswith("fe80") for line in table):
                families.add(6)
    except OSError:
        families.add(4)
    return frozenset(families)
