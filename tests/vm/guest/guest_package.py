"""The Debian package on a booted Debian: install the older one, govern, upgrade under load, other firewalls' reloads. A reboot follows (`guest_rebooted.py`).

Here eBPF is on, as by default: one enforcerd after the other replaces the programs that hang on the slice.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stage import World
from tests.stage.world import REPOSITORY, wait_for
from tests.vm.guest.before import KEPT, state
from tests.vm.guest.conftest import Governed, sh
from tests.vm.guest.installed import (
    COMMAND,
    LATE,
    REPORTS,
    REPORTS_UNIT,
    UNITS,
    add_person,
    ask,
    ask_softly,
    dialling,
    hostagent,
    journal,
    judged,
    keep_secrets,
    leaf_pids,
    main_pid,
    served,
    show,
    statements,
    up,
    write_documents,
)
from tests.vm.packages import OLD

_PACKAGES = REPOSITORY / ".vm-files"
_TOML = '[enforcement]\nfirewall = "nft"\n[verify]\nevery_s = 0\n'


def install(name: str) -> str:
    """Install one of the two packages as dpkg does, keeping changed configuration."""
    command = ["dpkg", "--force-confold", "-i", str(_PACKAGES / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The older package, a person's account, the database host, documents; a service that is governed and enabled."""
    KEPT.write_text(json.dumps(state()))
    add_person()
    said = install("old.deb")
    assert "does not load" not in said
    wait_for(up, "the units", 600)
    with World() as built:
        write_documents(_TOML, keep_secrets())
        hostagent("reload")
        yield built


def test_the_older_package_governs_as_units(world: World) -> None:
    assert hostagent("--version") == f"hostagent, version {OLD}"
    assert sh("systemctl", "is-enabled", "hostagent.target") == "enabled"
    assert ask("support", "select 1") == "1"
    assert ask("support-shared", "select 1") == "1"
    hostagent("verify")


def test_a_service_is_adopted_and_enabled(world: World) -> None:
    REPORTS.write_text(REPORTS_UNIT + "[Install]\nWantedBy=multi-user.target\n")
    sh("systemctl", "daemon-reload")
    hostagent("adopt", "reports.service", "--workload", "support")
    sh("systemctl", "enable", "--now", "reports.service")
    wait_for(lambda: journal("reports.service", "123456790") == 1, "its answer", 300)


def test_an_upgrade_under_load_ends_no_workload_refuses_no_dial_and_leaks_nothing(world: World, record_property: Callable[[str, object], None]) -> None:
    late = journal("hostagent-enforcerd", LATE)
    with dialling("support", "support-shared") as dials, Governed(COMMAND, "support") as session:
        assert session.ask("select 'before';") == "before"
        before, former = leaf_pids(), {unit: main_pid(unit) for unit in UNITS}
        launcher = main_pid("reports.service")
        record_property("dpkg", install("new.deb"))
        wait_for(lambda: all(main_pid(unit) not in (0, former[unit]) for unit in UNITS) and up(), "the newer units", 600)
        assert hostagent("--version") != f"hostagent, version {OLD}"
        assert leaf_pids() == before
        assert main_pid("reports.service") == launcher
        wait_for(served, "the proxy to serve them", 300)
        assert ask("support", "select 2") == "2"
        counts = [each.counts() for each in dials]
        record_property("dials", str(counts))
        judged(counts, late)
    assert world.sink_lines() == []


def _asked(command: str) -> None:
    """Run a command of another firewall's. firewalld goes on where a slow machine makes its own client give up the wait for its answer."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=300)
    late = command.startswith("firewall-cmd ") and "Did not receive a reply" in done.stderr
    assert done.returncode == 0 or late, (command, done.returncode, done.stdout, done.stderr)
    if late:
        wait_for(lambda: sh("firewall-cmd", "--state", check=False) == "running", "firewalld's answer", 300)


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(["systemctl restart nftables", "nft -f /etc/nftables.conf", "systemctl stop nftables"], id="nft"),
        pytest.param(
            ["systemctl start firewalld", "firewall-cmd --reload", "firewall-cmd --complete-reload", "systemctl restart firewalld", "systemctl stop firewalld"],
            id="firewalld",
        ),
        pytest.param(["ufw --force enable", "ufw reload", "ufw --force disable"], id="ufw"),
    ],
)  # fmt: skip
def test_another_firewalls_reload_leaks_nothing_and_service_comes_back(
    world: World, commands: list[str], record_property: Callable[[str, object], None]
) -> None:
    launcher = main_pid("reports.service")
    with dialling("support", "support-shared") as dials:
        for command in commands:
            _asked(command)
        wait_for(lambda: "table inet hostagent" in sh("nft", "list", "tables"), "the table to be loaded again", 300)
        assert main_pid("reports.service") == launcher
        for workload in ("support", "support-shared"):
            wait_for(lambda workload=workload: ask_softly(workload, "select 3") == "3", f"service for {workload}", 300)
        counts = [each.counts() for each in dials]
    record_property("dials", str(counts))
    assert not any("LEAK" in key for found in counts for key in found), counts
    # No workload ended, whatever the commands flushed while the rules were being loaded again, and no dial hung.
    assert all(found.get("5432 taken", 0) > 0 for found in counts), counts
    assert not any(key.startswith("5432 Timeout") for found in counts for key in found), counts
    assert world.sink_lines() == []
    assert show("reports.service", "ActiveState") == {"ActiveState": "active"}


def test_the_records_so_far_are_provable(world: World) -> None:
    wait_for(lambda: statements() > 0, "statements in the evidence", 300)
    hostagent("audit", "verify")
    Path("/root/statements").write_text(str(statements()))
