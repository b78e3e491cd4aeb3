"""One stage per test module that asks for it: both placements, a refused workload, one that runs as a login user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.stage import Stage, stage


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("host")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "data").write_text("given")
    trust = folder / "trust.pem"
    trust.write_text("own root\n")
    workloads: list[dict[str, object]] = [
        {"name": "isolated", "paths": [[str(shared), False]], "trust_files": [str(trust)], "environment": {"FROM": "document"}},
        {"name": "shared", "placement": "shared"},
        {"name": "other", "placement": "shared"},
        {"name": "unwanted"},
        {"name": "nobody", "user": "nobody"},
        {"name": "superuser", "user": "root"},
        {"name": "served", "inbound": [8080]},
        {"name": "theirs", "launchers": ["daemon"]},
    ]
    with stage(folder, workloads) as built:
        yield built
