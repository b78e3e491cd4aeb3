"""hostagent on the stage: configuration written as an operator would, the service started with ``hostagent up``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.stage.uids import FIRST_UID
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, World, wait_for

_TARGET = """\
protocol: postgres
hosts: [{name}, {v4}, "{v6}"]
port: 5432
tls: verify
ca_file: {company_ca}
databases: [crm]
users: [crm_app, postgres]
login:
  user: crm_proxy
  credential: {{file: {secret}}}
labels: {{env: demo}}
"""

_WORKLOAD = """\
launchers: [root]
identity:
  kind: local
  groups: [support]
  purpose: answer customer tickets
trust_files: [{company_ca}]
"""


FIREWALL = os.environ.get("HOSTAGENT_TEST_FIREWALL", "auto")
"""As in tests/netns/stage.py: any suite can be run on iptables, without its tests of shared placement."""


BPF = os.environ.get("HOSTAGENT_TEST_BPF", "auto")


@dataclass
class Settings:
    """What differs between the demo, a test and the bench. Documents are file name → text."""

    policies: dict[str, str] = field(default_factory=dict)
    workloads: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    toml: str = ""


class Service:
    """One running ``hostagent up`` with configuration, state and runtime folders of its own."""

    def __init__(self, world: World, settings: Settings, name: str = "demo") -> None:
        """Write the configuration; ``__enter__`` starts the service."""
        self.world = world
        self.name = name
        self.folder = world.folder / f"hostagent-{name}"
        self.config = self.folder / "config"
        self.slice = f"ha-{name}-{os.getpid()}.slice"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "service.log"

    def __enter__(self) -> Self:
        """Write the documents, start the three processes and wait until they are ready."""
        self._write()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the service and take the fence down."""
        self.stop()
        self.hostagent("uninstall", "--yes", check=False)

    def start(self) -> None:
        """Start ``hostagent up`` and wait for its word.

        Raises:
            RuntimeError: it ended or was not ready in time; the message holds its log.
        """
        reader, writer = os.pipe()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, "up", "--ready-fd", str(writer)],
                stdout=log, stderr=log, pass_fds=[writer], cwd="/", env=self.environment,
            )  # fmt: skip
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            if pipe.readline() != b"ready\n":
                raise RuntimeError(f"hostagent up failed:\n{self.log.read_text(encoding='utf-8')[-4000:]}")

    def stop(self) -> None:
        """Stop the service as an operator would; the fence stays until ``uninstall``."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    @property
    def command(self) -> list[str]:
        """The hostagent command of this checkout, as seen where every account can read it."""
        return [str(self.world.repository / ".venv/bin/python"), "-m", "hostagent"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands: this checkout and this service's configuration."""
        keep = {key: os.environ[key] for key in ("PATH", "LANG", "TERM", "CACHE_DIRECTORY") if key in os.environ}
        return {**keep, "PYTHONPATH": str(self.world.repository), "HOSTAGENT_CONFIG": str(self.folder / "hostagent.toml")}

    def hostagent(self, *words: str, user: str = "", check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a hostagent command as ``user`` (default: root) and return its output."""
        prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        result: subprocess.CompletedProcess[str] = subprocess.run(
            [*prefix, *self.command, *words], env=self.environment, cwd="/", text=True, capture_output=True, check=False,
            **options,  # type: ignore[call-overload]
        )  # fmt: skip
        if check and result.returncode:
            raise RuntimeError(f"hostagent {' '.join(words)}: status {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def launch(self, *command: str, workload: str = "support-bot", **options: object) -> subprocess.CompletedProcess[str]:
        """Run a program as a governed workload to its end."""
        return self.hostagent("run", "--workload", workload, "--no-tty", "--", *command, check=False, **options)

    def sql(self, question: str) -> list[dict[str, object]]:
        """Ask the evidence; rows as dictionaries."""
        rows: list[dict[str, object]] = json.loads(self.hostagent("sql", "--json", question).stdout)
        return rows

    def wait_sql(self, question: str, seconds: float = 10.0) -> list[dict[str, object]]:
        """Ask until there is at least one row (evidence is published within two seconds)."""
        found: list[dict[str, object]] = []

        def look() -> bool:
            found[:] = self.sql(question)
            return bool(found)

        wait_for(look, f"a row for {question!r}", seconds)
        return found

    def pid(self, component: str) -> int:
        """Return the process id of ``enforcerd``, ``proxyd`` or ``recorderd``."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="utf-8").split()
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
            if f"hostagent.daemon.{component}" in command:
                return int(child)
        raise RuntimeError(f"{component} is not running")

    def _write(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        for folder in ("workloads", "targets", "policy"):
            (self.config / folder).mkdir(parents=True)
        words = {
            "company_ca": self.world.folder / "company-ca.pem",
            "secret": self.world.folder / "crm-password",
            "name": DATABASE_NAME,
            "v4": DATABASE_V4,
            "v6": DATABASE_V6,
        }
        documents = {
            "workloads": self._settings.workloads or {"support-bot.yaml": _WORKLOAD.format(**words)},
            "targets": self._settings.targets or {"crm-db.yaml": _TARGET.format(**words)},
            "policy": self._settings.policies or {"customer-data.yaml": self._example("customer-data")},
        }
        for folder, files in documents.items():
            for name, text in files.items():
                (self.config / folder / name).write_text(text, encoding="utf-8")
        bpf = "" if "bpf = " in self._settings.toml else f'bpf = "{BPF}"\n'
        uids = "" if "uid_first = " in self._settings.toml else f"uid_first = {FIRST_UID}\n"
        (self.folder / "hostagent.toml").write_text(
            f'[paths]\nconfig = "{self.config}"\nstate = "{self.folder}/state"\nruntime = "{self.folder}/run"\n'
            f'[enforcement]\nslice = "{self.slice}"\nfirewall = "{FIREWALL}"\n{bpf}{uids}{self._settings.toml}',
            encoding="utf-8",
        )

    def _example(self, name: str) -> str:
        return (self.world.repository / "policy" / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
