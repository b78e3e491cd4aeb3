"""One stage per test module that asks for it: both placements, a refused workload, one that runs as a login user."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.enforcer.bpf import objects
from tests.netns.ground import Ground
from tests.netns.stage import BPF, FIREWALL, Stage, stage


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the proxy's user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="hatest-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def host() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="hatest-") as name:
        yield from _host(Path(name), FIREWALL, bpf=BPF)


@pytest.fixture(scope="module")
def iptables_host() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="hatest-") as name:
        # Without eBPF: these tests ask what iptables alone refuses.
        yield from _host(Path(name), "iptables", bpf="off")


def _host(folder: Path, firewall: str, *, bpf: str) -> Iterator[Stage]:
    shared = folder / "shared"
    shared.mkdir()
    (shared / "data").write_text("given")
    trust = folder / "trust.pem"
    trust.write_text("own root\n")
    workloads: list[dict[str, object]] = [
        {"name": "isolated", "paths": [[str(shared), False]], "trust_files": [str(trust)], "environment": {"FROM": "document"}},
        {"name": "shared", "placement": "shared"},
        {"name": "other", "placement": "shared"},
        {"name": "without-unix", "placement": "shared", "unix_sockets": False},
        {"name": "unwanted"},
        {"name": "nobody", "user": "nobody"},
        {"name": "superuser", "user": "root"},
        {"name": "served", "inbound": [5432]},
        {"name": "theirs", "launchers": ["daemon"]},
    ]
    with stage(folder, workloads, firewall=firewall, bpf=bpf) as built:
        yield built


@pytest.fixture(scope="session")
def built() -> objects.Objects:
    return objects.compiled(objects.source(2))


@pytest.fixture
def ground(built: objects.Objects) -> Iterator[Ground]:
    made = Ground(built)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def port() -> Iterator[int]:
    """A listener on loopback that accepts as fast as it can."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
