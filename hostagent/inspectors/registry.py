"""The protocols we understand: one row each. A protocol that is not here is denied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hostagent.inspectors.ports import Desk, Inspector, Surroundings
from hostagent.inspectors.postgres.inspector import PostgresInspector

PROTOCOLS: Final[Mapping[str, Callable[[Desk, Surroundings], Inspector]]] = {
    "postgres": PostgresInspector,
}
