"""Rotation while sessions live: a target's credential, the host CA, the issuer's key. No session may notice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.talk import Talk, environment
from tests.stage import Service, World
from tests.stage.world import wait_for

pytestmark = pytest.mark.e2e

_ASK = ["psql", "-XAtc", "select 1"]
_OLD = "S3cret-of-the-proxy-alone"


@pytest.fixture
def talk(service: Service) -> Iterator[Talk]:
    with Talk(service) as talking:
        talking.connect()
        yield talking


def _asks(service: Service) -> int:
    return service.launch(*environment(service), *_ASK, timeout=60).returncode


@pytest.fixture
def alive(service: Service, talk: Talk) -> Iterator[None]:
    """The proxy is the same process at the end, and a session that was open at the beginning still answers."""
    proxy = service.pid("proxyd")
    talk.sql("prepare mine as select 42")
    yield
    assert service.pid("proxyd") == proxy
    assert talk.sql("execute mine")["rows"] == [[42]]


def test_a_sealed_credential_is_rotated_under_a_live_session_and_a_tampered_one_shuts_its_target_alone(world: World, service: Service) -> None:
    document = service.config / "targets" / "crm-db.yaml"
    plain = document.read_text(encoding="utf-8")
    sealed = Path(service.folder) / "state/credentials/sealed.json"
    refused = service.hostagent("credential", "rotate", "crm", input="x", check=False)
    assert refused.returncode == 78
    made = service.hostagent("credential", "set", "crm", input=f"{_OLD}\n").stdout
    assert "credential: {sealed: crm}" in made
    document.write_text(plain.replace(f"{{file: {world.folder / 'crm-password'}}}", "{sealed: crm}"), encoding="utf-8")
    assert service.hostagent("reload").returncode == 0
    try:
        with Talk(service) as talk:
            talk.connect()
            proxy = service.pid("proxyd")
            world.superuser_sql("alter role crm_proxy password 'sealed-2'")
            said = service.hostagent("credential", "rotate", "crm", input="sealed-2").stdout
            assert said == "Sealed crm (version 2).\ntarget crm-db: another credential, from the next login on\n"
            assert _asks(service) == 0
            service.hostagent("credential", "rotate-key")
            assert service.hostagent("reload").stdout == "nothing changed\n"
            assert talk.sql("select 7")["rows"] == [[7]]
            assert service.pid("proxyd") == proxy
        [row] = json.loads(service.hostagent("credential", "list", "--json").stdout)
        assert (row["name"], row["version"], row["targets"], row["problem"]) == ("crm", 2, ["crm-db"], "")
        assert service.hostagent("credential", "remove", "crm", check=False).returncode == 1
        assert service.hostagent("credential", "list", user="dana", check=False).returncode == 77
        _tampered(service, sealed)
        for place in (sealed, Path(service.folder) / "config/seal.key"):
            assert b"sealed-2" not in place.read_bytes()
    finally:
        document.write_text(plain, encoding="utf-8")
        world.superuser_sql(f"alter role crm_proxy password '{_OLD}'")
        service.hostagent("reload")
    assert _asks(service) == 0, "a target that was refused comes back with a credential that can be read"


def _tampered(service: Service, sealed: Path) -> None:
    """With its record damaged the target is refused with the reason, before anything is dialled; the service runs."""
    damaged = json.loads(sealed.read_text(encoding="utf-8"))
    damaged["records"]["crm"]["sealed"] = "AAAA"
    sealed.write_text(json.dumps(damaged), encoding="utf-8")
    listed = service.hostagent("credential", "list", check=False)
    assert (listed.returncode, "BAD sealed credential crm does not open" in listed.stdout) == (1, True)
    service.stop()
    service.start()
    assert _asks(service) == 2
    status = service.hostagent("status", check=False)
    assert status.returncode == 1
    assert "secrets   target crm-db is refused: sealed credential crm does not open" in status.stdout
    assert service.hostagent("reload").stdout.startswith("nothing changed\nnote: target crm-db is refused"), "others can be reloaded"
    assert service.wait_sql("select reason from sessions where reason like 'the credential of target crm-db cannot be used: %does not open%'")


def _bundle(service: Service, talk: Talk) -> bytes:
    """The trust bundle as the running workload sees it."""
    leaves = json.loads(service.hostagent("status", "--json").stdout)["leaves"]
    [leaf] = [each for each in leaves if each["workload"] != "hostagent.verify"]
    return Path(f"/proc/{leaf['pid']}/root{service.world.folder}/company-ca.pem").read_bytes()


def _step(service: Service, step: str) -> dict[str, object]:
    service.hostagent("ca", step)
    shown: dict[str, object] = json.loads(service.hostagent("ca", "show", "--json").stdout)
    return shown


@pytest.mark.usefixtures("alive")
def test_the_host_ca_is_exchanged_under_running_workloads(service: Service, talk: Talk) -> None:
    before = json.loads(service.hostagent("ca", "show", "--json").stdout)
    assert before["stage"] == "settled"
    bundle = _bundle(service, talk)
    assert service.hostagent("ca", "activate", check=False).returncode == 1
    announced = _step(service, "rotate")
    assert announced["stage"] == "announced"
    wait_for(lambda: len(_bundle(service, talk)) > len(bundle), "the new CA in the running workload's bundle", 10)
    assert _bundle(service, talk).startswith(bundle), "nothing moved"
    assert talk.connect(on="while-announced").get("error") is None
    assert _step(service, "activate")["stage"] == "active"
    assert not (Path(service.folder) / "state/proxyd/ca-next.key").exists()
    assert talk.connect(on="new-signs").get("error") is None, "a workload of before trusts what signs now"
    assert _asks(service) == 0
    after = _step(service, "retire")
    assert after["stage"] == "settled"
    wait_for(lambda: _bundle(service, talk).count(b"BEGIN CERT") == bundle.count(b"BEGIN CERT"), "the old CA out of the bundle", 10)
    assert talk.connect(on="old-gone").get("error") is None
    assert _asks(service) == 0
    assert after["certificates"] != before["certificates"]
    assert service.wait_sql("select count(*) as steps from service where change = 'ca' having steps = 3")


@pytest.mark.usefixtures("alive")
def test_the_issuers_key_is_exchanged_and_the_tokens_in_use_stay_valid(service: Service, talk: Talk) -> None:
    [before] = json.loads(service.hostagent("identity", "list", "--json").stdout)
    assert service.hostagent("identity", "rotate-key").stdout.startswith("Signing with a new key. 2 keys")
    assert talk.connect(on="old-token").get("error") is None
    [after] = json.loads(service.hostagent("identity", "list", "--json").stdout)
    assert (after["state"], after["expires_at"]) == (before["state"], before["expires_at"]), "the same token as before"
    assert _asks(service) == 0, "an admission under the new key"
    assert service.wait_sql("select detail from service where change = 'issuer-key'")


def test_a_key_that_leaked_is_withdrawn_with_every_session_of_its_tokens(service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        assert service.hostagent("identity", "rotate-key", "--withdraw").stdout == "Signing with a new key. Former tokens are refused.\n"
        wait_for(lambda: "error" in talk.sql("select 1"), "the end of the session", 30)
    wait_for(lambda: _asks(service) == 0, "an admission under the new key", 60)
    assert service.wait_sql("select reason from sessions where reason like '%identity is no longer valid%withdrawn%'")
