"""Who dialled, in the session's row; and an alarm within seconds when the proxy does not record what the kernel saw."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, wait_for

pytestmark = [pytest.mark.root, pytest.mark.e2e]

DRIVER = f"psql 'host={DATABASE_NAME} dbname=crm user=crm_app password=x' -Atc 'select count(*) from customers'"

FORGETFUL = """
import sys
if any(word.endswith("proxyd") for word in sys.orig_argv):
    from hostagent.daemon.journalfile import JournalFile
    append = JournalFile.append
    JournalFile.append = lambda self, events: append(self, [one for one in events if one.kind != "connection"])
"""
"""Loaded by Python before anything else: a proxy that serves connections and keeps quiet about them."""


def test_the_session_shows_who_dialled_and_what_started_it(service: Service) -> None:
    code = f"import subprocess, sys; sys.exit(subprocess.run({['bash', '-c', DRIVER + '; exit $?']!r}).returncode)"
    done = service.launch("/bin/sh", "-c", '/usr/bin/python3 -I -c "$0"; exit $?', code)
    assert done.returncode == 0, done.stderr
    row = service.wait_sql("select session, pid, exe, attribution, lineage from sessions where attribution = 'process' and \"database\" = 'crm'")[0]
    chain = row["lineage"]
    assert isinstance(chain, list)
    assert [link["exe"].rpartition("/")[2] for link in chain][-3:] == ["bash", "python3", "sh"]
    assert "psql" in str(row["exe"])
    assert (row["pid"], row["exe"]) == (chain[0]["pid"], chain[0]["exe"])
    assert "password" not in str(chain)
    shown = service.hostagent("sessions", "show", str(row["session"])).stdout
    assert [line.split()[0] for line in shown.splitlines() if " uid " in line] == ["process"] + ["started"] * (len(chain) - 1)
    (who,) = service.sql(f"select pid, exe from statements where session = '{row['session']}'")
    assert who == {"pid": row["pid"], "exe": row["exe"]}


def test_nothing_ordinary_is_an_alarm(service: Service) -> None:
    code = f"""
import contextlib, socket, subprocess, threading
own = socket.create_server(("127.0.0.1", 7777))
one = socket.create_connection(own.getsockname())
one.close()
for port in (5432, 5433, 53, 1):  # a target, no target, DNS over TCP, nothing
    with socket.create_connection(("{DATABASE_V4}", port)):
        pass
for _ in range(400):
    with contextlib.suppress(OSError), socket.create_connection(("{DATABASE_V4}", 5433)):
        pass
"""
    done = service.launch("/usr/bin/python3", "-I", "-c", code)
    assert done.returncode == 0, done.stderr
    assert nothing_is_missing(service, 405)
    assert service.sql("select count(*) as n from kernel_flows where own") == [{"n": 1}]
    assert service.sql("select * from alarms") == []


def test_what_dialled_just_before_its_end_is_on_record_though_the_proxy_comes_to_it_later(service: Service) -> None:
    code = f"""
import socket
print("ready", flush=True)
input()
for number in range(330):
    with socket.create_connection(("{DATABASE_V4}", 53 if number % 11 == 0 else 5433)) as dialled:
        if number % 2:
            dialled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))  # RST instead of FIN
"""
    before = service.sql('select coalesce(sum("count"), 0) as n from kernel_flows')[0]["n"]
    words = (*service.command, "run", "--workload", "support-bot", "--no-tty", "--", "/usr/bin/python3", "-I", "-c", code)
    proxy = service.pid("proxyd")
    with subprocess.Popen(words, env=service.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launched:
        assert launched.stdout is not None
        assert launched.stdout.readline() == "ready\n"
        os.kill(proxy, signal.SIGSTOP)
        try:
            launched.communicate("go\n", 30)
        finally:
            os.kill(proxy, signal.SIGCONT)
            launched.kill()
    assert launched.returncode == 0
    assert nothing_is_missing(service, int(str(before)) + 330)


def nothing_is_missing(service: Service, dials: int) -> bool:
    """Return, once so many dials of all that the kernel saw were judged, whether each has its record."""
    dialled = time.time()
    assert service.wait_sql(f'select 1 from kernel_flows having sum("count") >= {dials}')
    # Judged: something happens later, so that recorderd publishes how far it has looked.
    wait_for(lambda: time.time() > dialled + 8, "the flows to be old enough", 20)
    service.launch("/bin/true")
    assert service.wait_sql(f"select 1 from live.checked where at_ns > {int((dialled + 5) * 1e9)}", 20)
    return service.sql("select * from unmatched_flows") == []


class Forgetful(Service):
    """A service whose proxy does not record connections."""

    @property
    def environment(self) -> dict[str, str]:
        """The same with a module that Python loads first."""
        folder = self.folder / "fault"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (folder / "sitecustomize.py").write_text(FORGETFUL)
        given = super().environment
        return given | {"PYTHONPATH": f"{folder}:{given['PYTHONPATH']}"}


@pytest.fixture
def forgetful(world: World, service: Service) -> Iterator[Service]:
    """In the place of the module's service, which two cannot share ports with."""
    service.stop()
    with Forgetful(world, Settings(toml='table = "ha_forgetful"\n'), name="forgetful") as running:
        yield running
    service.start()


def test_a_proxy_that_serves_without_recording_is_an_alarm_within_seconds(forgetful: Service) -> None:
    done = forgetful.launch("/bin/sh", "-c", DRIVER)
    before = time.monotonic()  # it dialled just now; how long the launcher took besides is this machine's load
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr
    rows = forgetful.wait_sql("select * from unmatched_flows", 15)
    assert time.monotonic() - before < 15
    assert {(row["workload"], row["destination"]) for row in rows} == {("support-bot", f"{DATABASE_V4}:5432")}
    assert "psql" in str(rows[0]["exe"])
    (alarm,) = {row["what"] for row in forgetful.sql("select what from alarms where alarm = 'unmatched flow'")}
    assert f"dialled {DATABASE_V4}:5432" in str(alarm)
    assert "ALARM unmatched flow: workload support-bot" in forgetful.log.read_text()
