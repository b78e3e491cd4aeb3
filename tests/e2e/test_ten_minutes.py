"""The ten minutes of the README: its commands, word for word, by a newcomer who has a host, a database and a password."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stage import World

pytestmark = pytest.mark.e2e

_ROOT = Path(__file__).resolve().parents[2]
_PAGES = (_ROOT / "README.md", _ROOT / "hostagent/cli/README.md")
_PASSWORD = "S3cret-of-the-proxy-alone"
_SEEN = {  # what a command's output must hold, and its exit status
    "init": (0, "wrote /etc/hostagent/hostagent.toml"),
    "doctor": (-1, "ok    user.hostagent"),  # what else it finds is the machine's: its clock, say
    "target add": (0, "wrote /etc/hostagent/targets/crm-db.yaml"),
    "target test": (0, "as crm_proxy in crm, PostgreSQL 15"),
    "workload add": (0, "wrote /etc/hostagent/workloads/support-bot.yaml"),
    "policy new": (0, "wrote /etc/hostagent/policy/support-bot.yaml"),
    "policy test": (0, "11 of 11 verdicts as expected"),
    "config check": (0, "1 targets, 1 workloads, 2 policy: 0 errors, 0 warnings"),
    "status": (0, "targets   crm-db"),
    "select": (0, "[masked:email]"),
    "drop": (1, "denied by rule support-bot-nothing-destructive"),
    "sql": (0, "support-bot-nothing-destructive"),
}


def _section() -> list[str]:
    """Return the commands of the section, wherever it stands."""
    page = next(text for path in _PAGES if "## Ten minutes" in (text := path.read_text(encoding="utf-8")))
    section = page.partition("## Ten minutes")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", section, re.DOTALL)
    return [line.removeprefix("# ") for line in "".join(blocks).replace("\\\n", "").splitlines() if line.strip()]


@pytest.fixture
def newcomer() -> Iterator[tuple[World, dict[str, str]]]:
    """A host of one's own: /etc and /var/lib over the machine's, an empty /run, and hostagent on the path."""
    layers = Path("/srv")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "newcomer", str(layers)], check=True)
    for covered in ("/etc", "/var/lib"):
        upper, work = layers / covered.replace("/", "-") / "upper", layers / covered.replace("/", "-") / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        options = f"lowerdir={covered},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "newcomer", "-o", options, covered], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "newcomer", "/run"], check=True)
    try:
        with World() as world:
            folder = layers / "bin"
            folder.mkdir()
            command = f'#!/bin/sh\nexec "{world.repository}/.venv/bin/python" -m hostagent "$@"\n'
            (folder / "hostagent").write_text(command, encoding="utf-8")
            (folder / "hostagent").chmod(0o755)
            shutil.copy(world.folder / "company-ca.pem", "/etc/ssl/certs/company-ca.pem")
            yield world, {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(world.repository), "LANG": "C.UTF-8"}
    finally:
        for covered in ("/run", "/var/lib", "/etc", str(layers)):
            subprocess.run(["umount", "-l", covered], check=False)


def _expected(command: str) -> tuple[int, str]:
    words = shlex.split(command, comments=True)[1:]
    if words[0] == "run":
        return _SEEN["drop" if "drop" in words[-1] else "select"]
    return _SEEN.get(" ".join(words[:2])) or _SEEN[words[0]]


def test_a_newcomer_governs_a_real_database_by_the_readme_alone(newcomer: tuple[World, dict[str, str]]) -> None:
    _, environment = newcomer
    service: subprocess.Popen[bytes] | None = None
    commands = _section()
    assert len(commands) >= 12
    try:
        for command in commands:
            if command.partition("#")[0].rstrip().endswith("&"):
                with Path("/srv/service.log").open("wb") as log:
                    words = shlex.split(command.partition("&")[0])
                    service = subprocess.Popen(words, env=environment, stdout=log, stderr=log, executable=shutil.which(words[0], path=environment["PATH"]))
                continue
            typed = f"{_PASSWORD}\n" if "--secret ask" in command else ""
            status, says = _expected(command)
            if "hostagent sql" in command:
                said = _until(command, says, environment)
            else:
                done = subprocess.run(["bash", "-c", command], env=environment, cwd="/", input=typed, text=True, capture_output=True, timeout=200, check=False)
                said = done.stdout + done.stderr
                assert done.returncode == status or status < 0, (command, said)
            assert says in said, (command, said)
            assert _PASSWORD not in said
            if command.startswith("hostagent init"):
                _own_slice()
    finally:
        if service is not None:
            service.send_signal(signal.SIGTERM)
            service.wait(30)
        subprocess.run(["bash", "-c", "hostagent uninstall --yes"], env=environment, check=False, capture_output=True, timeout=60)


def _own_slice() -> None:
    """The machine has one cgroup tree for all its tests: this host's slice has a name of its own there."""
    file = Path("/etc/hostagent/hostagent.toml")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('#slice = "governed.slice"', f'slice = "ha-newcomer-{os.getpid()}.slice"'), encoding="utf-8")


def _until(command: str, says: str, environment: dict[str, str]) -> str:
    """Evidence is published within two seconds: ask for at most ten."""
    said = ""
    for _ in range(10):
        done = subprocess.run(["bash", "-c", f"{command} ; sleep 1"], env=environment, cwd="/", text=True, capture_output=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        if says in said:
            break
    return said
