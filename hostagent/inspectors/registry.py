"""The protocols we understand: one row each. A protocol that is not here is denied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from hostagent.inspectors.http.inspector import HttpInspector
from hostagent.inspectors.http.opening import ALPN
from hostagent.inspectors.kubernetes.inspector import KubernetesInspector
from hostagent.inspectors.ports import Desk, Inspector, Surroundings
from hostagent.inspectors.postgres.inspector import PostgresInspector


class Row(NamedTuple):
    """One protocol.

    ``inspector`` makes what understands it. ``alpn`` is its name inside TLS (RFC 7301), on both sides. ``has_catalogue``: the
    target's schema is fetched before a session, because masking needs it. ``at_once``: how many bytes of a target's are fed at once; what
    they may cost is the inspector's to bound (``command.Again``) where they are more than the default.
    """

    inspector: Callable[[Desk, Surroundings], Inspector]
    alpn: str
    has_catalogue: bool = False
    at_once: int = 8192


PROTOCOLS: Final[Mapping[str, Row]] = {
    "postgres": Row(PostgresInspector, "postgresql", has_catalogue=True, at_once=262_144),
    "http": Row(HttpInspector, ALPN),
    "kubernetes": Row(KubernetesInspector, ALPN),
}
