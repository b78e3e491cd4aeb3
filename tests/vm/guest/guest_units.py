"""hostagent installed as units: boot order, hardening, restarts and kills under load, adopted services, uninstall.

Nothing here is in a namespace of its own: this machine lives for one run. The last test takes everything off the host again.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stage import World
from tests.stage.world import DATABASE_NAME, REPOSITORY, wait_for
from tests.vm.guest.conftest import Governed, sh
from tests.vm.guest.installed import (
    COMMAND,
    LATE,
    REPORTS,
    REPORTS_UNIT,
    SLICE,
    UNITS,
    add_person,
    ask,
    ask_softly,
    come_back,
    dialling,
    hostagent,
    in_transaction,
    journal,
    judged,
    leaf_pids,
    leaves,
    main_pid,
    served,
    show,
    up,
    write_documents,
)

_EXPOSURE = {"hostagent-enforcerd": 8.9, "hostagent-proxyd": 2.5, "hostagent-recorderd": 2.0, "hostagent-secrets@x": 3.0, "hostagent-anchor": 1.0}
"""The most that ``systemd-analyze security`` may say (10 is worst); systemd/README.md explains every exception."""


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The units in place, then the database host behind its wire, with sinks, and documents at their usual places."""
    sh(str(REPOSITORY / "systemd/install.sh"))
    add_person()
    with World() as built:
        # Compiling eBPF takes an emulated processor a minute at each start of enforcerd; the other suites have it.
        write_documents('[enforcement]\nbpf = "off"\nfirewall = "nft"\n[verify]\nevery_s = 0\n')
        yield built


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
    hostagent("verify")
    done = ask("support", "select 1")
    assert done == "1"


@pytest.mark.parametrize("unit", sorted(_EXPOSURE))
def test_a_units_exposure_is_bounded(units: World, unit: str, record_property: Callable[[str, object], None]) -> None:
    said = sh("systemd-analyze", "security", "--no-pager", f"{unit}.service", check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found, said
    record_property("exposure", found[1])
    print(f"\nexposure of {unit}: {found[1]}", file=sys.__stderr__)
    assert float(found[1]) <= _EXPOSURE[unit], said


def test_log_entries_have_their_priority_and_fields(units: World) -> None:
    said = sh("journalctl", "-u", "hostagent-enforcerd", "-o", "verbose", "--no-pager", "LOGGER=hostagent.enforcerd")
    assert "PRIORITY=6" in said
    assert "SYSLOG_IDENTIFIER=hostagent-enforcerd" in said
    assert "MESSAGE=fence up, ready" in said


@pytest.mark.parametrize("workload", ["support", "support-shared"])
def test_a_leaf_is_a_scope_that_systemd_made_and_removes(units: World, workload: str) -> None:
    session = Governed(COMMAND, workload)
    assert session.ask("select 1;") == "1"
    (leaf,) = [path for path in SLICE.iterdir() if re.fullmatch(f"{workload}-[0-9a-f]{{8}}\\.scope", path.name)]
    found = show(leaf.name, "ActiveState", "Delegate", "Slice", "Transient", "Description")
    assert found == {"ActiveState": "active", "Delegate": "yes", "Slice": "governed.slice", "Transient": "yes", "Description": "Governed workload"}
    before = SLICE.stat().st_ino, leaf.stat().st_ino
    sh("systemctl", "daemon-reload")
    assert (SLICE.stat().st_ino, leaf.stat().st_ino) == before
    assert session.ask("select 2;") == "2"
    assert session.close() == 0
    wait_for(lambda: not leaf.exists(), "the scope's end", 300)
    assert leaf.name not in sh("systemctl", "list-units", "--all", "--plain", "--no-legend")


def test_neither_slice_nor_anchor_can_be_stopped_by_hand(units: World) -> None:
    for unit in ("governed.slice", "hostagent-anchor.service"):
        refused = subprocess.run(["systemctl", "stop", unit], capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode != 0
        assert "may be requested by dependency only" in refused.stderr
        assert show(unit, "ActiveState") == {"ActiveState": "active"}
    before = SLICE.stat().st_ino
    sh("systemctl", "kill", "--signal=KILL", "hostagent-anchor.service")
    wait_for(lambda: show("hostagent-anchor.service", "SubState")["SubState"] == "running", "the anchor", 300)
    assert SLICE.stat().st_ino == before


# -- restarts, crashes, and a loop that hangs -----------------------------------------------------------------------------------


def test_a_planned_restart_of_the_proxy_refuses_no_dial_and_lets_an_open_transaction_finish(
    units: World, record_property: Callable[[str, object], None]
) -> None:
    late = journal("hostagent-enforcerd", LATE)
    with dialling("support-shared") as dials, in_transaction("support") as session:
        former = main_pid("hostagent-proxyd")
        sh("systemctl", "restart", "--no-block", "hostagent-proxyd")
        wait_for(lambda: show("hostagent-proxyd", "ActiveState")["ActiveState"] == "deactivating", "the drain", 300)
        answers = [session.ask("select 'still here';") for _ in range(3)]
        assert "still here" in answers, answers
        assert session.ask("commit;") in ("still here", "COMMIT")
        come_back("hostagent-proxyd", former)
        counts = [each.counts() for each in dials]
        record_property("dials", str(counts))
        judged(counts, late)
    assert units.sink_lines() == []
    assert ask("support", "select 2") == "2"


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_another_enforcerd_goes_on_with_the_workloads_and_refuses_and_leaks_nothing(
    units: World, how: str, record_property: Callable[[str, object], None]
) -> None:
    late = journal("hostagent-enforcerd", LATE)
    with dialling("support", "support-shared") as dials, in_transaction("support") as isolated, in_transaction("support-shared") as shared:
        before, former, proxy = leaf_pids(), main_pid("hostagent-enforcerd"), main_pid("hostagent-proxyd")
        if how == "kill":
            sh("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "hostagent-enforcerd")
        else:
            sh("systemctl", "restart", "--no-block", "hostagent-enforcerd")
        answers = [each.ask("select 'meanwhile';") for each in (isolated, shared) for _ in range(3)]
        come_back("hostagent-enforcerd", former)
        assert answers.count("meanwhile") >= 4, answers
        assert main_pid("hostagent-proxyd") == proxy
        assert leaf_pids() == before
        wait_for(served, "the proxy to be attached again", 300)
        assert [each.ask("select 'after';") for each in (isolated, shared) for _ in range(3)].count("after") >= 4
        counts = [each.counts() for each in dials]
        judged(counts, late)
        assert [isolated.close(), shared.close()] == [0, 0]
    record_property("dials", str(counts))
    assert units.sink_lines() == []


@pytest.mark.parametrize("unit", UNITS)
def test_a_killed_daemon_is_started_again_and_nothing_leaks(units: World, unit: str) -> None:
    with dialling("support") as (dials,):
        former = main_pid(unit)
        sh("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
        come_back(unit, former)
        counts = dials.counts()
    assert not any("LEAK" in key for key in counts), counts
    assert units.sink_lines() == []
    wait_for(lambda: ask_softly("support", "select 3") == "3", "service to come back", 300)


def test_a_loop_that_hangs_is_found_by_the_watchdog(units: World) -> None:
    former = main_pid("hostagent-proxyd")
    os.kill(former, signal.SIGSTOP)
    come_back("hostagent-proxyd", former)
    assert "Watchdog timeout" in sh("journalctl", "-u", "hostagent-proxyd", "--no-pager", "-b")
    wait_for(lambda: ask_softly("support", "select 4") == "4", "service to come back", 300)


# -- services, people and cron ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adopted(units: World) -> Iterator[World]:
    """A service of the host's, governed from its next start on."""
    REPORTS.write_text(REPORTS_UNIT)
    sh("systemctl", "daemon-reload")
    hostagent("adopt", "reports.service", "--workload", "support")
    yield units
    sh("systemctl", "stop", "reports.service", check=False)
    if Path("/usr/bin/hostagent").exists():
        hostagent("unadopt", "reports.service", check=False)
    REPORTS.unlink()
    sh("systemctl", "daemon-reload")


def test_an_adopted_service_is_governed_and_keeps_its_arguments_environment_and_log(adopted: World) -> None:
    sh("systemctl", "start", "reports.service")
    wait_for(lambda: journal("reports.service", "123456790") == 1, "its answer from the database", 300)
    assert journal("reports.service", "args ['two words', '100%', 'blue'] blue 64") == 1
    (leaf,) = leaves("support")
    inside = (SLICE / leaf / "cgroup.procs").read_text().split()
    assert str(main_pid("reports.service")) not in inside
    assert show("reports.service", "Slice") == {"Slice": "system.slice"}
    assert "hostagent-enforcerd.service" in show("reports.service", "After")["After"]
    sh("systemctl", "reload", "reports.service")
    wait_for(lambda: journal("reports.service", "reloaded") == 1, "the reload", 300)


def test_an_adopted_services_restart_failure_and_stop_are_systemds(adopted: World) -> None:
    sh("systemctl", "restart", "reports.service")
    wait_for(lambda: journal("reports.service", "123456790") == 2, "its second answer", 300)
    (leaf,) = leaves("support")
    for pid in (SLICE / leaf / "cgroup.procs").read_text().split():
        if "time.sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
            os.kill(int(pid), signal.SIGSEGV)
    wait_for(lambda: journal("reports.service", "123456790") == 3, "its third answer, after it crashed", 300)
    assert "status=11/SEGV" in sh("journalctl", "-b", "--no-pager", "-g", "reports.service: Main process exited")
    sh("systemctl", "stop", "reports.service")
    assert show("reports.service", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    wait_for(lambda: not leaves("support"), "its scope's end", 300)


def test_an_adopted_service_goes_on_when_enforcerd_is_restarted(adopted: World) -> None:
    before = journal("reports.service", "123456790")
    sh("systemctl", "start", "reports.service")
    wait_for(lambda: journal("reports.service", "123456790") == before + 1, "its answer", 300)
    former, launcher, running = main_pid("hostagent-enforcerd"), main_pid("reports.service"), leaf_pids()
    sh("systemctl", "restart", "hostagent-enforcerd")
    come_back("hostagent-enforcerd", former)
    assert (main_pid("reports.service"), leaf_pids()) == (launcher, running)
    reloads = journal("reports.service", "reloaded")
    sh("systemctl", "reload", "reports.service")
    wait_for(lambda: journal("reports.service", "reloaded") == reloads + 1, "the reload", 300)
    sh("systemctl", "stop", "reports.service")
    wait_for(lambda: not leaves("support"), "its scope's end", 300)
    assert show("reports.service", "Result") == {"Result": "success"}
    assert adopted.sink_lines() == []


def test_what_cannot_be_governed_is_refused(adopted: World) -> None:
    refused = subprocess.run(["/usr/bin/hostagent", "adopt", "cron.service", "--workload", "support"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "nothing was changed" in refused.stderr or "refused:" in refused.stderr
    refused = subprocess.run(["/usr/bin/hostagent", "adopt", "dbus.service", "--workload", "support"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "refused: it is started by a socket unit" in refused.stderr
    assert not Path("/etc/systemd/system/dbus.service.d").exists()


def test_a_login_shell_and_a_line_of_cron_are_governed(units: World) -> None:
    said = sh("su", "--shell", "/usr/bin/hostagent-login", "dana", "--command", "id -un; cut -d: -f3 /proc/self/cgroup; echo $0")
    assert said.splitlines()[0] == "dana"
    query = f'psql -X -At "host={DATABASE_NAME} dbname=crm user=crm_app sslmode=require" -c "select 77 as by_cron"'
    Path("/etc/cron.d/governed").write_text(f"* * * * * dana /usr/bin/hostagent run --workload dana --no-tty -- {query}\n")
    sh("systemctl", "start", "cron")
    question = "select 1 as found from statements where workload = 'dana' and \"text\" like '%by_cron%'"
    wait_for(lambda: sh("/usr/bin/hostagent", "sql", "--json", question, check=False).count("found") > 0, "a row of cron's", 300)
    Path("/etc/cron.d/governed").unlink()


# -- the end ----------------------------------------------------------------------------------------------------------------------


def test_a_stop_leaves_the_fence_and_a_governed_service_brings_everything_up_before_itself(adopted: World) -> None:
    sh("systemctl", "start", "reports.service")
    sh("systemctl", "stop", "hostagent.target")
    wait_for(lambda: not any(main_pid(unit) for unit in UNITS), "the daemons' end", 300)
    assert "table inet hostagent" in sh("nft", "list", "tables")
    assert SLICE.is_dir()
    assert show("reports.service", "ActiveState") == {"ActiveState": "inactive"}
    before = journal("reports.service", "123456790")
    sh("systemctl", "start", "--no-block", "reports.service")
    wait_for(lambda: journal("reports.service", "123456790") == before + 1, "its answer", 300)
    fence = sh("journalctl", "-b", "-o", "short-unix", "--no-pager", "MESSAGE=fence up, ready").splitlines()[-1]
    answer = sh("journalctl", "-b", "-o", "short-unix", "--no-pager", "-u", "reports.service", "-g", "^args").splitlines()[-1]
    assert float(fence.split()[0]) < float(answer.split()[0])
    sh("systemctl", "start", "--no-block", "hostagent.target")
    wait_for(up, "the others", 300)


def test_uninstall_leaves_nothing_in_the_kernel_and_says_what_stays(units: World) -> None:
    said = hostagent("uninstall", "--yes")
    assert "stays   accounts hostagent, hostagent-rec" in said
    assert "LEFT" not in said
    assert "hostagent" not in sh("nft", "list", "tables")
    assert not SLICE.exists()
    assert not list(Path("/sys/fs/bpf").glob("hostagent*"))
    assert {unit: show(unit, "ActiveState")["ActiveState"] for unit in UNITS} == dict.fromkeys(UNITS, "inactive")
    assert sh("systemctl", "is-enabled", "hostagent.target", check=False) == "disabled"
    assert not list(Path("/run/systemd/transient").glob("*support*"))
    sh(str(REPOSITORY / "systemd/install.sh"), "--remove")
    assert not [path for path in Path("/etc/systemd/system").rglob("*hostagent*") if path.name != "hostagent-test.service" and "reports" not in str(path)]
