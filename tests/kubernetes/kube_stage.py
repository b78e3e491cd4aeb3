"""The stage itself, nothing governed: kubectls of two ages stream through the real API server to the stand-in of a node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> Path:
    """The folder of the pod ``plain``."""
    return cluster.pod("plain")


@pytest.fixture(params=["kubectl", "kubectl_debian"])
def program(request: pytest.FixtureRequest, cluster: Cluster) -> Path:
    """Streams over WebSocket (the current one) or SPDY (Debian's)."""
    path: Path = getattr(cluster.programs, request.param)
    return path


@contextmanager
def _running(cluster: Cluster, program: Path, *words: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    command = [*cluster.as_administrator(program), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/", **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def test_a_command_runs_in_the_container_and_its_status_comes_back(cluster: Cluster, program: Path, pod: Path) -> None:
    done = cluster.kubectl("exec", "-i", "plain", "--", "sh", "-c", "cat; pwd; echo no >&2; exit 3", program=program, check=False, input="in\n")
    assert done.startswith(f"in\n{pod}\nno\ncommand terminated with exit code 3")


def test_a_terminal_is_a_terminal(cluster: Cluster, program: Path, pod: Path) -> None:
    words = ["script", "-qec", " ".join([*cluster.as_administrator(program), "exec", "-it", "plain", "--", "tty"]), "/dev/null"]
    shown = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "/dev/pts/" in shown


def test_files_are_copied_both_ways(cluster: Cluster, program: Path, pod: Path, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(bytes(range(256)) * 4096)
    cluster.kubectl("cp", str(tmp_path / "up"), f"default/plain:{program.name}", program=program)
    assert (pod / program.name).read_bytes() == (tmp_path / "up").read_bytes()
    cluster.kubectl("cp", f"default/plain:{program.name}", str(tmp_path / "down"), program=program)
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_a_port_is_forwarded(cluster: Cluster, program: Path, pod: Path) -> None:
    with _running(cluster, program, "port-forward", "plain", ":10250") as forwarding:
        assert forwarding.stdout is not None
        port = forwarding.stdout.readline().split()[2].rpartition(":")[2]
        # Whatever listens there does: the node itself asks for TLS in plain words.
        said = cluster.world.on_database_host("curl", "-sS", "-m", "20", f"http://127.0.0.1:{port}/").stdout
    assert said == "Client sent an HTTP request to an HTTPS server.\n"


def test_a_log_is_followed(cluster: Cluster, program: Path, pod: Path) -> None:
    log = pod.with_suffix(".log")
    with log.open("a", encoding="utf-8", buffering=1) as file, _running(cluster, program, "logs", "-f", "plain") as following:
        assert following.stdout is not None
        for number in range(3):
            file.write(f"{number} said to {program.name}\n")
            while following.stdout.readline() != f"{number} said to {program.name}\n":
                assert following.poll() is None
    assert f"2 said to {program.name}\n" == cluster.kubectl("logs", "plain", "--tail=1", program=program)


def test_what_a_container_reads_comes_back_while_attached(cluster: Cluster, program: Path, pod: Path) -> None:
    assert cluster.kubectl("attach", "-i", "plain", program=program, input="hello\n").endswith("attached to plain\nhello\n")
