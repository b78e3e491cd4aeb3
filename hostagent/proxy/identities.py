"""Who each workload is, now: one current identity per admitted workload, renewed, watched, and taken away.

A workload is admitted with a valid token (DESIGN §3). From then on its token is proved again whenever it, its keys or its
document change. What is no longer proved counts no longer: ``current`` answers None at once, so that nothing new begins, and
``on_lost`` is called so that what is live is cut: immediately on expiry, revocation or a withdrawn key, and after ``GRACE_S`` on
anything that a token writer may cause for a moment while it replaces the file. An identity comes back when its token is proved
again; the issuer and subject of the admission are kept throughout.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostagent.identity import Expectation, KeyNeeded, KeySet, continuity, expectation_of, validate
from hostagent.model.errors import HostagentError, IdentityError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.identity import Identity
from hostagent.model.ports import Journal
from hostagent.model.workload import IdentityKind, Workload
from hostagent.proxy.issuer import LocalIssuer
from hostagent.proxy.keys import Keys, KeySource
from hostagent.proxy.revocations import Revocation, Revocations
from hostagent.proxy.trustedfile import read_token

log = logging.getLogger(__name__)

SWEEP_S = 0.25
"""How often expiry is looked at."""

POLL_S = 1.0
"""How often tokens are looked at."""

GRACE_S = 3.0
"""How long live sessions outlast a token that cannot be proved for a reason that may pass."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a workload may start. ``reason`` says why not; ``identity`` is set if and only if ``admitted``."""

    admitted: bool
    reason: str
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class _Proof:
    """An identity and what it was proved with: the same again needs no second proof."""

    identity: Identity
    token: bytes
    keys: str
    document: Workload


@dataclass(slots=True)
class _Held:
    """An admitted workload. ``proof`` is None while nothing proves it; ``last`` is what was proved before."""

    workload: Workload
    bound: Identity
    last: _Proof
    proof: _Proof | None
    launchers: set[str]
    leaves: int = 1
    doubted_at: float | None = None
    problem: str = ""
    lost: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Withdrawn(IdentityError):  # noqa: N818 - said of a key, as in the events
    """The key that signed a token which was good before is not published any more."""

    def __init__(self, error: KeyNeeded) -> None:
        super().__init__(f"the signing key of the token was withdrawn: {error}")


def _nothing(_workload: str, _detail: object) -> None:
    """The default for both callbacks."""


class Identities:
    """The current identities. All methods belong to one event loop."""

    def __init__(
        self,
        workloads: Callable[[], Mapping[str, Workload]],
        issuer: LocalIssuer,
        keys: Keys,
        journal: Journal,
        state: str | os.PathLike[str],
        *,
        on_lost: Callable[[str, str], None] = _nothing,
        on_renewed: Callable[[str, Identity], None] = _nothing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch nothing yet; see ``run``.

        Args:
            workloads: the documents in force, by name.
            issuer: mints the tokens of workloads of kind ``local``.
            keys: where key sets come from; ``run`` keeps it fresh.
            journal: where every change becomes an event.
            state: folder that only this service may read; revocations are kept there.
            on_lost: called with workload and reason; the live sessions of the workload are to be cut.
            on_renewed: called with workload and identity; live sessions go on under it.
            clock: unix seconds.

        Raises:
            IdentityError: the list of revocations is damaged.
        """
        self.on_lost = on_lost
        self.on_renewed = on_renewed
        self._workloads = workloads
        self._issuer = issuer
        self._keys = keys
        self._journal = journal
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._revocations = Revocations(Path(state))

    # -- admission -------------------------------------------------------------------------------------------------------

    async def admit(self, name: str, launcher: str) -> Admission:
        """Return whether workload ``name`` may start for the unix user ``launcher``, and as whom.

        Every admission counts as one leaf; ``release`` takes it back. While a workload runs, further admissions must prove
        the same issuer and subject.
        """
        workload = self._workloads().get(name)
        if workload is None:
            return Admission(False, f"there is no workload document for {name}")
        if launcher not in workload.launchers:
            return Admission(False, f"{launcher or 'this user'} is not among the launchers of workload {name}")
        try:
            proof = await self._prove(workload)
            held = self._held.get(name)
            if held is not None:
                continuity(held.bound, proof.identity)
            self._check_revoked(name, proof.identity)
        except IdentityError as error:
            return Admission(False, str(error))
        if held is None:
            self._held[name] = _Held(workload, proof.identity, proof, proof, {launcher})
            return Admission(True, "", proof.identity)
        try:
            self._install(held, proof)
        except JournalError as error:
            return Admission(False, f"evidence cannot be written: {error}")
        held.leaves += 1
        held.launchers.add(launcher)
        return Admission(True, "", proof.identity)

    def release(self, name: str) -> None:
        """Take back one admission: its leaf has ended. With the last one, the workload is forgotten."""
        held = self._held.get(name)
        if held is None:
            return
        held.leaves -= 1
        if held.leaves <= 0:
            del self._held[name]

    def current(self, name: str) -> Identity | None:
        """Return who workload ``name`` is at this moment, or None: then nothing new may begin."""
        held = self._held.get(name)
        if held is None or held.proof is None or self._clock() >= held.proof.identity.expires_at:
            return None
        return held.proof.identity

    # -- revocation ------------------------------------------------------------------------------------------------------

    def revoke(self, name: str, by: str, reason: str) -> None:
        """Take the identity of workload ``name`` away until ``restore``; kept over a restart.

        Raises:
            HostagentError: there is no such workload; or it is revoked, but a restart would forget that.
        """
        if name not in self._held and name not in self._workloads():
            raise HostagentError(f"there is no workload {name}; `hostagent identity list` shows them")
        self._revocations.workloads[name] = Revocation(by, reason, self._clock())
        self._cut_revoked()
        self._revocations.save(self._clock())

    def revoke_token(self, token_id: str, by: str, reason: str) -> None:
        """Accept the token with this id no more; a local workload gets another, so revoke the workload instead.

        Raises:
            HostagentError: it is revoked, but a restart would forget that.
        """
        self._revocations.tokens[token_id] = Revocation(by, reason, self._clock())
        self._cut_revoked()
        self._revocations.save(self._clock())

    def restore(self, name: str, by: str) -> None:
        """Take back the revocation of workload (or token) ``name``; running workloads get their identity back within seconds.

        Raises:
            HostagentError: it was not revoked; or it is restored, but a restart would revoke it again.
        """
        if self._revocations.workloads.pop(name, None) is None and self._revocations.tokens.pop(name, None) is None:
            raise HostagentError(f"{name} is not revoked")
        log.info("identity restored", extra={"workload": name, "by": by})
        self._revocations.save(self._clock())

    def _cut_revoked(self) -> None:
        for name, held in self._held.items():
            revocation = self._revocations.find(name, held.last.identity.token_id)
            if revocation is not None:
                self._lose(held, "revoked", str(revocation))

    def _check_revoked(self, name: str, identity: Identity) -> None:
        revocation = self._revocations.find(name, identity.token_id)
        if revocation is not None:
            raise IdentityError(f"the identity of workload {name} is {revocation}")

    def status(self) -> list[dict[str, object]]:
        """Return one row per declared or running workload, for people: state, identity, where it comes from, problems."""
        documents = self._workloads()
        return [self._status_row(name, documents.get(name)) for name in sorted({*documents, *self._held})]

    def _status_row(self, name: str, document: Workload | None) -> dict[str, object]:
        held = self._held.get(name)
        workload = document or (held.workload if held else None)
        identity = self.current(name)
        revocation = self._revocations.find(name, held.last.identity.token_id if held else "")
        state = "valid" if identity else ("lost" if held else "not running")
        row: dict[str, object] = {
            "workload": name,
            "state": "revoked" if revocation else state,
            "source": workload.identity.kind.value if workload else "",
            "leaves": held.leaves if held else 0,
            "launchers": sorted(held.launchers) if held else [],
            "problem": str(revocation) if revocation else (held.problem if held else ""),
        }
        if identity is not None:
            row |= {
                "issuer": identity.issuer,
                "subject": identity.subject,
                "groups": sorted(identity.groups),
                "purpose": identity.purpose,
                "token_id": identity.token_id,
                "expires_at": identity.expires_at,
            }
        return row

    # -- watching --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew, watch and take away until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keys.run())
            tasks.create_task(self._sweep())
            tasks.create_task(self._watch())

    async def _sweep(self) -> None:
        while True:
            self.sweep()
            await asyncio.sleep(SWEEP_S)

    async def _watch(self) -> None:
        while True:
            await self.renew()
            self._keys.forget_all_but({KeySource.of(workload.identity) for workload in self._workloads().values()})
            await asyncio.sleep(POLL_S)

    def sweep(self) -> None:
        """Take away what expired, and cut what could not be proved for too long."""
        now = self._clock()
        for held in list(self._held.values()):
            if held.lost:
                continue
            if now >= held.last.identity.expires_at:
                self._lose(held, "expired", held.problem or "the token expired and no newer one was there")
            elif held.doubted_at is not None and now - held.doubted_at >= GRACE_S:
                self._lose(held, "lost", held.problem)

    async def renew(self) -> None:
        """Look at every admitted workload's token, keys and document once, and prove again what changed."""
        async with asyncio.TaskGroup() as tasks:
            for name, held in list(self._held.items()):
                tasks.create_task(self._renew(name, held))

    async def _renew(self, name: str, held: _Held) -> None:
        async with held.lock:
            workload = self._workloads().get(name)
            if workload is None:
                self._lose(held, "lost", f"the document of workload {name} is gone")
                return
            try:
                proof = await self._proof_now(workload, held)
                if proof is None or self._held.get(name) is not held:
                    return
                continuity(held.bound, proof.identity)
                self._check_revoked(name, proof.identity)
                held.workload = workload
                self._install(held, proof)
            except _Withdrawn as error:
                self._lose(held, "lost", str(error))
            except IdentityError as error:
                self._doubt(held, str(error))
            except JournalError:
                # What was proved before stays until it expires; the sessions themselves fail on the same journal.
                log.critical("evidence cannot be written; identity not renewed", extra={"workload": name})

    async def _proof_now(self, workload: Workload, held: _Held) -> _Proof | None:
        """Return a new proof, or None if what proved the identity before is unchanged and still young.

        Raises:
            IdentityError: nothing proves it now.
        """
        before = held.proof
        if workload.identity.kind is not IdentityKind.LOCAL:
            proof = await self._prove(workload, before)
            return None if proof is before else proof
        if before is None or before.document != workload:
            return await self._prove(workload)
        keys = self._issuer.keys
        if before.keys != keys.version:
            # The signature must be one of the keys that are still published; if not, live sessions end here.
            try:
                validate(before.token, keys, self._issuer.expectation(workload), self._clock())
            except KeyNeeded as error:
                raise _Withdrawn(error) from None
        if before.identity.expires_at - self._clock() > self._issuer.lifetime / 3:
            return None
        return await self._prove(workload)

    async def _prove(self, workload: Workload, before: _Proof | None = None) -> _Proof:
        """Return the proof that the workload's token gives now; ``before`` itself if that was made of the same.

        Raises:
            IdentityError: the token cannot be had or believed.
        """
        if workload.identity.kind is IdentityKind.LOCAL:
            token = self._issuer.mint(workload).encode()
            keys = self._issuer.keys
            identity = validate(token, keys, self._issuer.expectation(workload), self._clock())
            return _Proof(identity, token, keys.version, workload)
        source = KeySource.of(workload.identity)
        token = await asyncio.to_thread(read_token, workload)
        keys = await self._keys.get(source)
        if before is not None and (before.token, before.keys, before.document) == (token, keys.version, workload):
            return before
        expectation = expectation_of(workload.identity)
        try:
            return self._validated(token, keys, expectation, workload)
        except KeyNeeded:
            keys = await self._keys.get(source, missing=True)
        try:
            return self._validated(token, keys, expectation, workload)
        except KeyNeeded as error:
            if before is not None and before.token == token:
                raise _Withdrawn(error) from None
            raise

    def _validated(self, token: bytes, keys: KeySet, expectation: Expectation, workload: Workload) -> _Proof:
        return _Proof(validate(token, keys, expectation, self._clock()), token, keys.version, workload)

    # -- changes ---------------------------------------------------------------------------------------------------------

    def _install(self, held: _Held, proof: _Proof) -> None:
        """Make ``proof`` the current one. A new token, or the return of a lost identity, is an event.

        Raises:
            JournalError: it could not be recorded, and is not current.
        """
        if held.lost or proof.identity != held.last.identity:
            self._journal.append([self._event("renewed", "", proof.identity, held.workload.name)])
        held.proof = held.last = proof
        held.doubted_at, held.problem, held.lost = None, "", False
        self.on_renewed(held.workload.name, proof.identity)

    def _doubt(self, held: _Held, reason: str) -> None:
        """Nothing new may begin from now on; live sessions have ``GRACE_S`` more."""
        held.proof = None
        held.problem = reason
        if held.doubted_at is None:
            held.doubted_at = self._clock()

    def _lose(self, held: _Held, change: str, reason: str) -> None:
        """Nothing new may begin, and live sessions are to be cut. Only the first time is an event."""
        held.proof = None
        held.problem = reason
        if held.lost:
            return
        held.lost = True
        name = held.workload.name
        log.warning("identity lost", extra={"workload": name, "change": change, "reason": reason})
        try:
            self._journal.append([self._event(change, reason, held.last.identity, name)])
        except JournalError:
            log.critical("evidence cannot be written; an identity's end is not recorded", extra={"workload": name})
        finally:
            self.on_lost(name, reason)

    def _event(self, change: str, reason: str, identity: Identity, workload: str) -> Event:
        fields = {
            "change": change,
            "reason": reason,
            "issuer": identity.issuer,
            "subject": identity.subject,
            "token_id": identity.token_id,
            "expires_at": identity.expires_at,
        }
        return Event(EventKind.IDENTITY, int(self._clock() * 1e9), "", workload, fields)
