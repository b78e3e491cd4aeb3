"""Everything may die at any moment: nothing leaks, nothing that was acknowledged is lost, nothing hangs, and it comes back.

Each row of the fail-closed table that needs the whole service. ``HOSTAGENT_KILLS`` is the number of random kills (default 12,
the long lane uses 100); ``HOSTAGENT_SEED`` repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import python_of
from tests.e2e.talk import Answer, Talk, environment
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_COMPONENTS = ("enforcerd", "proxyd", "recorderd")


@pytest.fixture(scope="module")
def settings(world: World) -> Settings:
    world.superuser_sql("set role crm_proxy; create table killed (n int primary key)", database="crm")
    return Settings()


def _kill(service: Service, component: str) -> int:
    pid = service.pid(component)
    os.kill(pid, signal.SIGKILL)
    return pid


def _healthy(service: Service) -> bool:
    return service.hostagent("status", check=False).returncode == 0


def _wait_healthy(service: Service, component: str, killed: int) -> None:
    def back() -> bool:
        try:
            return service.pid(component) != killed and _healthy(service)
        except (RuntimeError, OSError):
            return False

    wait_for(back, f"{component} to come back", 40)


@contextlib.contextmanager
def _dialling(service: Service, seconds: float) -> Iterator[list[dict[str, object]]]:
    """Dial the database from inside a workload all the while; the list grows."""
    script = str(service.world.repository / "tests/e2e/clients/dialler.py")
    command = [*service.command, "run", "--workload", "support-bot", "--no-tty", "--", python_of(service.world), script, str(seconds)]
    heard: list[dict[str, object]] = []
    with subprocess.Popen(
        [*command, DATABASE_NAME, "5432"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=service.environment, cwd="/"
    ) as process:
        assert process.stdout is not None
        output = process.stdout
        reader = threading.Thread(target=lambda: heard.extend(json.loads(line) for line in output), daemon=True)
        reader.start()
        wait_for(lambda: {"now": "accepted"} in heard, "the first dial")
        yield heard
        process.wait(60)
        reader.join(10)


def test_when_the_proxy_is_killed_dials_are_refused_at_once_and_work_again_when_it_is_back(world: World, service: Service) -> None:
    with _dialling(service, 8) as heard:
        killed = _kill(service, "proxyd")
        wait_for(lambda: {"now": "refused"} in heard, "a refused dial", 5)
        _wait_healthy(service, "proxyd", killed)
    outcomes = [str(line["now"]) for line in heard if "now" in line]
    total = heard[-1]
    assert outcomes[0] == outcomes[-1] == "accepted", outcomes
    assert "slow" not in outcomes, outcomes
    assert float(str(total["slowest"])) < 3, total  # refused, not hung
    assert world.sink_lines() == []


def test_a_live_session_dies_with_the_proxy_and_its_transaction_with_it(world: World, service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        talk.sql("begin")
        talk.sql("update orders set status = 'lost with the proxy' where id = 7")
        killed = _kill(service, "proxyd")
        assert talk.sql("select 1")["closed"] is True
        _wait_healthy(service, "proxyd", killed)
        assert world.superuser_sql("select status <> 'lost with the proxy' from orders where id = 7", database="crm") == "t"
        wait_for(lambda: "connected" in talk.connect("b"), "a new connection")
        assert talk.sql("select 1", on="b")["rows"] == [[1]]


def test_when_the_recorder_is_killed_sessions_go_on_and_the_evidence_catches_up(service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        killed = _kill(service, "recorderd")
        for number in range(20):
            assert talk.sql(f"select {number} as while_the_recorder_was_dead")["rows"] == [[number]]
        _wait_healthy(service, "recorderd", killed)
        question = "select 1 from statements where text like '%while_the_recorder_was_dead%'"
        wait_for(lambda: len(service.sql(question)) == 20, "the evidence to catch up", 20)
    assert "The evidence holds." in service.hostagent("audit", "verify").stdout


def test_when_the_enforcer_is_killed_the_fence_stays_up(world: World, service: Service) -> None:
    with _slice_member(service) as attempt:
        assert attempt() == "refused by the kernel"
        killed = _kill(service, "enforcerd")
        outcomes = [attempt() for _ in range(20)]
        _wait_healthy(service, "enforcerd", killed)
        assert outcomes[0] == "refused by the kernel"
        assert {*outcomes, attempt()} <= {"refused by the kernel", "ended"}  # the next enforcerd ends what it finds in the slice
    assert world.sink_lines() == []
    result = service.launch(*environment(service), "psql", "-X", "-At", "-c", "select 'in'", timeout=60)
    assert (result.returncode, result.stdout) == (0, "in\n"), result.stderr


@contextlib.contextmanager
def _slice_member(service: Service) -> Iterator[Callable[[], str]]:
    """Put a shell into the slice itself, as any process in an unknown leaf: the fence alone stands before it."""
    folder = next(path for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if (path := Path(root) / service.slice).is_dir())
    leaf = folder / "stranger"
    leaf.mkdir()
    program = (
        "import socket, sys\n"
        f"open({str(leaf / 'cgroup.procs')!r}, 'w').write('0')\n"
        "for _ in sys.stdin:\n"
        "    outcome = ''\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        f"        for family, address in ((socket.AF_INET, '{DATABASE_V4}'), (socket.AF_INET6, 'fd77::2')):\n"
        "            try:\n"
        "                s = socket.socket(family, kind); s.settimeout(1)\n"
        "                s.connect((address, 9999)); s.send(b'leak'); outcome = 'sent' if kind == 1 else outcome\n"
        "                s.send(b'leak again')\n"
        "            except OSError: pass\n"
        "    print(outcome or 'refused by the kernel', flush=True)\n"
    )
    process = subprocess.Popen(["/usr/bin/python3", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:

        def attempt() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write("go\n")
                process.stdin.flush()
            except BrokenPipeError:
                return "ended"
            return process.stdout.readline().strip() or "ended"

        yield attempt
    finally:
        process.kill()
        process.communicate()
    if leaf.is_dir():
        leaf.rmdir()


def test_a_full_disk_under_the_journal_closes_sessions_and_nothing_runs_unrecorded(world: World) -> None:
    service = Service(world, Settings(toml='table = "ha_full"\n'), name="full")
    service._write()
    journal = service.folder / "state" / "journal"
    journal.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "small", str(journal)], check=True)
    try:
        service.start()
        _fill_and_try(world, service, journal)
    finally:
        service.stop()
        service.hostagent("uninstall", "--yes", check=False)
        subprocess.run(["umount", "-l", str(journal)], check=True)


def _fill_and_try(world: World, service: Service, journal: Path) -> None:
    with Talk(service) as talk:
        talk.connect()
        assert talk.sql("update orders set status = 'recorded' where id = 9")["tag"] == "UPDATE 1"
        with (journal / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            for _ in range(4 * 1024):
                ballast.write(b"\0" * 4096)
        # What lies within the page already allotted may still be recorded, and so may run: never the other way round.
        ran = 0
        answer: Answer = {}
        for number in range(2000):
            answer = talk.sql(f"update orders set status = 'full {number}' where id = 9")
            if "error" in answer:
                break
            ran = number + 1
        assert answer["closed"] is True
        # The last one may have been recorded and run; then its result could not be, and no byte of it was passed on.
        status = world.superuser_sql("select status from orders where id = 9", database="crm")
        assert status in (f"full {ran}", f"full {ran - 1}" if ran else "recorded")
        executed = ran + (status == f"full {ran}")
        assert "error" in talk.connect("b")
        (journal / "ballast").unlink()
        wait_for(lambda: "connected" in talk.connect("c"), "the service to go on", 20)
        assert talk.sql("update orders set status = 'open' where id = 9", on="c")["tag"] == "UPDATE 1"
    wait_for(lambda: len(service.sql("select 1 from statements where verb ilike 'update'")) >= executed + 2, "every statement that ran")
    assert "The evidence holds." in service.hostagent("audit", "verify").stdout


@pytest.mark.timeout(120 + 15 * int(os.environ.get("HOSTAGENT_KILLS", "12")))
def test_killed_at_random_points_nothing_leaks_and_no_acknowledged_record_is_lost(world: World, service: Service) -> None:
    kills = int(os.environ.get("HOSTAGENT_KILLS", "12"))
    seed = int(os.environ.get("HOSTAGENT_SEED", str(random.SystemRandom().randrange(10**6))))
    print(f"{kills} kills, HOSTAGENT_SEED={seed}")
    dice = random.Random(seed)
    said: list[str] = []
    busy: subprocess.Popen[str] | None = None
    for turn in range(kills):
        if busy is None or busy.poll() is not None:
            busy = _busybody(service, 1_000_000 * (turn + 1), said)
        before = len(said)
        component = dice.choice(_COMPONENTS)
        delay = dice.uniform(0.0, 0.6)
        wait_for(lambda known=before: len(said) > known, f"work before kill {turn} (seed {seed})", 30)
        time.sleep(delay)  # a random point of real time is what is tested
        print(f"kill {turn}: {component} after {delay:.3f} s")
        killed = _kill(service, component)
        _wait_healthy(service, component, killed)
        if component == "enforcerd":
            busy.wait(30)  # the leaves of a dead enforcerd are ended by the next one
    assert busy is not None
    busy.terminate()
    busy.wait(30)
    _judge(world, service, said, seed)


def _busybody(service: Service, first: int, said: list[str]) -> subprocess.Popen[str]:
    script = str(service.world.repository / "tests/e2e/clients/busybody.py")
    command = [*service.command, "run", "--workload", "support-bot", "--no-tty", "--", *environment(service), python_of(service.world)]
    process = subprocess.Popen(
        [*command, script, str(first), DATABASE_V4], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=service.environment, cwd="/"
    )  # fmt: skip
    output = process.stdout
    assert output is not None

    def read() -> None:
        with output:
            said.extend(line.strip() for line in output)

    threading.Thread(target=read, daemon=True).start()
    return process


def _judge(world: World, service: Service, said: list[str], seed: int) -> None:
    acknowledged = {int(line.split()[1]) for line in said if re.fullmatch(r"done \d+", line)}
    present = {int(line) for line in world.superuser_sql("select n from killed", database="crm").split()}
    print(f"{len(acknowledged)} statements acknowledged, {len(present)} committed")
    assert len(acknowledged) > 20
    assert [line for line in said if line.startswith("unmasked")] == []
    assert world.sink_lines() == [], f"seed {seed}"
    assert acknowledged <= present
    with Talk(service) as talk:
        wait_for(lambda: "connected" in talk.connect(), "a connection after the exercise")
        assert talk.sql("select 1 as the_end_of_the_exercise")["rows"] == [[1]]
    try:
        service.wait_sql("select 1 from statements where text like '%the_end_of_the_exercise%'", 60)
    except RuntimeError:
        print(service.log.read_text(encoding="utf-8")[-5000:])
        raise
    rows = service.sql("select distinct parameters[1] as n from statements where text like 'insert into killed%'")
    recorded = {int(str(row["n"])) for row in rows}
    assert present - recorded == set(), f"statements ran without a record (seed {seed})"
    assert acknowledged - recorded == set()
    verified = service.hostagent("audit", "verify", check=False)
    assert verified.returncode == 0, f"seed {seed}: {verified.stdout}"
    assert service.sql("select problem from unaccounted where problem like '%without%'") == []


def test_the_sinks_do_see_what_reaches_them(world: World) -> None:
    """Last, because it leaves its mark: the emptiness above means something only if a leak would have been seen."""
    for family, address in ((socket.AF_INET, DATABASE_V4), (socket.AF_INET6, DATABASE_V6)):
        with socket.socket(family, socket.SOCK_STREAM) as stream, socket.socket(family, socket.SOCK_DGRAM) as datagram:
            stream.connect((address, 9999))
            stream.sendall(b"a leak")
            datagram.sendto(b"a leak", (address, 9999))
    wait_for(lambda: sum("a leak" in line and line.startswith(("tcp", "udp")) for line in world.sink_lines()) == 4, "four lines")
