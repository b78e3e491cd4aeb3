"""hostagent installed as units: boot order, hardening, restarts and kills under load, adopted services, uninstall.

Nothing here is in a namespace of its own: this machine lives for one run. The last test takes everything off the host again.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stage import World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, REPOSITORY, wait_for
from tests.vm.guest.conftest import sh

UNITS = ("hostagent-enforcerd", "hostagent-proxyd", "hostagent-recorderd")
_EXPOSURE = {"hostagent-enforcerd": 8.9, "hostagent-proxyd": 2.5, "hostagent-recorderd": 2.0, "hostagent-secrets@x": 3.0, "hostagent-anchor": 1.0}
"""The most that ``systemd-analyze security`` may say (10 is worst); systemd/README.md explains every exception."""
_WORKLOAD = """\
launchers: [root, dana]
identity: {kind: local, groups: [support], purpose: units}
trust_files: [/mnt/stage/company-ca.pem]
"""
_TARGET = f"""\
protocol: postgres
hosts: [{DATABASE_NAME}, {DATABASE_V4}, "{DATABASE_V6}"]
port: 5432
tls: verify
ca_file: /mnt/stage/company-ca.pem
databases: [crm]
users: [crm_app]
login:
  user: crm_proxy
  credential: {{file: /mnt/stage/crm-password}}
labels: {{env: demo}}
"""
_CONFIG = Path("/etc/hostagent")
SLICE = Path("/sys/fs/cgroup/governed.slice")


def hostagent(*words: str, check: bool = True) -> str:
    """Run the installed command as root."""
    return sh("/usr/bin/hostagent", *words, check=check)


def show(unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit."""
    lines = sh("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The units in place, then the database host behind its wire, with sinks, and documents at their usual places."""
    sh(str(REPOSITORY / "systemd/install.sh"))
    with World() as built:
        (_CONFIG / "workloads/support.yaml").write_text(_WORKLOAD)
        (_CONFIG / "workloads/support-shared.yaml").write_text(_WORKLOAD + "placement: shared\n")
        (_CONFIG / "targets/crm-db.yaml").write_text(_TARGET)
        (_CONFIG / "policy/allow-all.yaml").write_text((REPOSITORY / "policy/examples/allow-all.yaml").read_text())
        yield built


def up() -> bool:
    """Whether every unit has said that it is ready."""
    return all(show(unit, "ActiveState")["ActiveState"] == "active" for unit in UNITS)


@pytest.fixture(scope="session")
def units(world: World) -> World:
    """The target started, as a boot does."""
    sh("systemctl", "start", "--no-block", "hostagent.target")
    wait_for(up, "the units", 300)
    return world


def test_the_units_are_correct() -> None:
    files = [str(path) for path in sorted((REPOSITORY / "systemd").glob("hostagent*.*")) if path.suffix in (".service", ".socket", ".target")]
    said = sh("systemd-analyze", "verify", "--man=no", *files, str(REPOSITORY / "systemd/governed.slice"), check=False)
    ours = [line for line in said.splitlines() if "hostagent" in line and "is not executable" not in line]
    assert ours == []


def test_three_daemons_are_up_under_their_own_users_and_the_boundary_holds(units: World) -> None:
    users = {unit: sh("ps", "-o", "user:20=", "-p", show(unit, "MainPID")["MainPID"]) for unit in UNITS}
    assert users == {"hostagent-enforcerd": "root", "hostagent-proxyd": "hostagent", "hostagent-recorderd": "hostagent-rec"}
    assert "passed" in hostagent("verify") or "holds" in hostagent("verify")
    done = ask("support", "select 1")
    assert done == "1"


def ask(workload: str, question: str) -> str:
    """Ask the database as a workload; return its bare answer."""
    query = ["psql", "-X", "-At", f"host={DATABASE_NAME} dbname=crm user=crm_app sslmode=require", "-c", question]
    return hostagent("run", "--workload", workload, "--no-tty", "--", *query)


@pytest.mark.parametrize("unit", sorted(_EXPOSURE))
def test_a_units_exposure_is_bounded(units: World, unit: str) -> None:
    said = sh("systemd-analyze", "security", "--no-pager", f"{unit}.service", check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    print(f"exposure of {unit}: {found[1]}")
    assert float(found[1]) <= _EXPOSURE[unit], said


def test_log_entries_have_their_priority_and_fields(units: World) -> None:
    said = sh("journalctl", "-u", "hostagent-enforcerd", "-o", "verbose", "--no-pager", "LOGGER=hostagent.enforcerd")
    assert "PRIORITY=6" in said
    assert "SYSLOG_IDENTIFIER=hostagent-enforcerd" in said
    assert "MESSAGE=fence up, ready" in said


class Session:
    """A workload that asks the database one question per line that it is given."""

    def __init__(self, workload: str) -> None:
        query = ["psql", "-X", "-At", f"host={DATABASE_NAME} dbname=crm user=crm_app sslmode=require", "-f", "-"]
        command = ["/usr/bin/hostagent", "run", "--workload", workload, "--no-tty", "--", *query]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def ask(self, question: str) -> str:
        """Return one line of answer, empty at the end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> int:
        """Return the exit status."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.mark.parametrize("workload", ["support", "support-shared"])
def test_a_leaf_is_a_scope_that_systemd_made_and_removes(units: World, workload: str) -> None:
    session = Session(workload)
    assert session.ask("select 1;") == "1"
    (leaf,) = [path for path in SLICE.iterdir() if re.fullmatch(f"{workload}-[0-9a-f]{{8}}\\.scope", path.name)]
    found = show(leaf.name, "ActiveState", "Delegate", "Slice", "Transient", "Description")
    assert found == {"ActiveState": "active", "Delegate": "yes", "Slice": "governed.slice", "Transient": "yes", "Description": "Governed workload"}
    before = SLICE.stat().st_ino, leaf.stat().st_ino
    sh("systemctl", "daemon-reload")
    assert (SLICE.stat().st_ino, leaf.stat().st_ino) == before
    assert session.ask("select 2;") == "2"
    assert session.close() == 0
    wait_for(lambda: not leaf.exists(), "the scope's end", 30)
    assert leaf.name not in sh("systemctl", "list-units", "--all", "--plain", "--no-legend")


def test_neither_slice_nor_anchor_can_be_stopped_by_hand(units: World) -> None:
    for unit in ("governed.slice", "hostagent-anchor.service"):
        refused = subprocess.run(["systemctl", "stop", unit], capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode != 0
        assert "may be requested by dependency only" in refused.stderr
        assert show(unit, "ActiveState") == {"ActiveState": "active"}
    before = SLICE.stat().st_ino
    sh("systemctl", "kill", "--signal=KILL", "hostagent-anchor.service")
    wait_for(lambda: show("hostagent-anchor.service", "SubState")["SubState"] == "running", "the anchor", 60)
    assert SLICE.stat().st_ino == before
