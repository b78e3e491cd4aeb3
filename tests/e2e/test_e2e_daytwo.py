"""A support bundle of a host that is full of secrets, and evidence that goes away and comes back."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.talk import environment
from tests.stage import Service, Settings, World
from tests.stage.service import _WORKLOAD

pytestmark = pytest.mark.e2e

CANARIES = ("canary-environ-1", "canary-literal-2", "canary-argument-3", "canary-document-4", "canary-comment-5", "canary-envfile-6", "canary-claim-7", "canary-token-8", "canary-log-9", "canary-process-10")


@pytest.fixture(scope="module")
def settings(world: World) -> Settings:
    workload = _WORKLOAD.format(company_ca=world.folder / "company-ca.pem")
    return Settings(workloads={"support-bot.yaml": workload + f"environment: {{APP_MODE: {CANARIES[3]}}}\n# {CANARIES[4]}\n"}, toml=f'# {CANARIES[4]}\n[metrics]\nlisten = "127.0.0.1:9464"\n')


@pytest.fixture(scope="module")
def lived(world: World, service: Service) -> Service:
    """A service that has seen values, and whose documents, files and messages hold secrets wherever there can be one."""
    vault = world.folder / "vault.env"
    vault.write_text(f"OTHER={CANARIES[5]}\nCRM_PASSWORD='S3cret-of-the-proxy-alone'\n", encoding="utf-8")
    vault.chmod(0o600)
    target = service.config / "targets/second.yaml"
    text = (service.config / "targets/crm-db.yaml").read_text(encoding="utf-8").replace("port: 5432", "port: 5433")
    target.write_text(text.replace(f"{{file: {world.folder / 'crm-password'}}}", f'{{env: "{vault}#CRM_PASSWORD"}}'), encoding="utf-8")
    token = world.folder / "token"
    token.write_text(CANARIES[7], encoding="utf-8")
    token.chmod(0o600)
    (service.config / "workloads/other.yaml").write_text(
        f"launchers: [root]\nidentity: {{kind: token_file, path: {token}, issuer: 'https://idp.example', audience: x}}\n", encoding="utf-8"
    )
    (service.config / "workloads/third.yaml").write_text(f"launchers: [root]\nidentity: {{kind: local, claims: {{team: {CANARIES[6]}}}}}\n", encoding="utf-8")
    service.hostagent("credential", "set", "spare", input="canary-sealed-11")
    service.hostagent("reload")
    asked = service.launch("env", f"MY={CANARIES[0]}", *environment(service), "psql", "-XAtc", f"select count(*) from orders where status <> '{CANARIES[1]}' --{CANARIES[2]}", timeout=60)
    assert asked.returncode == 0, asked.stderr
    (service.folder / "extra.log").write_text(
        f"12:00 proxyd: ERROR session failed for '{CANARIES[8]}'\nTraceback (most recent call last):\n  File \"x.py\", line 1\nValueError: bad value {CANARIES[8]}\n"
        f"token=eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ4In0aaaaaaa.c2ln and postgres://u:{CANARIES[8]}@h/ password={CANARIES[8]}\n", encoding="utf-8",
    )  # fmt: skip
    return service


def _secrets(world: World, service: Service) -> Iterator[bytes]:
    yield from (word.encode() for word in (*CANARIES, "canary-sealed-11", "S3cret-of-the-proxy-alone"))
    state = service.folder / "state"
    yield b"PRIVATE KEY"
    yield from (state / "proxyd/ca.key").read_bytes().splitlines()[1:-1]
    yield json.loads((state / "proxyd/issuer.json").read_bytes())["private"].encode()
    yield (service.config / "seal.key").read_bytes().strip()
    for path in (state / "proxyd/journal.key", state / "enforcerd/journal.key", state / "proxyd/digest.key"):
        yield path.read_bytes()


def test_a_support_bundle_tells_much_and_no_secret(world: World, lived: Service, tmp_path: Path) -> None:
    place = tmp_path / "bundle.tar.gz"
    environ = {**lived.environment, "DB_PASSWORD": CANARIES[9]}
    log = str(lived.folder / "extra.log")
    command = ["env", *(f"{key}={value}" for key, value in environ.items()), *lived.command, "support-bundle", "-o", str(place), "--log", log, "--log", str(lived.log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    with tarfile.open(place) as archive:
        entries = archive.getmembers()
        contents = {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in entries}  # type: ignore[union-attr]
    assert {entry.mode for entry in entries} == {0o600}
    everything = b"\n".join([*contents.values(), *(entry.name.encode() for entry in entries), done.stdout.encode(), done.stderr.encode()])
    for secret in _secrets(world, lived):
        for form in {secret, secret.hex().encode(), base64.b64encode(secret), base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"=")}:
            assert form not in everything, f"{secret[:12]!r} in {[name for name, text in contents.items() if form in text]}"
    for word in (b"count(*)", b"from orders", b"eyJhbGci"):
        assert word not in b"".join(text for name, text in contents.items() if not name.startswith(("schema/", "documents/policy"))), word
    assert {"doctor.json", "status.json", "versions.json", "config.json", "rules.txt", "units.txt", "files.txt", "metrics.txt", "schema/tables.sql", "logs/service.log",
            "documents/targets/crm-db.json", "documents/workloads/support-bot.json", "documents/policy/customer-data.yaml"} <= contents.keys()  # fmt: skip
    assert all(name.encode() in contents["MANIFEST.txt"] for name in contents if name != "MANIFEST.txt")
    assert json.loads(contents["status.json"])["enforcer"]["fence"]["loaded"] is True
    assert json.loads(contents["documents/workloads/support-bot.json"])["environment"] == {"APP_MODE": "[struck out]"}
    assert b"hostagent_events_total" in contents["metrics.txt"]
    assert b"ValueError: [struck out]" in contents["logs/extra.log"]
    assert lived.hostagent("support-bundle", "-o", str(place), check=False).returncode == 1, "nothing is written over"
    assert lived.hostagent("support-bundle", user="dana", check=False).returncode == 77


def test_evidence_that_was_lost_comes_back_from_a_backup_and_the_chains_go_on(lived: Service, tmp_path: Path) -> None:
    assert lived.wait_sql("select 1 from statements where decision = 'allow'")
    place = tmp_path / "evidence.tar.gz"
    said = lived.hostagent("audit", "backup", str(place)).stdout
    assert "proxyd-0: 1 segments" in said
    refused = lived.hostagent("audit", "restore", str(place), check=False)
    assert (refused.returncode, "never written over" in refused.stderr) == (1, True)
    before = lived.sql("select count(*) as n from statements")
    lived.stop()
    state = lived.folder / "state"
    owners = {path.name: (path.stat().st_uid, path.stat().st_mode) for path in (state / "journal").iterdir()}
    shutil.rmtree(state / "journal")
    shutil.rmtree(state / "evidence")
    restored = lived.hostagent("audit", "restore", str(place)).stdout
    assert "The evidence holds." in restored
    assert {path.name: (path.stat().st_uid, path.stat().st_mode) for path in (state / "journal").iterdir()} == owners
    lived.start()
    assert lived.sql("select count(*) as n from statements") == before
    assert lived.launch(*environment(lived), "psql", "-XAtc", "select 1", timeout=60).returncode == 0
    assert lived.wait_sql(f"select 1 from statements having count(*) > {before[0]['n']}")
    assert lived.hostagent("audit", "verify").returncode == 0
    done = lived.hostagent("audit", "prune", "--before", "2100-01-01").stdout
    assert "proxyd-0: 0 segments removed" in done, "the one that is being written stays"
