"""After a reboot: the governed service came up governed, behind the fence; the ledger is whole; the package's purge leaves nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.stage import World
from tests.stage.world import wait_for
from tests.vm.guest.before import KEPT, state
from tests.vm.guest.conftest import sh
from tests.vm.guest.installed import (
    REPORTS,
    SECRETS,
    SLICE,
    UNITS,
    ask_softly,
    hostagent,
    journal,
    keep_secrets,
    leaves,
    main_pid,
    show,
    statements,
    up,
)


def moment(*arguments: str) -> float:
    """Return when the first entry of the journal that fits was written, in seconds since the boot."""
    (line, *_) = sh("journalctl", "-b", "-o", "short-monotonic", "--no-pager", *arguments).splitlines()
    return float(line.split("]", 1)[0].lstrip("["))


def test_the_service_came_up_governed_behind_the_fence(record_property: Callable[[str, object], None]) -> None:
    wait_for(up, "the units", 600)
    wait_for(lambda: journal("reports.service", "args") >= 1, "the service", 300)
    fence, first = moment("-u", "hostagent-enforcerd", "-g", "^fence up, ready"), moment("-u", "reports.service", "-g", "^args")
    record_property("seconds after the boot", f"fence {fence:.1f}, the service's first line {first:.1f}")
    assert fence < first
    (leaf,) = leaves("support")
    inside = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (SLICE / leaf / "cgroup.procs").read_text().split()]
    assert any(b"time.sleep" in line for line in inside)
    assert show("reports.service", "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    assert {unit: show(unit, "NRestarts")["NRestarts"] for unit in UNITS} == dict.fromkeys(UNITS, "0")


def test_the_ledger_is_whole_and_holds_what_was_before_the_boot() -> None:
    hostagent("audit", "verify")
    assert statements() >= int(Path("/root/statements").read_text()) > 0


def test_the_boundary_holds_and_the_service_reaches_its_database_again() -> None:
    with World() as world:
        keep_secrets()  # the database host has new certificates
        former = main_pid("hostagent-proxyd")
        sh("systemctl", "restart", "hostagent-proxyd")
        wait_for(lambda: main_pid("hostagent-proxyd") not in (0, former) and up(), "the proxy", 300)
        for workload in ("support", "support-shared"):
            wait_for(lambda workload=workload: ask_softly(workload, "select 4") == "4", f"service for {workload}", 300)
        hostagent("verify")
        assert world.sink_lines() == []


def test_a_purge_leaves_the_machine_as_it_was_before() -> None:
    hostagent("unadopt", "reports.service")
    sh("systemctl", "disable", "--now", "reports.service")
    REPORTS.unlink()
    sh("systemctl", "daemon-reload")
    done = subprocess.run(["dpkg", "--purge", "hostagent"], capture_output=True, text=True, check=False, timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    sh("userdel", "--remove", "dana")
    shutil.rmtree(SECRETS)
    sh("systemctl", "reset-failed", check=False)
    before, after = json.loads(KEPT.read_text()), state()
    assert {name: (before.get(name), after.get(name)) for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {}
