"""One API server for all modules, and a service for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import Cluster
from tests.stage import Service, Settings, World


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The stage with an API server on its far host; ``cluster.world`` is the stage."""
    with World() as world, Cluster(world) as running:
        yield running


@pytest.fixture(scope="module")
def service(cluster: Cluster, settings: Settings) -> Iterator[Service]:
    """A running service, with the ``settings`` of the test's module."""
    with Service(cluster.world, settings, name="kube") as running:
        yield running
