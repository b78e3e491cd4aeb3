"""What every end-to-end test stands on: the stage's world and a running service, made once per module."""

from __future__ import annotations

import shutil
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
    what: {effects: [truncate], objects: [public.scratch_brief, scratch_brief]}
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
    """The folder that holds node's drivers, which `make setup-tests` installs by the integrity hashes of their lock."""
    folder = Path(sys.prefix) / "node"
    installed, wanted = folder / "installed.json", CLIENTS / "node/package-lock.json"
    assert shutil.which("node"), "node is missing: make setup-tests (never skipped)"
    assert installed.is_file(), "node's drivers are missing: make setup-tests (never skipped)"
    assert installed.read_bytes() == wanted.read_bytes(), "node's drivers are not those of the lock: make setup-tests"
    return folder


def python_of(world: World) -> str:
    """Return the interpreter of this checkout, as seen where every account can read it."""
    assert sys.prefix.endswith(".venv")
    return str(world.repository / ".venv/bin/python")
