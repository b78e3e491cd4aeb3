"""Fixtures of the bypass tests: a real PostgreSQL with customers in it, and a relay whose policy masks them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bypass import bypass_world
from tests.gate import gate_postgres


@pytest.fixture(scope="session")
def world() -> Iterator[bypass_world.World]:
    """The database of ``bypass_world.SCHEMA`` on a server that trusts everybody."""
    with gate_postgres.running() as port:
        yield bypass_world.World(port)
