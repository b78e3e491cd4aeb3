"""The service under attack, and what the hostile program is told."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from tests.bypass.attacks import HERE
from tests.bypass.host_doors import HostDoors
from tests.stage import Service, World
from tests.stage.service import FIREWALL
from tests.stage.world import DATABASE_V4, DATABASE_V6, wait_for

DOCUMENT = """\
launchers: [root, dana]
identity: {kind: local, groups: [support], purpose: attack}
"""
POLICY = """\
version: 1
rules:
  - id: what-it-is-for
    where: {labels: {env: demo}}
    what: {effects: [connect, session, transaction, read]}
    then: allow
"""

_ATTEMPT_S = 400
_QUICK_S = 2.0
"""A machine that takes longer for one launch makes attacks one by one: attempts have time-outs of their own."""
"""For one program with its attempts: seconds on a real processor, minutes on an emulated one."""


@dataclass
class Tried:
    """One leaf's worth of attempts: what came of each, what the sinks and the doors saw meanwhile, and the leaf's rows."""

    outcomes: dict[str, str]
    leaked: list[str]
    reached: list[str]
    said: str = ""
    rows: list[dict[str, object]] = field(default_factory=list)


class Attacked:
    """One service, its world, and ways to launch hostile programs in it."""

    def __init__(self, world: World, service: Service, home: Path, doors: HostDoors) -> None:
        self.world = world
        self.service = service
        self.home = home
        self.doors = doors

    @property
    def python(self) -> str:
        return str(self.world.repository / ".venv/bin/python")

    @property
    def environment(self) -> dict[str, str]:
        folder = self.service.folder
        return {
            **self.service.environment,
            **self.doors.environment,
            "HOSTILE_PORTS": os.environ.get("HOSTILE_PORTS", ""),
            "HOSTILE_FOLDERS": f"{folder}/config:{folder}/state:{folder}/run",
            "HOSTILE_FILES": f"{self.world.folder}/crm-password:/etc/shadow:/etc/gshadow",
            "HOSTILE_SOCKETS": f"{folder}/run/enforcerd.sock:{folder}/run/proxyd/control.sock",
            "HOSTILE_TRUST": f"{self.world.folder}/company-ca.pem",
        }

    def command(self, workload: str, *attempts: str) -> list[str]:
        """Return the words that run the hostile program as ``workload``."""
        script = str(self.world.repository / "tests/bypass/hostile_program")
        run = [*self.service.command, "run", "--workload", workload, "--no-tty", "--", self.python, script]
        return [*run, DATABASE_V4, DATABASE_V6, *attempts]

    def hostile(self, workload: str, *attempts: str) -> dict[str, str]:
        """Run the hostile program as ``workload`` and return the outcome of each attempt."""
        done = subprocess.run(
            self.command(workload, *attempts),
            env=self.environment, cwd="/", text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ATTEMPT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outcomes: dict[str, str] = json.loads(done.stdout)
        return outcomes

    def _tried(self, workload: str, *attempts: str) -> tuple[dict[str, str], str]:
        """The same; a program that was ended for what it did, or never came to its end, has no outcomes but that."""
        try:
            done = subprocess.run(
                self.command(workload, *attempts),
                env=self.environment, cwd="/", text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ATTEMPT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"ended": f"not done after {_ATTEMPT_S} s"}, ""
        try:
            found: dict[str, str] = json.loads(done.stdout)
        except ValueError:
            found = {}
        if done.returncode or not found:
            found = {"ended": f"status {done.returncode} {done.stderr} {done.stdout[-500:]}"}
        return found, done.stderr

    def attempt(self, workload: str, label: str, *attempts: str) -> Tried:
        """Run attempts in a leaf of their own, marked with ``label`` for ``rows``."""
        sinks, doors = len(self.world.sink_lines()), len(self.doors.reached)
        outcomes, said = self._tried(workload, f":{label}", *attempts)
        return Tried(outcomes, self.world.sink_lines()[sinks:], self.doors.reached[doors:], said)

    @functools.cached_property
    def quick(self) -> bool:
        """Whether this machine is quick enough to be asked for several things at once; an emulated one is not."""
        began = time.monotonic()
        assert self.service.launch("true", workload=HERE[0]).returncode == 0
        return time.monotonic() - began < _QUICK_S

    def rows(self, labels: list[str]) -> dict[str, list[dict[str, object]]]:
        """Return the refusals (and findings of the auditor) on record, by the label of the leaf."""
        question = """
            with leaves as (select leaf, list_filter(argv, lambda a: starts_with(a, ':'))[1][2:] as label from processes)
            select label, r.leaf, r.workload, r.layer, r.reason, r.transport, r.destination, sum(r."count")::bigint as n
            from refusals r join leaves using (leaf) where label is not null group by all
        """
        found: dict[str, list[dict[str, object]]] = {label: [] for label in labels}
        # Not by the command: on an emulated machine its start alone takes longer than most attacks.
        with duckdb.connect(str(self.service.folder / "state/evidence/sessions.duckdb"), read_only=True) as database:
            answer = database.execute(question)
            names = [column[0] for column in answer.description or ()]
            for values in answer.fetchall():
                row = dict(zip(names, values, strict=True))
                found.setdefault(str(row["label"]), []).append(row)
        return found

    def document(self, name: str, text: str) -> None:
        """Declare a workload and wait until the service knows it."""
        (self.service.config / "workloads" / f"{name}.yaml").write_text(text, encoding="utf-8")
        wait_for(lambda: self.service.launch("true", workload=name).returncode == 0, f"workload {name}")

    def as_dana(self, workload: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Launch a program as the unprivileged launcher."""
        return self.service.hostagent("run", "--workload", workload, "--no-tty", "--", *command, user="dana", check=False)

    def as_lee(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python outside of every workload as a user with no rights in hostagent at all."""
        prefix = ["setpriv", "--reuid=lee", "--regid=lee", "--clear-groups", "--"]
        return subprocess.run(
            [*prefix, self.python, "-c", code, *arguments],
            env=self.service.environment, cwd="/", text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def pids(self) -> dict[str, int]:
        return {name: self.service.pid(name) for name in ("enforcerd", "proxyd", "recorderd")}

    @contextlib.contextmanager
    def running(self, workload: str, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run Python as ``workload``; it must print a line when it is there, and ends when its input does, or is killed."""
        command = [*self.service.command, "run", "--workload", workload, "--no-tty", "--", self.python, "-c", code, *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment, cwd="/"
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                assert process.stdout.readline().strip() == "here"
                yield process
            finally:
                with contextlib.suppress(OSError):
                    process.stdin.close()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def written_by(layer: str, rows: Iterable[Mapping[str, object]]) -> bool:
    """Whether a row is of ``layer``: one name, or several with a stroke between; ``nft`` is whichever firewall this run is on."""
    names = {FIREWALL if name == "nft" and FIREWALL == "iptables" else name for name in layer.split("/")}
    return bool(names & {str(row["layer"]) for row in rows})


def bpf_setting() -> str:
    """Return the lines of configuration that ``make bypass BPF=off`` asks for."""
    return 'bpf = "off"\n' if os.environ.get("HOSTAGENT_BYPASS_BPF") == "off" else ""
