"""Promises to the operator, with the whole service: status, changed targets and secrets, the published evidence, uninstall."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import duckdb
import pytest

from tests.e2e.conftest import python_of
from tests.e2e.talk import Talk, environment
from tests.stage import Service, Settings, World
from tests.stage.world import wait_for

pytestmark = pytest.mark.e2e

_SILENT = """\
import socket, time
started = time.monotonic()
with socket.create_connection(("crm.internal", 5432)) as silent:
    silent.settimeout(30)
    said = b""
    while chunk := silent.recv(4096):
        said += chunk
print(said[:1], b"the login was not complete within 2 s" in said, time.monotonic() - started < 10)
"""
_ASK = ["psql", "-XAtc", "select count(*) from orders"]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(toml="[limits]\nlogin_timeout_s = 2\n")


def _supervisor(service: Service) -> int:
    status = Path(f"/proc/{service.pid('enforcerd')}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("PPid:")).split()[1])


def _report(service: Service) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(service.hostagent("status", "--json", check=False).stdout)
    return report


def _proxy_after(service: Service, former: int) -> bool:
    try:
        return service.pid("proxyd") != former and bool(_report(service)["proxy"])
    except RuntimeError:
        return False


def _reload(service: Service) -> None:
    os.kill(_supervisor(service), signal.SIGHUP)


def test_status_tells_both_sides_to_people_and_to_programs(service: Service) -> None:
    shown = service.hostagent("status").stdout
    for word in ("fence     up", "proxy     proxyd-0", "in force", "targets   crm-db", "held      0", "evidence  written"):
        assert word in shown, shown
    report = _report(service)
    policy = report["service"].pop("policy")
    version = report["service"].pop("version")
    assert report["service"].pop("journal") == {"budget_mib": 4096, "tight": False, "workloads": {}}
    assert report["service"] == {"policy_problem": "", "workloads_problem": "", "targets": ["crm-db"], "unusable": [], "pending": [], "leaves": [], "held": 0}
    assert len(policy) >= 12
    assert version in service.hostagent("--version").stdout


@pytest.mark.parametrize(
    ("place", "text", "told"),
    [
        ("policy", "version: 1\nrules: [{id: x, tehn: allow}]\n", "broken.yaml:2"),
        ("workloads", "launchers: [root]\nplacment: shared\n", "broken:2: placment"),
    ],
)
def test_status_fails_while_a_document_on_disk_is_refused(place: str, text: str, told: str, service: Service) -> None:
    broken = service.config / place / "broken.yaml"
    broken.write_text(text, encoding="utf-8")
    try:
        wait_for(lambda: service.hostagent("status", check=False).returncode == 1, "the refusal")
        assert told in service.hostagent("status", check=False).stdout
    finally:
        broken.unlink()
    wait_for(lambda: service.hostagent("status", check=False).returncode == 0, "the good documents")


def test_every_listing_has_a_form_for_programs(service: Service) -> None:
    commands = ["target list", "identity list", "approvals list", "sessions list", "doctor", "status", "policy check"]
    for command in commands:
        json.loads(service.hostagent(*command.split(), "--json", check=False).stdout)
    assert json.loads(service.hostagent("sql", "--json", "select 1 as one").stdout) == [{"one": 1}]
    assert service.hostagent("sql", "--csv", "select 1 as one").stdout == "one\n1\n"


def test_a_changed_credential_and_a_new_target_are_taken_on_a_reload_and_wrong_ones_change_nothing(
    world: World, service: Service
) -> None:
    secret = world.folder / "crm-password"
    old = secret.read_text(encoding="utf-8")
    document = service.config / "targets" / "second.yaml"
    text = (service.config / "targets" / "crm-db.yaml").read_text(encoding="utf-8")
    world.superuser_sql("alter role crm_proxy password 'another-one'")
    try:
        failed = service.launch(*environment(service), *_ASK, timeout=60)
        assert failed.returncode == 2
        assert "crm_proxy" not in failed.stderr + failed.stdout
        proxy = service.pid("proxyd")
        secret.chmod(0o644)
        _reload(service)
        wait_for(lambda: "must belong to root with mode 0600" in service.log.read_text(encoding="utf-8"), "the refusal")
        refused = service.hostagent("reload", check=False)
        assert (refused.returncode, "must belong to root with mode 0600" in refused.stderr) == (1, True)
        secret.chmod(0o600)
        secret.write_text("another-one\n", encoding="utf-8")
        document.write_text(text.replace("port: 5432", "port: 5433"), encoding="utf-8")
        taken = service.hostagent("reload").stdout.splitlines()
        assert taken == ["target second: new", "target crm-db: another credential, from the next login on"]
        assert service.pid("proxyd") == proxy
        assert service.launch(*environment(service), *_ASK, timeout=60).returncode == 0
        assert "second: postgres" in service.hostagent("target", "list").stdout
        assert _report(service)["service"]["targets"] == ["crm-db", "second"]
    finally:
        document.unlink(missing_ok=True)
        secret.write_text(old, encoding="utf-8")
        secret.chmod(0o600)
        world.superuser_sql(f"alter role crm_proxy password '{old.strip()}'")
        service.hostagent("reload")


def test_a_reload_leaves_sessions_in_peace_and_serves_a_new_target_to_a_program_that_runs(service: Service) -> None:
    document = service.config / "targets" / "second.yaml"
    text = (service.config / "targets" / "crm-db.yaml").read_text(encoding="utf-8")
    with Talk(service) as talk, Talk(service) as newcomer:
        talk.connect()
        try:
            document.write_text(text.replace("hosts: [crm.internal, ", "hosts: [database.internal, "), encoding="utf-8")
            assert any("second and" in line or "crm-db and second" in line for line in _report(service)["service"]["pending"])
            clash = service.hostagent("reload", check=False)
            assert (clash.returncode, "both claim 10.77.0.2:5432" in clash.stderr) == (1, True), clash.stderr
            assert talk.sql("select 1")["rows"] == [[1]]
            (service.config / "targets" / "crm-db.yaml").write_text(text.replace("crm.internal, 10.77.0.2, ", ""), encoding="utf-8")
            document.write_text(text.replace("hosts: [crm.internal, ", "hosts: [database.internal, ").replace(', "fd77::2"', ""), encoding="utf-8")
            changed = service.hostagent("reload").stdout.splitlines()
            assert changed[:2] == ["target second: new", "target crm-db: changed, its sessions end"]
            assert changed[2].startswith("note: database.internal does not resolve")
            assert "error" in talk.sql("select 1")  # its target's document is another one now
            assert newcomer.connect(dsn="host=10.77.0.2") == {"on": "a", "id": 1, "seconds": ANY, "connected": True}
            assert newcomer.sql("select 1")["rows"] == [[1]]
        finally:
            (service.config / "targets" / "crm-db.yaml").write_text(text, encoding="utf-8")
            document.unlink(missing_ok=True)
            service.hostagent("reload")
        assert "error" in newcomer.sql("select 1")


def test_a_running_program_resolves_the_name_of_a_new_target_at_once_and_of_a_removed_one_no_longer(world: World, service: Service) -> None:
    hosts, document = world.folder / "hosts", service.config / "targets" / "second.yaml"
    known, text = hosts.read_text(encoding="utf-8"), (service.config / "targets" / "crm-db.yaml").read_text(encoding="utf-8")
    script = 'for i in 1 2 3; do getent -s dns hosts second.internal >/dev/null; echo $?; read -r go; done'
    words = [*service.command, "run", "--workload", "support-bot", "--no-tty", "--", "bash", "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=service.environment, cwd="/") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        heard = [running.stdout.readline()]
        try:
            hosts.write_text(known + "10.77.0.2 second.internal\n", encoding="utf-8")
            document.write_text(text.replace('[crm.internal, 10.77.0.2, "fd77::2"]', "[second.internal]"), encoding="utf-8")
            for step in (lambda: None, document.unlink):
                step()
                service.hostagent("reload")
                running.stdin.write("\n")
                running.stdin.flush()
                heard.append(running.stdout.readline())
        finally:
            hosts.write_text(known, encoding="utf-8")
            document.unlink(missing_ok=True)
            running.stdin.close()
    assert heard == ["2\n", "0\n", "2\n"]


def test_limits_count_after_a_reload_and_what_needs_a_restart_is_pending_until_then(service: Service) -> None:
    file = service.folder / "hostagent.toml"
    text = file.read_text(encoding="utf-8")
    with Talk(service) as talk:
        talk.connect()
        try:
            file.write_text(text.replace("login_timeout_s = 2", "login_timeout_s = 3") + '[metrics]\nlisten = "127.0.0.1:9464"\n', encoding="utf-8")
            before = _report(service)["service"]["pending"]
            assert before == [
                "limits.login_timeout_s: 2.0 -> 3.0 (hostagent reload)",
                "metrics.listen:  -> 127.0.0.1:9464 (counts after a restart of the service)",
            ]
            answer = json.loads(service.hostagent("reload", "--json").stdout)
            assert answer == {"changes": ["limits.login_timeout_s: 2.0 -> 3.0"], "notes": before[1:], "problem": ""}
            assert "pending   metrics.listen" in service.hostagent("status").stdout
            assert talk.sql("select 1")["rows"] == [[1]]
            waiting = file.read_text(encoding="utf-8")
            file.write_text(text + "[limits2]\n", encoding="utf-8")
            assert service.hostagent("reload", check=False).returncode == 78
            before_it_died = service.pid("proxyd")
            os.kill(before_it_died, signal.SIGKILL)
            wait_for(lambda: "what the service was started with counts" in service.log.read_text(encoding="utf-8"), "the next proxy")
            file.write_text(waiting, encoding="utf-8")
            wait_for(lambda: _proxy_after(service, before_it_died), "the next proxy")
            # It counts by what the service was started with, not by what was written since.
            assert before[1] in _report(service)["service"]["pending"]
        finally:
            file.write_text(text, encoding="utf-8")
        service.hostagent("reload")
        assert _report(service)["service"]["pending"] == []
    assert service.wait_sql("from service where change = 'reloaded' and detail like 'limits.login_timeout_s%'")


def test_a_client_that_never_logs_in_is_closed_and_one_that_did_is_left_in_peace(world: World, service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        silent = service.launch(python_of(world), "-c", _SILENT, timeout=60)
        assert silent.stdout == "b'E' True True\n", silent.stdout + silent.stderr
        assert talk.sql("select 1")["rows"] == [[1]]
    assert service.wait_sql("select reason from sessions where reason like 'the login was not complete within 2 s%'")


def test_the_published_evidence_opens_read_only_at_any_time_while_the_service_writes(service: Service) -> None:
    published = service.folder / "state" / "evidence" / "sessions.duckdb"
    counts: list[int] = []
    with Talk(service) as talk:
        talk.connect()
        writing = threading.Thread(target=lambda: [talk.sql(f"select {number}") for number in range(600)])
        writing.start()

        def look() -> bool:
            with duckdb.connect(str(published), read_only=True) as plain:
                row = plain.execute("select count(*) from statements").fetchone()
            assert row is not None
            counts.append(int(row[0]))
            return counts[-1] >= 600

        wait_for(look, "all statements in the published database", 30)
        writing.join(30)
    assert len(set(counts)) > 1, "it grew while it was being read"
    assert counts == sorted(counts)


def test_uninstall_ends_the_whole_service_and_leaves_nothing_in_the_kernel(world: World, service: Service) -> None:
    # The service that is up already has mounted what holds its eBPF programs; that goes too.
    mounts = [each for each in _mounts() if " - bpf hostagent " not in each]
    supervisor = _supervisor(service)
    ours = [supervisor, *(service.pid(name) for name in ("enforcerd", "proxyd", "recorderd"))]
    workload = subprocess.Popen(
        [*service.command, "run", "--workload", "support-bot", "--no-tty", "--", "sleep", "1000"],
        env=service.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for(lambda: [leaf["stage"] for leaf in _report(service)["leaves"]] == ["running"], "the workload")
    slice_path = Path(_report(service)["fence"]["slice"])
    assert slice_path.is_dir()
    assert service.hostagent("uninstall", "--yes").returncode == 0
    workload.communicate(timeout=20)
    wait_for(lambda: all(not _alive(pid) for pid in ours), "the end of all processes", 30)
    assert not slice_path.exists()
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout == ""
    assert [path for path in (service.folder / "run").rglob("*") if not path.is_dir()] == []
    assert _mounts() == mounts


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
