"""What only a host with systemd can show: nothing that runs outside does a workload's work, and systemd leaves our slice alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.stage import Service, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, wait_for
from tests.vm.guest.conftest import ENGINE, MARKS, Governed, as_dana, sh
from tests.vm.guest.guest_hostile import PLACES, SOCKETS, commands

SLICE = Path("/sys/fs/cgroup/governed.slice")
# The attacks of tests/bypass that only such a machine shows with the real thing.
_NUMBERS = {
    "9": ("resolvectl", "resolved-varlink"),
    "32": ("systemd-run", "transient-unit-", "systemctl", "loginctl", "system-bus", "systemd-private", "user-", "userdb"),
    "33": ("at", "batch", "crontab", "cron-", "system-unit", "transient-unit", "profile", "authorized-keys", "linger", "tmpfiles"),
    "35": ("podman", "docker"),
}
WORKLOADS = ("isolated", "shared", "login", "login-shared")
HEARD: list[str] = []
"""What the sinks heard of programs outside of every workload."""
_QUERY = ["psql", "-X", "-At", f"host={DATABASE_NAME} dbname=crm user=crm_app sslmode=require", "-c"]


def ask(service: Service, workload: str, question: str) -> subprocess.CompletedProcess[str]:
    return service.launch(*_QUERY, question, workload=workload)


def governed_by(service: Service, workload: str) -> Governed:
    return Governed(service.command, workload, service.environment)


def attempts(names: Iterable[str]) -> list[object]:
    """Return the names as parameters, marked with the number of the attack that each belongs to."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.attack(number) for number, starts in _NUMBERS.items() if name.startswith(starts)]

    return [pytest.param(name, marks=marks(name)) for name in sorted(names)]


# -- the machine -------------------------------------------------------------------------------------------------------------


def test_this_is_the_machine_that_the_suite_is_for() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert sh("stat", "-f", "-c", "%T", "/sys/fs/cgroup") == "cgroup2fs"
    assert sh("uname", "-r").startswith("6.1.")
    assert "bpf" in Path("/sys/kernel/security/lsm").read_text().split(",")
    assert sh("systemctl", "is-system-running", check=False) == "running"


def test_the_doctor_finds_nothing_missing_on_debian_with_systemd(service: Service) -> None:
    done = service.hostagent("doctor", check=False)
    assert done.returncode in (0, 1), done.stdout
    assert "\nfail" not in f"\n{done.stdout}"


def test_status_says_that_this_kernel_cannot_own_the_table(service: Service) -> None:
    assert "the nft table is not owned (kernel below 6.9)" in service.hostagent("status").stdout


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_legitimate_query_works_and_is_on_record(service: Service, workload: str) -> None:
    question = f"select count(*), '{workload}' from customers"
    done = ask(service, workload, question)
    assert (done.returncode, done.stdout.endswith(f"|{workload}\n")) == (0, True), (done.stdout, done.stderr)
    assert service.wait_sql(f"select 1 from statements where workload = '{workload}' and decision = 'allow'", 60)


_WORKS_OUTSIDE = ("systemd-run-user", "transient-unit-user", "systemctl-set-environment", "at", "crontab", "podman-socket")


# -- somebody else is to do it -----------------------------------------------------------------------------------------------



@pytest.fixture(scope="module")
def harmless_outside(world: World) -> dict[str, str]:
    """The same program, run by the login user outside."""
    program = [str(world.repository / "tests/vm/guest/guest_hostile.py"), str(MARKS), DATABASE_V4, str(ENGINE), "outside"]
    done = as_dana("/usr/bin/python3", "-I", *program)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout)
    for name in _WORKS_OUTSIDE:
        assert outcomes[name].startswith("status 0"), (name, outcomes[name])
    marks = {"systemd-run-user", "transient-unit-user", "at"}
    wait_for(lambda: {each.name for each in MARKS.iterdir()} >= marks, "the marks", 60)
    as_dana("crontab", "-r")
    as_dana("systemctl", "--user", "unset-environment", "HOSTILE")
    for job in sh("atq").splitlines():  # batch waits for an idle machine
        sh("atrm", job.split()[0])
    for mark in MARKS.iterdir():
        mark.unlink()
    HEARD[:] = world.sink_lines()  # what it asked the sink itself
    return outcomes


def test_outside_of_a_workload_these_attacks_work(harmless_outside: dict[str, str]) -> None:
    for name in _WORKS_OUTSIDE:
        assert harmless_outside[name].startswith("status 0"), (name, harmless_outside[name])
    for name in ("system-bus", "user-bus", "user-systemd", "resolved-varlink", "journal-stdout", "syslog"):
        assert harmless_outside[f"dial-{name}"].startswith("REACHED"), (name, harmless_outside[f"dial-{name}"])
    assert harmless_outside["dial-engine"].startswith("REACHED")


@pytest.fixture(scope="module", params=WORKLOADS)
def attempted(request: pytest.FixtureRequest, service: Service, harmless_outside: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The outcomes of the hostile program as a workload."""
    program = [str(service.world.repository / "tests/vm/guest/guest_hostile.py"), str(MARKS), DATABASE_V4, str(ENGINE), f"of-{request.param}"]
    before = transactions()
    done = service.launch("/usr/bin/python3", "-I", *program, workload=request.param)
    assert done.returncode == 0, done.stderr
    assert transactions() == before, "the host's resolver was asked"
    return request.param, json.loads(done.stdout)


def transactions() -> int:
    """Return how many queries systemd-resolved has been asked."""
    found = re.search(r"Total Transactions: (\d+)", sh("resolvectl", "--no-pager", "statistics"))
    assert found
    return int(found[1])


@pytest.mark.parametrize("name", attempts(commands()))
def test_nothing_outside_runs_it_for_a_workload(attempted: tuple[str, dict[str, str]], name: str) -> None:
    outcome = attempted[1][name]
    assert re.match(r"(status (?!0:)-?\d+: |E[A-Z]+$)", outcome), outcome


@pytest.mark.parametrize("name", attempts(SOCKETS))
def test_no_socket_of_the_host_answers(attempted: tuple[str, dict[str, str]], name: str) -> None:
    assert attempted[1][f"dial-{name}"] in ("ENOENT", "EACCES", "turned away")


@pytest.mark.parametrize("name", attempts(PLACES))
def test_nothing_is_left_for_later(attempted: tuple[str, dict[str, str]], name: str) -> None:
    """What is written goes to a private place: the host's is read-only or absent."""
    outcome = attempted[1][f"write-{name}"]
    assert outcome in ("EROFS", "EACCES", "EPERM", "ENOENT"), outcome
    if not PLACES[name].startswith(("/proc", "/sys")):
        assert not Path(PLACES[name]).exists() or f"of-{attempted[0]}" not in Path(PLACES[name]).read_text()


@pytest.mark.attack("9")
def test_the_stub_resolver_is_not_reached(attempted: tuple[str, dict[str, str]]) -> None:
    for name in ("stub-resolver", "stub-proxy", "resolver-elsewhere"):
        assert attempted[1][name] == "rcode 3 answers 0"


@pytest.mark.attack("35")
def test_an_engines_socket_in_view_turns_away_and_each_dial_is_a_row(service: Service, attempted: tuple[str, dict[str, str]]) -> None:
    workload, outcomes = attempted
    assert outcomes["dial-engine"] == "turned away"
    assert service.wait_sql(f"select 1 from refusals where workload = '{workload}' and layer = 'mount' and destination = '{ENGINE}'", 60)


@pytest.mark.attack("9", "32", "33", "35")
def test_nothing_came_of_any_of_it(service: Service, attempted: tuple[str, dict[str, str]]) -> None:
    sh("systemctl", "start", "cron")
    assert [each.name for each in MARKS.iterdir()] == []
    assert service.world.sink_lines() == HEARD
    assert sh("atq") == ""
    assert as_dana("crontab", "-l").returncode != 0
    assert f"of-{attempted[0]}" not in sh("systemctl", "list-units", "--all", "--plain", "--no-legend")
    assert "HOSTILE" not in as_dana("systemctl", "--user", "show-environment").stdout
    assert ask(service, attempted[0], "select 1").stdout == "1\n"


# -- systemd and our slice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["isolated", "shared"])
@pytest.mark.parametrize("job", ["daemon-reload", "daemon-reexec"])
def test_systemds_own_housekeeping_leaves_slice_and_leaves_alone(service: Service, placement: str, job: str) -> None:
    governed = governed_by(service, placement)
    assert governed.ask("select 1;") == "1"
    before = {path: path.stat().st_ino for path in (SLICE, *(each for each in SLICE.iterdir() if each.is_dir()))}
    assert len(before) >= 3, "the slice, its anchor, a leaf"
    sh("systemctl", job)
    # A unit that comes and goes makes systemd clean up the cgroups of its own.
    sh("systemd-run", "--wait", "--slice=passing.slice", "--collect", "true")
    assert {path: path.stat().st_ino for path in before} == before
    assert governed.ask("select 2;") == "2"
    assert governed.close() == 0
    assert ask(service, placement, "select 3").stdout == "3\n"


@pytest.mark.parametrize("placement", ["isolated", "shared"])
def test_a_unit_of_the_slices_name_is_started_and_stopped(service: Service, placement: str) -> None:
    """systemd then takes the folder for its own: whatever becomes of it, nothing leaks and service comes back."""
    governed = governed_by(service, placement)
    assert governed.ask("select 1;") == "1"
    sh("systemctl", "start", "governed.slice")
    assert governed.ask("select 2;") == "2"
    sh("systemctl", "stop", "governed.slice")
    # It may go on under its rules or be ended; it may not be left without them.
    assert governed.ask("select 3;") in ("3", "")
    governed.close()
    assert service.world.sink_lines() == HEARD
    # Now nothing holds the folders: systemd removes them all, and whoever starts next gets new ones with new rules.
    sh("systemctl", "start", "governed.slice")
    sh("systemctl", "stop", "governed.slice")
    wait_for(lambda: ask(service, placement, "select 4").stdout == "4\n", "service to come back", 180)
    assert service.world.sink_lines() == HEARD


def as_a_unit(service: Service) -> None:
    """Let systemd run the service instead of the test."""
    service.stop()
    environment = [f"--setenv={key}={value}" for key, value in service.environment.items()]
    sh("systemctl", "reset-failed", "hostagent-up", check=False)
    sh("systemd-run", "--unit=hostagent-up", "--property=KillMode=mixed", *environment, *service.command, "up")
    wait_for(lambda: service.hostagent("status", check=False).returncode == 0, "hostagent as a unit", 180)


def test_hostagent_as_a_unit_that_is_killed_leaves_the_fence_up(service: Service) -> None:
    """systemd kills the unit's whole cgroup at once; the leaf is not in it, and what runs there reaches nobody."""
    as_a_unit(service)
    governed = governed_by(service, "shared")
    assert governed.ask("select 1;") == "1"
    sh("systemctl", "kill", "--signal=KILL", "hostagent-up")
    wait_for(lambda: sh("systemctl", "is-active", "hostagent-up", check=False) == "failed", "its end", 30)
    assert "table inet hostagent" in sh("nft", "list", "tables")
    assert "socket cgroupv2" in sh("nft", "list", "table", "inet", "hostagent")
    governed.process.kill()
    governed.close()
    sh("systemctl", "reset-failed", "hostagent-up")
    service.start()
    assert ask(service, "shared", "select 3").stdout == "3\n"
    assert service.world.sink_lines() == HEARD


def test_a_stop_of_hostagents_unit_is_orderly(service: Service) -> None:
    """``systemctl stop`` ends the three processes within its time, and the fence stays until ``uninstall``."""
    as_a_unit(service)
    sh("systemctl", "stop", "hostagent-up")
    assert sh("systemctl", "is-failed", "hostagent-up", check=False) != "failed"
    assert "table inet hostagent" in sh("nft", "list", "tables")
    service.start()
    assert ask(service, "isolated", "select 4").stdout == "4\n"


# -- a crash -----------------------------------------------------------------------------------------------------------------

_CRASH = """
import os, resource
for limits in ((0, 0), (resource.RLIM_INFINITY, resource.RLIM_INFINITY), (0, 0)):
    resource.setrlimit(resource.RLIMIT_CORE, limits)
os.abort()
"""


@pytest.fixture
def crashed(service: Service) -> Iterator[Path]:
    """The folder where the host's program for core files leaves a file by the name of who crashed."""
    pattern = Path("/proc/sys/kernel/core_pattern")
    before, program, folder = pattern.read_text(), service.folder / "on-crash", service.folder / "crashed"
    folder.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {folder}/"$1"\n')
    program.chmod(0o755)
    pattern.write_text(f"|{program} %e")
    yield folder
    pattern.write_text(before)


def test_a_crash_starts_nothing_outside(service: Service, crashed: Path) -> None:
    """A limit of core files of 0 does not count where core_pattern names a program (core(5)); 1 does."""
    names = {workload: f"of-{workload}"[:15] for workload in WORKLOADS}
    for workload, name in names.items():
        code = f"open('/proc/self/comm', 'w').write({name!r})\n{_CRASH}"
        assert service.launch("/usr/bin/python3", "-I", "-c", code, workload=workload).returncode == 128 + signal.SIGABRT
    outside = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); open('/proc/self/comm', 'w').write('outside'); os.abort()"
    assert subprocess.run(["/usr/bin/python3", "-I", "-c", outside], check=False).returncode == -signal.SIGABRT
    wait_for((crashed / "outside").exists, "the program that a crash starts", 30)
    assert [each.name for each in crashed.iterdir()] == ["outside"]
