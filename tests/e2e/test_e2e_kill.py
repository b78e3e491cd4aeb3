"""`hostagent kill` and `quarantine`: how soon nothing of a workload is connected anywhere, here and at the target."""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.cli.enforcerlink import EnforcerConnection
from hostagent.ipc import Kill, Killed, Quarantine, Quarantined
from tests.e2e.conftest import python_of
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, wait_for

pytestmark = pytest.mark.e2e

_LIMIT_S = 1.0
_DOCUMENT = "launchers: [root]\nplacement: {placement}\nidentity: {{kind: local, groups: [support]}}\ntrust_files: [/mnt/stage/company-ca.pem]\n"
_RULES = """\
version: 1
rules:
  - id: all
    what: {effects: [connect, session, transaction, cancel, read, export, lock, insert, update, delete]}
    then: allow
"""
_CLIENT = """
import socket, sys, threading, time
import psycopg
where = sys.argv[1]
kept = [psycopg.connect(where, autocommit=True) for _ in range(10)]
held = psycopg.connect(where)
held.execute("select * from customers limit 1 for update")
# What the server would go on with for a long time, without a byte to anybody who could be found gone.
busy = psycopg.connect(where, autocommit=True)
threading.Thread(target=lambda: busy.execute("select count(*) from generate_series(1, 100000000000)"), daemon=True).start()
own = socket.create_server(("127.0.0.1", 0))
pair = [socket.create_connection(own.getsockname()) for _ in range(5)]
time.sleep(0.5)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def settings() -> Settings:
    """One workload per placement, that may do what it wants."""
    workloads = {f"{name}.yaml": _DOCUMENT.format(placement=name) for name in ("isolated", "shared")}
    return Settings(policies={"all.yaml": _RULES}, workloads=workloads)


@contextlib.contextmanager
def connected(service: Service, world: World, workload: str) -> Iterator[Path]:
    """Run a workload with a dozen sessions; yields its cgroup."""
    where = f"host={DATABASE_NAME} user=crm_app dbname=crm sslmode=require"
    command = [*service.command, "run", "--workload", workload, "--no-tty", "--", python_of(world), "-c", _CLIENT, where]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=service.environment, cwd="/"
    ) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        assert process.stdout.readline() == "ready\n"
        try:
            yield next(Path("/sys/fs/cgroup").rglob(f"{service.slice}/{workload}-*"))
        finally:
            process.kill()


def backends(world: World) -> int:
    """Return how many sessions the target has for the proxy's account."""
    return int(world.superuser_sql("select count(*) from pg_stat_activity where usename = 'crm_proxy'"))


def sockets_of(pids: list[int]) -> int:
    """Return how many of the processes still hold anything."""
    return sum(bool(list(Path(f"/proc/{pid}/fd").glob("*"))) for pid in pids)


@pytest.mark.parametrize("how", ["kill", "quarantine"])
@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_everything_is_cut_here_and_at_the_target_within_a_second(service: Service, world: World, workload: str, how: str) -> None:
    with connected(service, world, workload) as folder:
        pids = [int(line) for line in (folder / "cgroup.procs").read_text().split()]
        assert (backends(world), len(pids) >= 2) == (12, True)
        connection = EnforcerConnection(f"{service.folder}/run/enforcerd.sock")
        began = time.monotonic()
        if how == "kill":
            answered = connection.ask(Kill(folder.name), Killed)[0].leaves
        else:
            answered = connection.ask(Quarantine(workload), Quarantined)[0].leaves
        connection.close()
        assert answered == [folder.name]
        wait_for(lambda: sockets_of(pids) == 0, "the processes' end", 20)
        here = time.monotonic() - began
        wait_for(lambda: backends(world) == 0, "the target's sessions' end", 20)
        there = time.monotonic() - began
        print(f"{how} {workload}: sockets gone after {here * 1000:.0f} ms, the target's sessions after {there * 1000:.0f} ms")
        assert here < _LIMIT_S
        assert there < _LIMIT_S
    if how == "quarantine":
        assert service.launch("true", workload=workload).returncode == 77
        service.hostagent("release", workload)
