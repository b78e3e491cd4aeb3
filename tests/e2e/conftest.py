"""What every end-to-end test stands on: the stage's world and a running service, made once per module."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stage import Service, Settings, World

CLIENTS = Path(__file__).with_name("clients")

# What the example does not need and the tests do: holds of their own, and tables to hold.
HOLDS = """\
version: 1
rules:
  - id: held-briefly
    what: {effects: [truncate], objects: [public.scratch_brief]}
    then: hold
    approvers: hostagent-approvers
    timeout: 2
    reason: nobody will answer this in time
  - id: held-long
    what: {effects: [delete], objects: [public.held_rows, held_rows]}
    then: hold
    approvers: hostagent-approvers
    timeout: 120
    reason: a human must see this
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The agent host and the database host."""
    with World() as built:
        yield built


@pytest.fixture(scope="module")
def settings() -> Settings:
    """What a module's service is configured with; modules override this."""
    return Settings()


@pytest.fixture(scope="module")
def service(world: World, settings: Settings) -> Iterator[Service]:
    """A running service."""
    with Service(world, settings, name="e2e") as running:
        yield running


def example(name: str) -> str:
    """Return the text of a policy example."""
    return (Path(__file__).resolve().parents[2] / "policy/examples" / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder that holds node's drivers, installed once per lock file, outside the tree."""
    for program in ("node", "npm"):
        assert shutil.which(program), f"{program} is missing: apt-get install nodejs npm (never skipped)"
    lock = (CLIENTS / "node/package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostagent-tests"
    folder = cache / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENTS / "node" / name, folder)
        # The tests have left the machine's network; this one step needs it.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        network = os.environ.get("HOSTAGENT_TEST_MACHINE_NETWORK", "/proc/self/ns/net")
        result = subprocess.run(
            ["nsenter", f"--net={network}", *command], cwd=folder, capture_output=True, text=True, check=False, timeout=150
        )
        assert result.returncode == 0, f"npm ci failed:\n{result.stdout}{result.stderr}"
        (folder / "complete").touch()
    return folder


def python_of(world: World) -> str:
    """Return the interpreter of this checkout, as seen where every account can read it."""
    assert sys.prefix.endswith(".venv")
    return str(world.repository / ".venv/bin/python")
