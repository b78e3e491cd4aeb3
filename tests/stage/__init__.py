"""The stage: a whole little world in namespaces, for the demo, the end-to-end tests and the bench.

An *agent host* (the namespaces the caller is in) and a *database host* (a network namespace behind a veth pair) with a real
PostgreSQL with TLS and sample customer data, and sinks that write down every byte that reaches them.
"""

from tests.stage.service import Service, Settings
from tests.stage.world import World

__all__ = ["Service", "Settings", "World"]
