"""A hostile workload uses up what is its own, and another one's queries are answered all the while."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import example
from tests.e2e.talk import Talk
from tests.stage import Service, Settings, World
from tests.stage.world import wait_for

pytestmark = pytest.mark.e2e

CONNECTIONS = 40
BUDGET_MIB = 16
# What proxyd takes without any session, and what one large message costs while it is looked at.
BESIDE_MIB = 160
_WORKLOAD = "identity: {kind: local, groups: [support], purpose: test}\ntrust_files: ["


@pytest.fixture(scope="module")
def settings(world: World) -> Settings:
    document = f"{_WORKLOAD}{world.folder}/company-ca.pem]\n"
    return Settings(
        policies={"all.yaml": example("allow-all")},
        workloads={"support-bot.yaml": document, "hostile.yaml": document},
        toml=f"[limits]\nmemory_per_workload_mib = {BUDGET_MIB}\n",
    )


@contextmanager
def hoarding(service: Service, what: str, connections: int) -> Iterator[None]:
    script = str(service.world.repository / "tests/e2e/clients/hoarder.py")
    command = [*service.command, "run", "--workload", "hostile", "--no-tty", "--", "/usr/bin/python3", script, what, str(connections)]
    with subprocess.Popen(
        command, env=service.environment, cwd="/", text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            assert any(line == "begun\n" for line in process.stdout)
            yield
        finally:
            process.terminate()
            process.wait(20)


def resident_mib(service: Service) -> int:
    status = Path(f"/proc/{service.pid('proxyd')}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


@contextmanager
def highest(service: Service) -> Iterator[list[int]]:
    """Watch proxyd's memory; the list's one element is the most it took, in MiB."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], resident_mib(service))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize("what", ["unfinished", "prepared"])
def test_what_a_workload_makes_the_proxy_keep_is_bounded_and_another_one_is_served(service: Service, what: str) -> None:
    question = f"select 1 from refusals where workload = 'hostile' and reason like 'the memory budget of workload hostile ({BUDGET_MIB} MiB)%'"
    before = len(service.sql(question))
    with Talk(service) as talk, highest(service) as most:
        talk.connect()
        with hoarding(service, what, CONNECTIONS):
            wait_for(lambda: len(service.sql(question)) > before, "a refusal", 60)
            assert talk.sql("select 42")["rows"] == [[42]]
    assert most[0] < BUDGET_MIB + BESIDE_MIB
    assert service.sql("select 1 from refusals where workload = 'support-bot'") == []


def test_texts_of_very_many_statements_do_not_hold_up_another_workload(service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        with hoarding(service, "statements", 3):
            service.wait_sql("select 1 from statements where workload = 'hostile' and completeness = 'opaque'", 30)
            waits = []
            for _ in range(40):
                began = time.monotonic()
                assert talk.sql("select 42")["rows"] == [[42]]
                waits.append(time.monotonic() - began)
    # One such text took the proxy seven seconds once; what is left is mostly the load on this machine.
    assert sorted(waits)[len(waits) // 2] < 0.5


def test_who_fills_its_part_of_the_journal_is_told_so_then_cut_off_and_another_workload_goes_on(service: Service) -> None:
    """Last here: from now on the budget is small."""
    toml = service.folder / "hostagent.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("[limits]\n", "[limits]\njournal_per_workload_mib = 2\n"), encoding="utf-8")
    service.hostagent("reload")
    script = r"i=0; while [ $i -lt 9000 ]; do i=$((i+1)); echo 'select 1 as c'$i' from customers where id = 7;'; done | psql -qAt"
    connection = "host=crm.internal dbname=crm user=crm_app"
    with Talk(service) as talk:
        talk.connect()
        filled = service.launch("sh", "-c", f"{script} '{connection}'", workload="hostile")
        assert "workload hostile has used up its budget of the journal, 2 MiB an hour" in filled.stderr
        assert "session ended: workload hostile has used up its budget" in filled.stderr
        again = service.launch("psql", connection, "-c", "select 1", workload="hostile")
        assert again.returncode == 2
        assert talk.sql("select 42")["rows"] == [[42]]
        assert service.launch("psql", "-qAt", connection, "-c", "select 43").stdout == "43\n"
    assert "hostile HAS USED UP ITS BUDGET" in service.hostagent("status", check=False).stdout
    rows = service.wait_sql("select action from audits where finding = 'journal-budget' and workload = 'hostile' and action = 'stopped'")
    assert rows == [{"action": "stopped"}]
    assert len(service.sql("select what from alarms where alarm = 'journal budget' and workload = 'hostile'")) == 1
    reason = "reason like '%has used up its budget of the journal%'"
    assert service.wait_sql(f"select sum(count) as n from refusals where workload = 'hostile' and {reason} having n > 0")
    assert service.sql("from unmatched_flows") == []
