"""Unix sockets of the host that come into a running workload's view (attack 50), and the workload's own, which stay."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.enforcer import kernel
from hostagent.enforcer.audit.auditor import BOUND_S
from tests.netns.stage import Stage, new_network, stage, unix_socket_pair, wait_for

pytestmark = pytest.mark.root

BOTH = ("isolated", "shared")
_SCHEDULING_S = 1.0


@pytest.fixture(scope="module")
def born() -> Iterator[Stage]:
    # Not below /tmp, which is private: a place of the host's that every workload sees.
    with tempfile.TemporaryDirectory(prefix="hatest-", dir="/opt") as name:
        Path(name).chmod(0o755)
        for folder in ("seen", "written"):
            (Path(name) / folder).mkdir()
            (Path(name) / folder).chmod(0o777)
            os.chown(Path(name) / folder, 1000, 1000)
        paths = [[f"{name}/written", True]]
        workloads: list[dict[str, object]] = [
            {"name": "isolated", "paths": paths},
            {"name": "shared", "placement": "shared", "paths": paths},
            {"name": "login", "placement": "shared", "user": "nobody", "paths": paths},
        ]
        with stage(Path(name), workloads) as built:
            yield built


_DIALLER = """
import json, socket, sys
for line in sys.stdin:
    with socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[1])) as dial:
        dial.settimeout(5)
        try:
            dial.connect(line.strip())
            print("reached" if dial.type == socket.SOCK_DGRAM else repr(dial.recv(10)), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
"""


@contextlib.contextmanager
def dialler(host: Stage, workload: str, kind: str = "SOCK_STREAM") -> Iterator[subprocess.Popen[str]]:
    process = host.start(workload, "/usr/bin/python3", "-I", "-c", _DIALLER, kind, stdin=subprocess.PIPE)
    try:
        assert dial(process, "/nowhere/at/all") == "FileNotFoundError"
        time.sleep(1.2)  # what comes now comes after two looks
        yield process
    finally:
        process.kill()
        process.communicate()
        wait_for("the leaf's end", lambda: host.status()["leaves"] == [])


def dial(process: subprocess.Popen[str], path: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 10)[0], "no answer"
    return process.stdout.readline().strip()


def masked(host: Stage, path: str) -> list[dict[str, object]]:
    return [row for row in host.events("audit") if row["finding"] == "unix-listener" and row["detail"] == path]


def wait_masked(host: Stage, path: str, since: float) -> float:
    wait_for(f"the mask of {path}", lambda: masked(host, path))
    return time.monotonic() - since


@pytest.mark.parametrize("folder", ["seen", "written"])
@pytest.mark.parametrize("workload", [*BOTH, "login"])
def test_a_socket_that_appears_after_the_launch_is_masked_within_the_bound(born: Stage, workload: str, folder: str) -> None:
    path = born.folder / folder / f"late-{workload}"
    with dialler(born, workload) as process:
        since = time.monotonic()
        with kernel.in_network(born.host):
            server = unix_socket_pair(path)
        with server:
            took = wait_masked(born, str(path), since)
            print(f"{workload} {folder}: masked after {took * 1000:.0f} ms")
            assert took < BOUND_S + _SCHEDULING_S
            assert dial(process, str(path)) in ("b''", "ConnectionResetError", "ConnectionRefusedError")
            server.settimeout(0.3)
            with pytest.raises(TimeoutError):
                server.accept()
            row = wait_for("the row", lambda: [r for r in born.events("refusal") if r["layer"] == "mount" and r["destination"] == str(path)])[0]
            assert row["workload"] == workload
            assert (masked(born, str(path))[0]["action"], born.status()["leaves"] != []) == ("masked", True)
    path.unlink()


@pytest.mark.parametrize("workload", BOTH)
def test_one_that_is_made_anew_is_masked_anew(born: Stage, workload: str) -> None:
    """A server's restart takes the mask away with the old file."""
    path = born.folder / "seen" / f"anew-{workload}"
    first = unix_socket_pair(path)
    with dialler(born, workload) as process:
        assert dial(process, str(path)) in ("b''", "ConnectionResetError")
        first.close()
        path.unlink()
        since = time.monotonic()
        with unix_socket_pair(path) as second:
            assert wait_masked(born, str(path), since) < BOUND_S + _SCHEDULING_S
            assert dial(process, str(path)) in ("b''", "ConnectionResetError", "ConnectionRefusedError")
            second.settimeout(0.3)
            with pytest.raises(TimeoutError):
                second.accept()
    path.unlink()


@pytest.mark.parametrize("name", ["relative", "crooked", "renamed", "datagram", "elsewhere"])
def test_however_it_was_named_and_wherever_its_maker_is(born: Stage, name: str) -> None:
    folder = born.folder / "seen"
    path = folder / name
    before = Path.cwd()
    with dialler(born, "isolated", "SOCK_DGRAM" if name == "datagram" else "SOCK_STREAM") as process, contextlib.ExitStack() as kept:
        since = time.monotonic()
        kind = socket.SOCK_DGRAM if name == "datagram" else socket.SOCK_STREAM
        network = born.host
        if name == "elsewhere":
            network = new_network()
            kept.callback(os.close, network)
        os.chdir(folder)
        try:
            with kernel.in_network(network):
                server = kept.enter_context(socket.socket(socket.AF_UNIX, kind))
        finally:
            os.chdir(before)
        bound = {"relative": "relative", "crooked": f"{folder}/../seen/crooked", "renamed": f"{folder}/first"}.get(name, str(path))
        os.chdir(folder)
        server.bind(bound)
        os.chdir(before)
        if name == "renamed":
            Path(bound).rename(path)
        if name == "relative":
            # Its maker stays where it was, as any program that gave such a name does.
            os.chdir(folder)
            kept.callback(os.chdir, before)
        path.chmod(0o777)
        if kind == socket.SOCK_STREAM:
            server.listen()
        if name == "elsewhere":
            with kernel.in_network(network):
                sleeper = kept.enter_context(subprocess.Popen(["sleep", "60"]))
            kept.callback(sleeper.kill)
        assert wait_masked(born, str(path), since) < BOUND_S + _SCHEDULING_S + (1.0 if name == "elsewhere" else 0.0)
        assert dial(process, str(path)) != "reached"
        os.chdir(before)
    path.unlink()


_CONTAINED = """
import os, socket, sys
os.umask(0)
os.chdir("/srv")
kept = []
for name in ("/srv/absolute", "relative"):
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].bind(name)
    kept[-1].listen()
print("ready", flush=True)
sys.stdin.read()
"""


def test_one_that_a_container_makes_in_a_folder_of_the_hosts_under_another_name(born: Stage) -> None:
    folder = born.folder / "seen" / "volume"
    folder.mkdir()
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /srv && exec "$@"', str(folder)]
    with dialler(born, "isolated") as process:
        since = time.monotonic()
        command = [*enter, "/usr/bin/python3", "-I", "-c", _CONTAINED]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            for name in ("absolute", "relative"):
                assert wait_masked(born, f"{folder}/{name}", since) < BOUND_S + 2 * _SCHEDULING_S
                assert dial(process, f"{folder}/{name}") in ("b''", "ConnectionResetError", "ConnectionRefusedError")
            server.stdin.close()


_OWN = """
import json, os, socket, sys, threading, time
folders = [each for each in ("/tmp", "/dev/shm", "/var/tmp", os.environ["HOME"], sys.argv[1]) if os.access(each, os.W_OK)]
assert len(folders) >= 4
kept, until = [], time.monotonic() + 2.5
for folder in folders:
    path = f"{folder}/own-{os.getpid()}"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        made = socket.socket(socket.AF_UNIX, kind)
        made.bind(f"{path}-{int(kind)}")
        if kind == socket.SOCK_STREAM:
            made.listen()
        kept.append((made, f"{path}-{int(kind)}"))
while time.monotonic() < until:
    for made, path in kept:
        with socket.socket(socket.AF_UNIX, made.type) as dial:
            dial.connect(path)
            if made.type == socket.SOCK_STREAM:
                made.accept()[0].close()
            else:
                dial.send(b"x")
                assert made.recv(10) == b"x"
    # As servers do that start again and again.
    short = socket.socket(socket.AF_UNIX)
    short.bind(f"{folders[-1]}/short-{os.getpid()}")
    short.listen()
    time.sleep(0.05)
    short.close()
    os.unlink(f"{folders[-1]}/short-{os.getpid()}")
for made, path in kept:
    made.close()
    os.unlink(path)
print(json.dumps("done"))
"""


@pytest.mark.parametrize("workload", [*BOTH, "login"])
def test_a_workloads_own_sockets_stay_where_they_are(born: Stage, workload: str) -> None:
    before = len(born.events("audit"))
    done = born.run(workload, "/usr/bin/python3", "-I", "-c", _OWN, str(born.folder / "written"))
    assert (done.returncode, done.stdout) == (0, json.dumps("done") + "\n"), done.stderr
    own = [row for row in born.events("audit")[before:] if row["workload"] == workload and str(born.folder) in str(row["detail"])]
    assert own == []


_MANY = """
import os, socket, sys, time
base, places, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.chdir(base)
for each in range(places):
    os.mkdir(f"place-{each}")
    if os.fork() == 0:
        os.chdir(f"place-{each}")
        sys.stdin.read()
        os._exit(0)
kept = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(names)]
for number, each in enumerate(kept):
    each.bind(f"s-{number}")
print("ready", flush=True)
sys.stdin.read()
"""


def test_names_and_places_by_the_thousand_hold_nobody_up_and_end_nobody(born: Stage) -> None:
    """Any local user can make them: every name in every place would be 150,000 paths, looked at twice a second."""
    base = born.folder / "seen" / "many"
    base.mkdir()
    os.chown(base, 1000, 1000)
    slowest = 0.0
    with dialler(born, "isolated") as process:
        command = ["/usr/bin/python3", "-I", "-c", _MANY, str(base), "150", "1000"]
        with subprocess.Popen(command, user=1000, group=1000, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == "ready\n"
            until = time.monotonic() + 30
            while time.monotonic() < until and not all(masked(born, f"{base}/s-{number}") for number in (0, 499, 999)):
                began = time.monotonic()
                assert len(born.status()["leaves"]) == 1
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.05)
            for number in (0, 499, 999):
                assert dial(process, f"{base}/s-{number}") in ("b''", "ConnectionResetError", "ConnectionRefusedError", "OSError")
            began = time.monotonic()
            assert born.run("shared", "true").returncode == 0
            launched = time.monotonic() - began
            crowd.stdin.close()
    print(f"slowest answer {slowest * 1000:.0f} ms, launch {launched * 1000:.0f} ms")
    assert slowest < 2.0
