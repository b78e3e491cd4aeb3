"""Fixtures of the gate's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gate import gate_postgres


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[int]:
    """The port of a real PostgreSQL that trusts everybody."""
    with gate_postgres.running() as port:
        yield port
