"""`hostagent quarantine`: ended at once, refused until released, over restarts, and when nobody knows any more."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.cli.enforcerlink import EnforcerConnection, RequestError
from hostagent.ipc import Quarantine, Quarantined, Release, Released
from tests.netns.stage import Stage, stage, wait_for

pytestmark = pytest.mark.root


@pytest.fixture
def kept() -> Iterator[Stage]:
    workloads: list[dict[str, object]] = [{"name": "suspect"}, {"name": "other", "placement": "shared"}]
    with tempfile.TemporaryDirectory(prefix="hatest-") as name, stage(Path(name), workloads, proxy=False) as built:
        built.close_enforcer()
        built.settings["quarantine_file"] = str(Path(name) / "quarantine.json")
        built.start_enforcer()
        built.start_proxy()
        yield built


def quarantine(host: Stage, name: str, reason: str = "") -> list[str]:
    with contextlib.closing(EnforcerConnection(host.socket_path)) as connection:
        return connection.ask(Quarantine(name, reason), Quarantined)[0].leaves


def release(host: Stage, name: str) -> None:
    with contextlib.closing(EnforcerConnection(host.socket_path)) as connection:
        connection.ask(Release(name), Released)


def running(host: Stage, workload: str) -> subprocess.Popen[str]:
    process = host.start(workload, "sh", "-c", "echo ready; exec sleep 600")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_quarantined_workload_is_ended_refused_and_recorded_until_it_is_released(kept: Stage) -> None:
    first, second, bystander = running(kept, "suspect"), running(kept, "suspect"), running(kept, "other")
    assert len(quarantine(kept, "suspect", "odd queries")) == 2
    for process in (first, second):
        _, said = process.communicate(timeout=20)
        assert (process.returncode, "quarantined by root: odd queries" in said) == (137, True)
    refused = kept.run("suspect", "true")
    assert (refused.returncode, "suspect is in quarantine (by root: odd queries)" in refused.stderr) == (77, True)
    assert kept.status()["quarantine"]["suspect"]["reason"] == "odd queries"
    assert bystander.poll() is None
    release(kept, "suspect")
    assert (kept.run("suspect", "true").returncode, kept.status()["quarantine"]) == (0, {})
    rows = [(row["finding"], row["workload"], row["action"]) for row in kept.findings()]
    assert rows == [("quarantine", "suspect", "killed"), ("release", "suspect", "reported")]
    assert any("is in quarantine" in row["reason"] for row in kept.events("admission") if row["outcome"] == "refused")
    bystander.kill()
    bystander.communicate()


def test_a_proxy_that_does_not_answer_delays_no_end(kept: Stage) -> None:
    process = running(kept, "suspect")
    assert kept.proxy is not None
    os.kill(kept.proxy.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        quarantine(kept, "suspect")
        process.communicate(timeout=20)
        took = time.monotonic() - began
    finally:
        os.kill(kept.proxy.pid, signal.SIGCONT)
    assert (process.returncode, took < 2.0) == (137, True)


def test_a_leaf_names_its_workload_and_an_unknown_name_is_an_error(kept: Stage) -> None:
    process = running(kept, "suspect")
    (leaf,) = [each["leaf"] for each in kept.status()["leaves"]]
    assert quarantine(kept, leaf) == [leaf]
    process.communicate(timeout=20)
    assert list(kept.status()["quarantine"]) == ["suspect"]
    with pytest.raises(RequestError, match="no workload is called suspekt"):
        quarantine(kept, "suspekt")
    with pytest.raises(RequestError, match="other is not in quarantine"):
        release(kept, "other")


def test_quarantine_outlasts_a_restart(kept: Stage) -> None:
    assert quarantine(kept, "suspect", "odd") == []
    kept.close_enforcer()
    kept.start_enforcer()
    kept.start_proxy()
    assert (kept.run("suspect", "true").returncode, kept.run("other", "true").returncode) == (77, 0)
    file = Path(kept.settings["quarantine_file"])
    assert (file.stat().st_mode & 0o777, list(json.loads(file.read_text()))) == (0o600, ["suspect"])


def test_what_cannot_be_read_keeps_everything_from_being_launched(kept: Stage) -> None:
    kept.close_enforcer()
    Path(kept.settings["quarantine_file"]).write_text("{")
    kept.start_enforcer()
    kept.start_proxy()
    refused = kept.run("other", "true")
    assert (refused.returncode, "which workloads are in quarantine is not known" in refused.stderr) == (77, True)
    with pytest.raises(RequestError, match="cannot be read"):
        release(kept, "suspect")
    assert any("nothing is launched" in line for line in kept.status()["weaker"])


def test_a_quarantine_that_cannot_be_stored_is_in_force_and_says_so(kept: Stage) -> None:
    process = running(kept, "suspect")
    place = Path(kept.settings["quarantine_file"])
    (place.parent / f"{place.name}.new").mkdir()
    with pytest.raises(RequestError, match="in force now, but a restart would forget it"):
        quarantine(kept, "suspect")
    process.communicate(timeout=20)
    assert kept.run("suspect", "true").returncode == 77
    wait_for("its end", lambda: kept.status()["leaves"] == [])
