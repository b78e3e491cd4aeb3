"""``hostagent target test`` against the real server: what works is said, what fails is named with what mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostagent.cli.main import main
from tests.stage import World

pytestmark = pytest.mark.e2e
_PASSWORD = "S3cret-of-the-proxy-alone"


@pytest.fixture(scope="module")
def toml(world: World) -> str:
    file = world.folder / "trial" / "hostagent.toml"
    assert CliRunner().invoke(main, ["--config", str(file), "init"]).exit_code == 0
    return str(file)


def _tried(world: World, toml: str, place: str, *options: str, password: str = _PASSWORD, words: tuple[str, ...] = ()) -> tuple[int, list[dict[str, object]]]:
    """Add a target at ``place`` and try it; return the exit status and the steps."""
    ca = () if "--ca-file" in options else ("--ca-file", str(world.folder / "company-ca.pem"))
    add = ["--config", toml, "target", "add", "tried", f"postgresql://{place}", "--secret", "ask", "--force", *ca, *options]
    added = CliRunner().invoke(main, add, input=f"{password}\n")
    assert added.exit_code == 0, added.output
    done = CliRunner().invoke(main, ["--config", toml, "target", "test", "tried", "--json", "--timeout", "5", *words])
    assert password not in done.output
    return done.exit_code, json.loads(done.stdout)


def test_every_address_of_a_good_target_is_logged_in_to(world: World, toml: str) -> None:
    status, steps = _tried(world, toml, "crm_proxy@crm.internal,10.77.0.2/crm")
    assert status == 0, steps
    assert [step["name"] for step in steps] == ["document", "credential", "resolve", *["connect", "tls", "login"] * 2]
    assert {step["place"] for step in steps if step["name"] == "login"} == {"10.77.0.2:5432", "[fd77::2]:5432"}
    shown = CliRunner().invoke(main, ["--config", toml, "target", "test", "tried"])
    assert "ok      login      10.77.0.2:5432: as crm_proxy in crm, PostgreSQL 15" in shown.stdout


def test_a_role_that_may_everything_is_pointed_out(world: World, toml: str) -> None:
    _, steps = _tried(world, toml, "postgres@10.77.0.2/crm", password="superuser-only")
    assert (steps[-1]["ok"], "superuser" in str(steps[-1]["fix"])) == (True, True)


@pytest.mark.parametrize(
    ("place", "options", "password", "name", "fix"),
    [
        ("crm_proxy@10.77.0.2/crm", (), "wrong-one", "login", "alter role crm_proxy password"),
        ("crm_proxy@10.77.0.2/nowhere", (), _PASSWORD, "login", "name a database that exists"),
        ("crm_proxy@10.77.0.2/crm", ("--server-name", "other.internal"), _PASSWORD, "tls", "server_name"),
        ("crm_proxy@10.77.0.2/crm", ("--ca-file", "/etc/ssl/certs/ca-certificates.crt"), _PASSWORD, "tls", "its issuer is not trusted"),
        ("crm_proxy@10.77.0.2:5439/crm", (), _PASSWORD, "connect", "listen_addresses"),
        ("crm_proxy@nobody.invalid/crm", (), _PASSWORD, "resolve", "/etc/hosts"),
    ],
    ids=["password", "database", "name", "issuer", "port", "host"],
)
def test_a_step_that_fails_is_named_with_what_mends_it(
    world: World, toml: str, place: str, options: tuple[str, ...], password: str, name: str, fix: str
) -> None:
    status, steps = _tried(world, toml, place, *options, password=password)
    assert (status, steps[-1]["name"], steps[-1]["ok"], fix in str(steps[-1]["fix"])) == (1, name, False, True), steps


def test_a_credential_that_cannot_be_read_is_a_wrong_configuration(world: World, toml: str) -> None:
    _tried(world, toml, "crm_proxy@10.77.0.2/crm")
    secret = Path(toml).parent / "secrets" / "tried"
    secret.chmod(0o644)
    done = CliRunner().invoke(main, ["--config", toml, "target", "test", "tried"])
    assert (done.exit_code, "chmod 600" in done.output) == (78, True)
