"""The stage's folder, as in tests/netns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the proxy's user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="hatest-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
