"""Promises about identity, with the whole service: tokens of a real OpenID provider, renewed, exchanged, lost and withdrawn."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.talk import Talk
from tests.proxy.oidc_provider import Provider
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, wait_for

pytestmark = pytest.mark.e2e

_WORKLOAD = """\
launchers: [root]
identity:
  kind: token_file
  path: {token}
  issuer: {issuer}
  audience: hostagent
  ca_file: {ca_file}
trust_files: [{company_ca}]
"""
_TARGET = """\
protocol: postgres
hosts: [{name}]
ca_file: {company_ca}
login: {{user: crm_proxy, credential: {{file: {secret}}}}}
"""
_POLICY = """\
version: 1
rules:
  - id: staff-read
    who: {issuer: "ISSUER", groups: [staff], purpose: help, claims: {groups: [support]}}
    what: {effects: [connect, session, transaction, read, cancel]}
    then: allow
"""
_BOUND_S = 30.0


class Tokens:
    """The file that a token helper keeps for the workload."""

    def __init__(self, world: World, provider: Provider) -> None:
        self.provider = provider
        self.file = world.folder / "tokens" / "support-bot"
        self.file.parent.mkdir()

    def put(self, text: str) -> None:
        """Replace the file in one step, readable by the proxy alone."""
        fresh = self.file.with_name("fresh")
        fresh.write_text(text + "\n", encoding="ascii")
        shutil.chown(fresh, "hostagent", "hostagent")
        fresh.chmod(0o600)
        fresh.rename(self.file)

    def fetch(self) -> None:
        """Put a new token of the provider there."""
        self.put(self.provider.token())


@pytest.fixture(scope="module")
def provider(world: World) -> Iterator[Provider]:
    """An OpenID provider on this host's loopback."""
    folder = world.folder / "provider"
    folder.mkdir()
    made = Provider(folder)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def tokens(world: World, provider: Provider) -> Tokens:
    return Tokens(world, provider)


@pytest.fixture(scope="module")
def settings(world: World, provider: Provider, tokens: Tokens) -> Settings:
    company_ca = world.folder / "company-ca.pem"
    workload = _WORKLOAD.format(
        token=tokens.file, issuer=provider.issuer, ca_file=provider.ca_file, company_ca=company_ca
    )  # fmt: skip
    target = _TARGET.format(name=DATABASE_NAME, company_ca=company_ca, secret=world.folder / "crm-password")
    return Settings(
        policies={"staff.yaml": _POLICY.replace("ISSUER", provider.issuer)},
        workloads={"support-bot.yaml": workload},
        targets={"crm-db.yaml": target},
    )


@pytest.fixture
def talk(tokens: Tokens, service: Service) -> Iterator[Talk]:
    tokens.fetch()
    with Talk(service) as talking:
        connected = talking.connect()
        assert "connected" in connected, connected["message"]
        yield talking


def _cut(talk: Talk, asleep: int) -> float:
    """Wait until the live session is cut while it works; return how long that took. New connections must fail as well."""
    started = time.monotonic()
    answer = talk.answer(asleep, _BOUND_S)
    assert answer.get("closed") is True, answer
    took = time.monotonic() - started
    assert "error" in talk.connect("new")
    return took


def _claims(token: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return found


def _forged(token: str) -> str:
    """Return the token with other claims and the signature of the old ones."""
    head, _, signature = token.split(".")
    claims = _claims(token) | {"groups": ["admin"]}
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.{signature}"


def test_without_a_valid_token_nothing_starts_and_the_reason_is_said(tokens: Tokens, service: Service) -> None:
    for content, reason in ((None, "no such file"), ("not.a.token", "token"), (_forged(tokens.provider.token()), "signature")):
        tokens.file.unlink(missing_ok=True)
        if content is not None:
            tokens.put(content)
        refused = service.launch("id", timeout=60)
        assert (refused.returncode, refused.stdout) == (77, "")
        assert reason in refused.stderr, refused.stderr
    tokens.fetch()
    tokens.file.chmod(0o644)
    readable = service.launch("id", timeout=60)
    assert readable.returncode == 77
    assert "chmod o-r" in readable.stderr


def test_the_tokens_claims_are_policy_input_and_stand_in_the_evidence(talk: Talk, tokens: Tokens, service: Service) -> None:
    assert talk.sql("select 1")["rows"] == [[1]]
    assert talk.sql("create table mine (id int)")["error"] == "42501"
    hidden = service.launch("cat", str(tokens.file), timeout=60)
    assert hidden.returncode != 0
    assert hidden.stdout == ""
    [row] = service.wait_sql("select distinct issuer, subject, groups, purpose from statements where decision = 'allow'")
    claims = _claims(tokens.file.read_text(encoding="ascii"))
    assert row == {"issuer": tokens.provider.issuer, "subject": claims["sub"], "groups": ["staff", "support"], "purpose": "help"}


def test_a_renewed_token_is_taken_and_the_session_goes_on(talk: Talk, tokens: Tokens, service: Service) -> None:
    [before] = service.sql("select count(*) as n from identities where change = 'renewed'")
    tokens.fetch()
    wait_for(lambda: service.sql("select count(*) as n from identities where change = 'renewed'") != [before], "the renewal")
    assert talk.sql("select 2")["rows"] == [[2]]


def test_a_token_of_somebody_else_does_not_renew_but_cuts(talk: Talk, tokens: Tokens, world: World) -> None:
    asleep = talk.tell("sql", sql="select pg_sleep(60)")
    folder = world.folder / "other-provider"
    folder.mkdir(exist_ok=True)
    other = Provider(folder, user="somebody-else")
    try:
        tokens.put(other.token())
        _cut(talk, asleep)
    finally:
        other.stop()


def test_a_token_file_that_is_gone_cuts_and_its_return_lets_in_again(talk: Talk, tokens: Tokens) -> None:
    asleep = talk.tell("sql", sql="select pg_sleep(60)")
    tokens.file.unlink()
    print(f"cut after {_cut(talk, asleep):.1f} s")
    tokens.fetch()
    wait_for(lambda: "connected" in talk.connect("back"), "the identity's return")
    assert talk.sql("select 3", on="back")["rows"] == [[3]]


def test_a_withdrawn_signing_key_cuts_within_half_a_minute(talk: Talk, tokens: Tokens, service: Service) -> None:
    asleep = talk.tell("sql", sql="select pg_sleep(60)")
    tokens.provider.rotate(withdraw=True)
    print(f"cut after {_cut(talk, asleep):.1f} s")
    assert service.launch("id", timeout=60).returncode == 77
    lost = "select reason from identities where change = 'lost' and reason like '%withdrawn%'"
    assert service.wait_sql(lost)


def test_evidence_of_all_this_holds(world: World, service: Service) -> None:
    assert "The evidence holds." in service.hostagent("audit", "verify").stdout
    assert service.sql("select * from unaccounted") == []
    written = [path for place in ("journal", "evidence") for path in (service.folder / "state" / place).rglob("*")]
    token_start = b"eyJhbGciOi"
    assert [path for path in (*written, Path(service.log)) if path.is_file() and token_start in path.read_bytes()] == []
