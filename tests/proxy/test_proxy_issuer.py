"""The embedded issuer: its tokens are ordinary ones, its key is its own, its name outlives every key."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.identity import validate
from hostagent.identity.compact import read_compact
from hostagent.model.errors import IdentityError
from hostagent.model.identity import Identity
from hostagent.model.workload import IdentityKind, IdentitySource, Workload
from hostagent.proxy.issuer import FILE_NAME, LocalIssuer

NOW = 1_800_000_000.0
BOT = Workload(
    "support-bot",
    identity=IdentitySource(
        groups=frozenset({"b", "a"}), purpose="answer tickets", claims={"team": "x", "tier": 2, "tags": ["p", "q"]}
    ),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(tmp_path: Path, clock: Clock) -> LocalIssuer:
    return LocalIssuer(tmp_path, clock=clock)


def proved(issuer: LocalIssuer, token: str, now: float = NOW, workload: Workload = BOT) -> Identity:
    return validate(token, issuer.keys, issuer.expectation(workload), now)


def test_its_token_is_validated_like_any_other(issuer: LocalIssuer) -> None:
    token = issuer.mint(BOT)
    found = proved(issuer, token)
    assert found == Identity(
        issuer=issuer.issuer,
        subject="support-bot",
        expires_at=NOW + 600,
        groups=frozenset({"a", "b"}),
        purpose="answer tickets",
        token_id=found.token_id,
        claims={"team": "x", "tier": 2, "tags": ["p", "q"]},
    )
    assert len(found.token_id) == 32
    assert read_compact(token).header == {"typ": "JWT", "alg": "EdDSA", "kid": issuer.keys.keys[0].kid}
    assert issuer.issuer.startswith("https://hostagent.local/")
    assert found.token_id != proved(issuer, issuer.mint(BOT)).token_id


def test_its_token_lives_for_minutes(issuer: LocalIssuer) -> None:
    token = issuer.mint(BOT)
    assert proved(issuer, token, NOW + 599.9).subject == "support-bot"
    with pytest.raises(IdentityError, match="expired"):
        proved(issuer, token, NOW + 600)


def test_a_workloads_token_is_of_no_use_to_another(issuer: LocalIssuer) -> None:
    other = Workload("other-bot")
    with pytest.raises(IdentityError, match="is for the subject 'support-bot', expected is 'other-bot'"):
        proved(issuer, issuer.mint(BOT), workload=other)


def test_another_hosts_token_is_refused(issuer: LocalIssuer, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "other").mkdir()
    stranger = LocalIssuer(tmp_path / "other", clock=clock)
    assert stranger.issuer != issuer.issuer
    with pytest.raises(IdentityError, match="publishes no key"):
        proved(issuer, stranger.mint(BOT))


def test_it_mints_only_for_workloads_that_have_their_identity_from_it(issuer: LocalIssuer) -> None:
    with pytest.raises(IdentityError, match="has its identity from elsewhere"):
        issuer.mint(
            replace(BOT, identity=IdentitySource(kind=IdentityKind.TOKEN_FILE, path="/t", audience="a", jwks="/j"))
        )


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "groups", "purpose"])
def test_claims_cannot_replace_what_has_a_meaning(issuer: LocalIssuer, name: str) -> None:
    with pytest.raises(IdentityError, match=f"claims must not contain {name}"):
        issuer.mint(replace(BOT, identity=replace(BOT.identity, claims={name: "x"})))


def test_the_key_outlives_a_restart_and_is_for_its_owner_alone(
    issuer: LocalIssuer, tmp_path: Path, clock: Clock
) -> None:
    token = issuer.mint(BOT)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    again = LocalIssuer(tmp_path, clock=clock)
    assert (again.issuer, again.jwks) == (issuer.issuer, issuer.jwks)
    assert proved(again, token).subject == "support-bot"
    assert os.listdir(tmp_path) == [FILE_NAME], "no half-written file stays"


def test_only_the_public_half_is_published(issuer: LocalIssuer, tmp_path: Path) -> None:
    private = json.loads((tmp_path / FILE_NAME).read_text())["private"]
    assert private not in json.dumps(issuer.jwks)
    assert {name for key in issuer.jwks["keys"] for name in key} == {"kty", "crv", "x", "kid", "alg", "use"}  # type: ignore[attr-defined]


def test_after_a_rotation_old_tokens_live_out_their_minutes(issuer: LocalIssuer, tmp_path: Path, clock: Clock) -> None:
    old, name = issuer.mint(BOT), issuer.issuer
    issuer.rotate()
    for current in (issuer, LocalIssuer(tmp_path, clock=clock)):
        assert current.issuer == name
        assert proved(current, old).subject == proved(current, current.mint(BOT)).subject
        assert len(current.keys.keys) == 2
    clock.now += 600
    assert len(issuer.keys.keys) == 1
    with pytest.raises(IdentityError):
        proved(issuer, old, clock.now)


def test_a_withdrawn_key_is_not_published_any_more(issuer: LocalIssuer, tmp_path: Path, clock: Clock) -> None:
    old = issuer.mint(BOT)
    issuer.rotate(withdraw=True)
    for current in (issuer, LocalIssuer(tmp_path, clock=clock)):
        with pytest.raises(IdentityError, match="publishes no key"):
            proved(current, old)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"host": "x", "private": "AAAA", "retired": []}', "\xff"])
def test_a_damaged_key_file_stops_the_service(issuer: LocalIssuer, tmp_path: Path, content: str) -> None:
    file = tmp_path / FILE_NAME
    file.write_text(content)
    with pytest.raises(IdentityError, match="damaged"):
        LocalIssuer(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_file_that_others_can_reach_stops_the_service(issuer: LocalIssuer, tmp_path: Path, mode: int) -> None:
    (tmp_path / FILE_NAME).chmod(mode)
    with pytest.raises(IdentityError, match="only this service may read"):
        LocalIssuer(tmp_path)


def test_a_key_file_that_is_a_link_stops_the_service(issuer: LocalIssuer, tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityError, match="symbolic links"):
        LocalIssuer(tmp_path)


def test_a_new_key_that_cannot_be_kept_changes_nothing(
    issuer: LocalIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, kept = issuer.jwks, (tmp_path / FILE_NAME).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(IdentityError, match="the former one stays: No space left"):
            issuer.rotate(withdraw=True)
    assert issuer.jwks == before
    assert (tmp_path / FILE_NAME).read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
