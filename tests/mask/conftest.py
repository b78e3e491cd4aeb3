"""Fixtures of the masking tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mask_server


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """The socket of a real PostgreSQL that trusts everybody."""
    with mask_server.server() as path:
        yield path
