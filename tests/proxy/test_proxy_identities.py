"""A workload's identity over time: admitted, renewed, doubted, lost, revoked, and restored; with a real provider's tokens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.model.errors import HostagentError, IdentityError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.identity import Identity
from hostagent.model.workload import IdentityKind, IdentitySource, Workload
from hostagent.proxy.identities import GRACE_S, Admission, Identities
from hostagent.proxy.issuer import LocalIssuer
from hostagent.proxy.keys import REFRESH_S, STALE_S, Keys
from hostagent.proxy.revocations import FILE_NAME
from tests.proxy.oidc_provider import Provider

LOCAL = Workload(
    "bot", launchers=frozenset({"lee"}), identity=IdentitySource(groups=frozenset({"support"}), purpose="help")
)


class Book:
    """A journal that can be full."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.full = False

    def append(self, events: Sequence[Event]) -> None:
        if self.full:
            raise JournalError("no space left on device")
        self.events.extend(events)


class World:
    """Identities with everything around them; ``ahead`` moves both clocks forward of the real time."""

    def __init__(self, folder: Path, *workloads: Workload) -> None:
        self.folder = folder
        self.ahead = 0.0
        self.documents = {workload.name: workload for workload in workloads}
        self.book = Book()
        self.lost: list[tuple[str, str]] = []
        self.renewed: list[Identity] = []
        self.lost_event = asyncio.Event()
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        """Begin as after a restart: only what is on disk is left."""
        self.issuer = LocalIssuer(self.state, clock=self.clock)
        self.keys = Keys(clock=self.clock)
        self.identities = Identities(
            lambda: self.documents, self.issuer, self.keys, self.book, self.state, on_lost=self._on_lost,
            on_renewed=lambda _, identity: self.renewed.append(identity), clock=self.clock,
        )  # fmt: skip

    def clock(self) -> float:
        return time.time() + self.ahead

    def _on_lost(self, workload: str, reason: str) -> None:
        self.lost.append((workload, reason))
        self.lost_event.set()

    async def admit(self, name: str = "bot", launcher: str = "lee") -> Admission:
        return await self.identities.admit(name, launcher)

    async def admitted(self) -> Identity:
        admission = await self.admit()
        assert admission.reason == ""
        assert admission.admitted
        assert admission.identity is not None
        return admission.identity

    async def refused(self) -> str:
        admission = await self.admit()
        assert (admission.admitted, admission.identity) == (False, None)
        return admission.reason

    async def step(self, seconds: float) -> None:
        """Let time pass, then one round of renewing and sweeping."""
        self.ahead += seconds
        await self.identities.renew()
        self.identities.sweep()

    def current(self) -> Identity | None:
        return self.identities.current("bot")

    @property
    def changes(self) -> list[object]:
        assert all(event.kind is EventKind.IDENTITY and event.workload == "bot" for event in self.book.events)
        return [event.fields["change"] for event in self.book.events]


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path, LOCAL)


# -- local ---------------------------------------------------------------------------------------------------------------


async def test_a_declared_workload_is_admitted_as_its_document_says(world: World) -> None:
    identity = await world.admitted()
    assert (identity.issuer, identity.subject, identity.groups, identity.purpose) == (
        world.issuer.issuer,
        "bot",
        frozenset({"support"}),
        "help",
    )
    assert world.current() == identity
    assert world.identities.current("other") is None


async def test_only_declared_workloads_and_listed_launchers_are_admitted(world: World) -> None:
    assert await world.admit("ghost") == Admission(False, "there is no workload document for ghost")
    assert await world.admit(launcher="sam") == Admission(False, "sam is not among the launchers of workload bot")
    assert await world.admit(launcher="") == Admission(False, "this user is not among the launchers of workload bot")
    assert await world.admit(launcher="root") == Admission(False, "root is not among the launchers of workload bot")
    assert world.current() is None


async def test_a_local_identity_is_renewed_in_its_last_third(world: World) -> None:
    first = await world.admitted()
    await world.step(399)
    assert world.current() == first
    await world.step(2)
    second = world.current()
    assert second is not None
    assert second.token_id != first.token_id
    assert second.expires_at > first.expires_at + 300
    assert (world.changes, world.lost, world.renewed) == (["renewed"], [], [second])
    assert world.book.events[0].fields == {
        "change": "renewed", "reason": "", "issuer": first.issuer, "subject": "bot", "token_id": second.token_id,
        "expires_at": second.expires_at,
    }  # fmt: skip


async def test_an_identity_that_is_not_renewed_ends_at_its_second(world: World) -> None:
    identity = await world.admitted()
    world.ahead = identity.expires_at - time.time() - 5
    assert world.current() == identity
    world.ahead += 5
    assert world.current() is None, "nothing new may begin, even before the sweep"
    world.identities.sweep()
    world.identities.sweep()
    assert world.lost == [("bot", "the token expired and no newer one was there")]
    assert world.changes == ["expired"]


async def test_a_renewal_that_cannot_be_recorded_does_not_happen(world: World) -> None:
    first = await world.admitted()
    world.book.full = True
    await world.step(500)
    assert (world.current(), world.renewed) == (first, [])
    assert (await world.admit()).reason == "evidence cannot be written: no space left on device"
    world.book.full = False
    await world.step(1)
    assert world.current() not in (first, None)


async def test_an_end_that_cannot_be_recorded_still_cuts(world: World) -> None:
    await world.admitted()
    world.book.full = True
    world.identities.revoke("bot", "root", "")
    assert world.current() is None
    assert world.lost == [("bot", "revoked by root")]


async def test_revocation_cuts_at_once_and_lasts_over_a_restart_until_restored(world: World) -> None:
    await world.admitted()
    world.identities.revoke("bot", "root", "leaked")
    assert world.current() is None
    assert world.lost == [("bot", "revoked by root: leaked")]
    await world.step(5)
    assert world.current() is None
    assert await world.refused() == "the identity of workload bot is revoked by root: leaked"
    world.start()
    assert await world.refused() == "the identity of workload bot is revoked by root: leaked"
    assert world.identities.status()[0]["state"] == "revoked"
    world.identities.restore("bot", "root")
    assert (await world.admitted()).subject == "bot"
    world.start()
    assert (await world.admitted()).subject == "bot"
    assert world.changes == ["revoked"]


async def test_a_restored_workload_that_runs_gets_its_identity_back(world: World) -> None:
    await world.admitted()
    world.identities.revoke("bot", "root", "")
    await world.step(10)
    world.identities.restore("bot", "root")
    assert world.current() is None, "only a proof brings it back"
    await world.step(1)
    assert world.current() is not None
    assert (world.changes, len(world.lost)) == (["revoked", "renewed"], 1)


async def test_revocations_name_what_exists(world: World) -> None:
    with pytest.raises(HostagentError, match="there is no workload ghost"):
        world.identities.revoke("ghost", "root", "")
    with pytest.raises(HostagentError, match="bot is not revoked"):
        world.identities.restore("bot", "root")


async def test_a_revocation_counts_even_if_it_cannot_be_written(world: World) -> None:
    await world.admitted()
    world.state.rename(world.folder / "moved")
    with pytest.raises(HostagentError, match="a restart will forget it"):
        world.identities.revoke("bot", "root", "")
    assert world.current() is None
    assert world.lost


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"workloads": {"bot": {}}, "tokens": {}}', '{"workloads": [], "tokens": {}}']
)
async def test_a_damaged_list_of_revocations_stops_the_service(world: World, content: str) -> None:
    (world.state / FILE_NAME).write_text(content)
    with pytest.raises(IdentityError, match="the list of revocations cannot be read"):
        world.start()


async def test_the_list_of_revocations_is_for_the_service_alone(world: World) -> None:
    world.identities.revoke("bot", "root", "")
    assert (world.state / FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_a_withdrawn_local_key_cuts_and_the_next_one_proves_anew(world: World) -> None:
    first = await world.admitted()
    world.issuer.rotate()
    await world.step(1)
    assert (world.current(), world.lost) == (first, [])
    world.issuer.rotate(withdraw=True)
    await world.step(1)
    assert world.current() is None
    assert "the signing key of the token was withdrawn" in world.lost[0][1]
    await world.step(1)
    assert world.current() not in (None, first)
    assert world.changes == ["lost", "renewed"]


async def test_a_changed_document_counts_at_once(world: World) -> None:
    await world.admitted()
    world.documents["bot"] = replace(LOCAL, identity=replace(LOCAL.identity, groups=frozenset({"dba"})))
    await world.step(1)
    renewed = world.current()
    assert renewed is not None
    assert renewed.groups == {"dba"}
    assert world.lost == []


async def test_a_document_that_is_gone_takes_the_identity_with_it(world: World) -> None:
    await world.admitted()
    world.documents.clear()
    await world.step(0)
    assert world.current() is None
    assert world.lost == [("bot", "the document of workload bot is gone")]
    assert await world.refused() == "there is no workload document for bot"


async def test_a_running_workload_cannot_become_someone_else(world: World) -> None:
    await world.admitted()
    world.documents["bot"] = replace(LOCAL, identity=replace(LOCAL.identity, subject="admin"))
    assert await world.refused() == "the renewed token is for another subject: 'admin' instead of 'bot'"
    await world.step(1)
    assert world.current() is None
    await world.step(GRACE_S)
    assert world.lost == [("bot", "the renewed token is for another subject: 'admin' instead of 'bot'")]
    world.identities.release("bot")
    assert (await world.admitted()).subject == "admin", "when the last leaf is gone, a new one may be someone else"


async def test_leaves_are_counted(world: World) -> None:
    await world.admitted()
    await world.admitted()
    world.identities.release("bot")
    assert world.current() is not None
    world.identities.release("bot")
    assert world.current() is None
    world.identities.release("bot")
    assert world.lost == []


async def test_status_names_every_workload(world: World) -> None:
    row = {"workload": "bot", "state": "not running", "source": "local", "leaves": 0, "launchers": [], "problem": ""}
    assert world.identities.status() == [row]
    identity = await world.admitted()
    assert world.identities.status() == [
        {
            **row,
            "state": "valid",
            "leaves": 1,
            "launchers": ["lee"],
            "issuer": identity.issuer,
            "subject": "bot",
            "groups": ["support"],
            "purpose": "help",
            "token_id": identity.token_id,
            "expires_at": identity.expires_at,
        }
    ]


# -- tokens of a real provider -------------------------------------------------------------------------------------------


class FromProvider(World):
    """A workload whose token a helper fetches from the provider into a file."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self.provider = provider
        self.file = folder / "token"
        source = IdentitySource(
            kind=IdentityKind.TOKEN_FILE,
            path=str(self.file),
            issuer=provider.issuer,
            audience="hostagent",
            ca_file=str(provider.ca_file),
        )
        super().__init__(folder, replace(LOCAL, identity=source))

    def source(self, **changes: object) -> None:
        document = self.documents["bot"]
        self.documents["bot"] = replace(document, identity=replace(document.identity, **changes))  # type: ignore[arg-type]

    def put(self, token: str) -> None:
        """Replace the token as a good helper does: in one step."""
        fresh = self.file.with_name("fresh")
        fresh.write_text(token + "\n")
        fresh.chmod(0o600)
        fresh.rename(self.file)

    async def fetch(self, kind: str = "id_token") -> None:
        self.put(await asyncio.to_thread(self.provider.token, kind))

    async def refresh_keys(self) -> None:
        """One turn of the background refreshing of keys."""
        task = asyncio.create_task(self.keys.run())
        async with asyncio.timeout(10):
            while self.keys.status()[0]["age_s"] != 0 and not self.keys.status()[0]["problem"]:
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path)
    yield made
    made.stop()


@pytest.fixture
async def outside(tmp_path: Path, provider: Provider) -> FromProvider:
    made = FromProvider(tmp_path, provider)
    await made.fetch()
    return made


@pytest.mark.parametrize("kind", ["id_token", "access_token"])
async def test_a_real_token_admits(outside: FromProvider, kind: str) -> None:
    await outside.fetch(kind)
    identity = await outside.admitted()
    assert (identity.issuer, set(identity.groups), identity.purpose) == (
        outside.provider.issuer,
        {"support", "staff"},
        "help",
    )
    assert identity.claims["groups"] == ["support", "staff"]


async def test_a_newer_token_in_the_file_renews(outside: FromProvider) -> None:
    first = await outside.admitted()
    await outside.step(1)
    assert (outside.current(), outside.changes) == (first, [])
    await outside.fetch()
    await outside.step(1)
    second = outside.current()
    assert second is not None
    assert second.token_id != first.token_id
    assert second.subject == first.subject
    assert (outside.changes, outside.lost) == (["renewed"], [])


async def test_a_token_for_another_audience_is_refused(outside: FromProvider) -> None:
    outside.source(audience="billing")
    assert await outside.refused() == "the token is for the audience 'hostagent', expected is 'billing'"


async def test_a_token_for_another_subject_is_refused(outside: FromProvider) -> None:
    outside.source(subject="someone")
    assert "expected is 'someone'" in await outside.refused()


async def test_another_providers_token_is_refused(outside: FromProvider, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Provider(tmp_path / "other")
    try:
        outside.put(await asyncio.to_thread(other.token))
    finally:
        other.stop()
    assert "the issuer publishes no key" in await outside.refused()


async def test_a_lying_provider_admits_nobody_and_loses_who_was_admitted(outside: FromProvider) -> None:
    await outside.admitted()
    lie = json.dumps({"issuer": "https://evil.example", "jwks_uri": outside.provider.issuer + "/jwks.json"}).encode()
    outside.provider.answers["/.well-known/openid-configuration"] = (200, {}, lie)
    outside.ahead += REFRESH_S
    await outside.refresh_keys()
    await outside.step(1)
    assert outside.current() is None
    await outside.step(GRACE_S)
    assert "says its issuer is 'https://evil.example'" in outside.lost[0][1]
    assert "says its issuer is" in await outside.refused()


async def test_a_rotated_key_is_found_through_the_token_that_it_signed(outside: FromProvider) -> None:
    first = await outside.admitted()
    outside.provider.rotate(withdraw=False)
    await outside.fetch()
    await outside.step(0)
    assert outside.current() not in (None, first)
    assert outside.lost == []


async def test_an_abrupt_rotation_with_a_new_token_cuts_nobody(outside: FromProvider) -> None:
    first = await outside.admitted()
    outside.provider.rotate(withdraw=True)
    await outside.fetch()
    await outside.step(0)
    assert outside.current() not in (None, first)
    assert outside.lost == []


async def test_a_withdrawn_key_takes_the_identity(outside: FromProvider) -> None:
    await outside.admitted()
    outside.provider.rotate(withdraw=True)
    outside.ahead += REFRESH_S
    await outside.refresh_keys()
    await outside.step(0)
    assert outside.current() is None
    assert "the signing key of the token was withdrawn" in outside.lost[0][1]
    assert outside.changes == ["lost"]
    await outside.fetch()
    await outside.step(1)
    assert outside.current() is not None
    assert outside.changes == ["lost", "renewed"]


async def test_while_the_provider_is_down_an_admitted_identity_lives_on_but_not_for_ever(outside: FromProvider) -> None:
    first = await outside.admitted()
    outside.provider.down = True
    await outside.step(60)
    assert (outside.current(), outside.lost) == (first, [])
    outside.ahead = STALE_S + 10
    outside.identities.sweep()
    assert outside.current() is None
    assert outside.changes == ["expired"]


async def test_a_token_file_that_is_gone_takes_the_identity(outside: FromProvider) -> None:
    await outside.admitted()
    outside.file.unlink()
    await outside.step(0)
    assert outside.current() is None, "nothing new at once"
    assert outside.lost == []
    await outside.step(GRACE_S)
    assert outside.lost == [("bot", f"{outside.file}: no such file or directory")]
    assert outside.changes == ["lost"]


async def test_a_token_that_is_half_written_for_a_moment_cuts_nobody(outside: FromProvider) -> None:
    await outside.admitted()
    whole = outside.file.read_text()
    outside.file.write_text(whole[:40])
    await outside.step(1)
    assert outside.current() is None
    outside.file.write_text(whole)
    await outside.step(1)
    assert outside.current() is not None
    assert (outside.lost, outside.changes) == ([], [])


async def test_a_token_that_the_workload_could_read_takes_the_identity(outside: FromProvider) -> None:
    await outside.admitted()
    outside.file.chmod(0o644)
    assert "every user may read it" in await outside.refused()
    await outside.step(0)
    assert outside.current() is None


async def test_an_expired_token_is_over_even_if_the_file_stays(outside: FromProvider) -> None:
    identity = await outside.admitted()
    await outside.step(identity.expires_at - outside.clock() + 0.01)
    assert outside.current() is None
    assert outside.changes == ["expired"]
    assert "the token expired" in await outside.refused()


async def test_a_revoked_token_is_refused_and_the_next_one_is_not(outside: FromProvider) -> None:
    identity = await outside.admitted()
    outside.identities.revoke_token(identity.token_id, "root", "found on a pastebin")
    assert outside.current() is None
    assert outside.lost == [("bot", "revoked by root: found on a pastebin")]
    assert await outside.refused() == "the identity of workload bot is revoked by root: found on a pastebin"
    outside.start()
    assert "revoked by root" in await outside.refused()
    await outside.fetch()
    assert (await outside.admitted()).subject == identity.subject


async def test_a_revocation_during_a_proof_wins(outside: FromProvider) -> None:
    admitting = asyncio.create_task(outside.admit())
    await asyncio.sleep(0)
    outside.identities.revoke("bot", "root", "")
    assert (await admitting).admitted is False


@pytest.mark.slow
async def test_left_to_itself_a_lost_file_is_noticed_within_seconds(outside: FromProvider) -> None:
    await outside.admitted()
    running = asyncio.create_task(outside.identities.run())
    started = time.monotonic()
    outside.file.unlink()
    await asyncio.wait_for(outside.lost_event.wait(), 30)
    assert time.monotonic() - started < 10
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@pytest.mark.slow
async def test_left_to_itself_a_withdrawn_key_is_noticed_within_half_a_minute(outside: FromProvider) -> None:
    await outside.admitted()
    running = asyncio.create_task(outside.identities.run())
    started = time.monotonic()
    outside.provider.rotate(withdraw=True)
    await asyncio.wait_for(outside.lost_event.wait(), 30)
    assert time.monotonic() - started < 30
    assert outside.current() is None
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
