"""The guest as an operator would set it up: real accounts, systemd's own services, a database host, and ``hostagent up``.

Nothing here is in a namespace of its own: this machine lives for one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.bypass.results import Run
from tests.stage import Service, Settings, World
from tests.stage.world import ACCOUNTS, APPROVERS_GROUP, DATABASE_NAME, REPOSITORY, wait_for

DOCUMENT = """\
launchers: [root]
identity: {kind: local, groups: [support], purpose: attack}
trust_files: [/mnt/stage/company-ca.pem]
"""
WORKLOADS = {
    "isolated.yaml": DOCUMENT,
    "shared.yaml": DOCUMENT + "placement: shared\n",
    "login.yaml": DOCUMENT + "user: dana\n",
    "login-shared.yaml": DOCUMENT + "user: dana\nplacement: shared\n",
}
ENGINE = Path("/srv/engine/podman.sock")
MARKS = Path("/var/lib/marks")
_RUN = Run({})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what came of the numbered attacks here, where the real daemons are."""
    report = yield
    given = getattr(item, "callspec", None)
    if given and "attempted" in given.params and (report.when == "call" or report.failed):
        placement = "shared" if "shared" in given.params["attempted"] else "isolated"
        for marker in item.iter_markers("attack"):
            for number in marker.args:
                _RUN.note(number, placement, passed=report.passed, real=True)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once on the console why a test failed: a run that is cut short says nothing at its end."""
    if report.failed:
        print(f"\n{report.longreprtext[-4000:]}", file=sys.__stderr__, flush=True)


def pytest_sessionfinish() -> None:
    """Hand the attacks' results to whoever asked for them."""
    if wanted := os.environ.get("HOSTAGENT_BYPASS_RESULTS"):
        Path(wanted).write_text(json.dumps(_RUN.cells), encoding="utf-8")


def sh(*command: str, check: bool = True) -> str:
    """Run a command as root and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout.strip()


def as_dana(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as the login user, ungoverned, as in a session of hers."""
    words = ["setpriv", "--reuid=dana", "--regid=dana", "--init-groups", "--", "env", "XDG_RUNTIME_DIR=/run/user/1901", "HOME=/home/dana"]
    return subprocess.run([*words, *command], input=text, capture_output=True, text=True, check=False, timeout=120, cwd="/")


class Governed:
    """A workload that asks the database one question per line that it is given."""

    def __init__(self, command: Sequence[str], workload: str, environment: Mapping[str, str] | None = None) -> None:
        """``command`` is hostagent's."""
        query = ["psql", "-X", "-At", f"host={DATABASE_NAME} dbname=crm user=crm_app sslmode=require", "-f", "-"]
        words = [*command, "run", "--workload", workload, "--no-tty", "--", *query]
        self.process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def ask(self, question: str) -> str:
        """Return one line of answer, empty at the end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, however far the test came."""
        if self.process.poll() is None:
            self.process.kill()
        self.close()

    def close(self) -> int:
        """Return the exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(60)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="session")
def accounts() -> None:
    """hostagent's accounts, and a person with a user manager that runs without her being there."""
    for name, number in ACCOUNTS.items():
        sh("useradd", "--uid", str(number), "--user-group", "--create-home", "--shell", "/bin/bash", name)
    sh("groupadd", "--gid", "1900", APPROVERS_GROUP)
    sh("usermod", "--append", "--groups", APPROVERS_GROUP, "dana")
    sh("loginctl", "enable-linger", "dana")
    wait_for(lambda: Path("/run/user/1901/bus").is_socket(), "dana's user manager", 60)


@pytest.fixture(scope="session")
def outside(accounts: None) -> None:
    """What a workload could ask for help: a container engine, a resolver, at and cron."""
    MARKS.mkdir(mode=0o777)
    MARKS.chmod(0o777)
    ENGINE.parent.mkdir(parents=True)
    # By itself it would talk on every wire, to the sinks too.
    quiet = Path("/etc/systemd/resolved.conf.d/quiet.conf")
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text("[Resolve]\nLLMNR=no\nMulticastDNS=no\n")
    sh("systemctl", "restart", "systemd-resolved")
    sh("systemctl", "start", "atd", "cron", "podman.socket")
    sh("systemd-run", "--unit=engine", "podman", "system", "service", "--time=0", f"unix://{ENGINE}")
    wait_for(ENGINE.is_socket, "podman", 60)
    ENGINE.chmod(0o666)


@pytest.fixture(scope="session")
def world(outside: None) -> Iterator[World]:
    """The database host behind its wire, with sinks."""
    with World() as built:
        yield built


@pytest.fixture(scope="session")
def service(world: World) -> Iterator[Service]:
    """``hostagent up`` under the names that it has by default: systemd knows a unit of the slice's name, too."""
    policies = {"allow-all.yaml": (REPOSITORY / "policy/examples/allow-all.yaml").read_text(encoding="utf-8")}
    made = Service(world, Settings(workloads=WORKLOADS, policies=policies, toml='table = "hostagent"\n'), name="guest")
    made.slice = "governed.slice"
    with made:
        yield made
