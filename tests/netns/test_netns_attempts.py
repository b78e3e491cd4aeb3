"""Refusals that are no packets: denied system calls and dials of masked sockets become rows, and a flood of them bounds itself."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.stage import Stage, stage, unix_socket_pair, wait_for

pytestmark = pytest.mark.root

PLACEMENTS = ["isolated", "shared"]

_CALLS = """
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return errno.errorcode[ctypes.get_errno()] if libc.syscall(number, *arguments) < 0 else "done"
def make(*arguments):
    try:
        socket.socket(*arguments)
        return "made"
    except OSError as error:
        return errno.errorcode[error.errno]
"""
_ATTEMPTS = """
print(json.dumps({
    "packet": make(17, 3, 0x300), "vsock": make(40, 1, 0), "raw": make(2, 3, 1), "mptcp": make(2, 1, 262),
    "unshare": call(272, 0x50000000), "setns": call(308, 0, 0), "bpf": call(321, 0, 0, 0), "ring": call(425, 8, 0),
    "ptrace": call(101, 16, 1, 0, 0), "thread": call(435, 0, 0), "listener": call(317, 1, 8, 0), "pid": os.getpid(),
}))
"""


def _rows(host: Stage, workload: str, layer: str = "seccomp") -> dict[str, int]:
    found: dict[str, int] = {}
    for row in host.events("refusal"):
        if (row["workload"], row["layer"]) == (workload, layer):
            key = row["destination"] or row["reason"].removeprefix("system call refused: ")
            found[key] = found.get(key, 0) + row["count"]
    return found


@pytest.fixture
def both(place: Path) -> Iterator[Stage]:
    with stage(place, [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]) as built:
        yield built


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_denied_calls_fail_as_ever_and_each_is_a_row(both: Stage, workload: str) -> None:
    observed = both.probe(workload, _CALLS + _ATTEMPTS)
    assert observed == {
        "packet": "EAFNOSUPPORT",
        "vsock": "EAFNOSUPPORT",
        "raw": "EPERM",
        "mptcp": "EPROTONOSUPPORT",
        "unshare": "EPERM",
        "setns": "EPERM",
        "bpf": "EPERM",
        "ring": "ENOSYS",
        "ptrace": "EPERM",
        "thread": "ENOSYS",
        "listener": "EPERM",
        "pid": 2,
    }
    wait_for("the leaf's end", lambda: both.status()["leaves"] == [])
    assert _rows(both, workload) == {
        "socket(AF_PACKET, SOCK_RAW)": 1,
        "socket(AF_VSOCK, SOCK_STREAM)": 1,
        "socket(AF_INET, SOCK_RAW)": 1,
        "socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP)": 1,
        "unshare(CLONE_NEWUSER|CLONE_NEWNET)": 1,
        "setns": 1,
        "bpf": 1,
        "io_uring_setup": 1,
        "ptrace": 1,
    }
    assert all(row["leaf"].startswith(f"{workload}-") for row in both.events("refusal"))


_FLOOD = """
import threading, time
end = time.monotonic() + 3
counts = []
def flood():
    mine = 0
    while time.monotonic() < end:
        libc.syscall(308, mine % 7, mine)
        mine += 1
    counts.append(mine)
threads = [threading.Thread(target=flood) for _ in range(32)]
[t.start() for t in threads]
[t.join() for t in threads]
print(json.dumps(sum(counts)))
"""


def test_a_flood_of_denied_calls_slows_the_one_who_makes_it_and_nobody_else(both: Stage) -> None:
    process = both.start("isolated", "/usr/bin/python3", "-I", "-c", _CALLS + _FLOOD)
    wait_for("the program", lambda: [each for each in both.status()["leaves"] if each["stage"] == "running"])
    slowest = 0.0
    asked = 0
    while process.poll() is None:
        began = time.monotonic()
        both.status()
        slowest = max(slowest, time.monotonic() - began)
        asked += 1
    out, err = process.communicate()
    assert err == ""
    made = json.loads(out)
    assert (asked > 50, slowest < 1.0) == (True, True), (asked, slowest)
    # 1000 at once and 500 a second, for about three seconds; one call per thread may be under way at the end.
    assert 500 < made < 1000 + 500 * 6 + 32
    wait_for("the leaf's end", lambda: both.status()["leaves"] == [])
    assert _rows(both, "isolated") == {"setns": made}
    assert len([row for row in both.events("refusal") if row["layer"] == "seccomp"]) <= 10


_LATER = """
import threading
def other():
    while not os.path.exists("OUT/over"):
        open("OUT/alive", "w").write("x")
        time.sleep(0.01)
threading.Thread(target=other, daemon=True).start()
open("OUT/ready", "w").close()
while (answer := call(308, 0, 0)) == "EPERM":
    open("OUT/answered", "w").close()
    time.sleep(0.01)
answers = [answer, call(272, 0x10000000), make(17, 3, 0), make(2, 1, 6)]
open("OUT/new", "w").write(json.dumps(answers))
os.rename("OUT/new", "OUT/answers")
time.sleep(60)
"""


@pytest.fixture(params=PLACEMENTS)
def later(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[Stage, Path]]:
    """A program that makes denied calls until one is not answered EPERM, and says so in a folder."""
    out = place / "out"
    out.mkdir()
    out.chmod(0o777)
    workload = {"name": "w", "placement": request.param, "paths": [[str(out), True]]}
    with stage(place, [workload]) as host:
        process = host.start("w", "/usr/bin/python3", "-I", "-c", _CALLS.replace("json", "time, json", 1) + _LATER.replace("OUT", str(out)))
        try:
            wait_for("an answered call", lambda: (out / "answered").exists() or process.poll() is not None)
            yield host, out
        finally:
            process.kill()
            process.communicate()


def test_when_enforcerd_is_killed_denied_calls_are_refused_and_do_not_hang(later: tuple[Stage, Path]) -> None:
    host, out = later
    assert host.enforcer is not None
    host.enforcer.kill()
    host.enforcer.wait()
    wait_for("answers", (out / "answers").exists)
    assert json.loads((out / "answers").read_text()) == ["ENOSYS", "ENOSYS", "ENOSYS", "made"]


def test_while_enforcerd_hangs_a_denied_call_waits_and_the_other_threads_go_on(later: tuple[Stage, Path]) -> None:
    host, out = later
    assert host.enforcer is not None
    os.kill(host.enforcer.pid, signal.SIGSTOP)
    try:
        for name in ("answered", "alive"):
            (out / name).unlink(missing_ok=True)
        wait_for("the other thread", (out / "alive").exists)
        (out / "answered").unlink(missing_ok=True)  # a call that had been answered just before
        (out / "alive").unlink()
        wait_for("the other thread again", (out / "alive").exists)
        assert not (out / "answered").exists()
    finally:
        os.kill(host.enforcer.pid, signal.SIGCONT)
    wait_for("the answer", (out / "answered").exists)


_DIALS = """
def dial(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(10)
        try:
            s.connect(path)
            return s.recv(9).decode()
        except OSError as error:
            return errno.errorcode[error.errno]
print(json.dumps([[dial(p) for p in PATHS] for _ in range(3)] + [dial(PATHS[0], socket.SOCK_DGRAM), dial(PATHS[0] + "-absent")]))
"""


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_a_dial_of_a_masked_socket_is_closed_and_a_row_with_its_path(both: Stage, workload: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hostagent-test-", dir="/opt") as name:
        Path(name).chmod(0o755)
        servers = [unix_socket_pair(Path(name) / f"{number}.sock") for number in range(2)]
        paths = [str(Path(name) / f"{number}.sock") for number in range(2)]
        try:
            answers = both.probe(workload, _CALLS + _DIALS, PATHS=paths)
            for server in servers:
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    server.accept()
        finally:
            for server in servers:
                server.close()
    assert answers == [["", ""]] * 3 + ["EPROTOTYPE", "ENOENT"]
    wait_for("the leaf's end", lambda: both.status()["leaves"] == [])
    assert _rows(both, workload, "mount") == dict.fromkeys(paths, 3)


def test_more_sockets_than_listeners_share_the_last_one(both: Stage) -> None:
    with tempfile.TemporaryDirectory(prefix="hostagent-test-", dir="/opt") as name:
        Path(name).chmod(0o755)
        paths = [str(Path(name) / f"{number:03d}.sock") for number in range(100)]
        servers = [unix_socket_pair(Path(path)) for path in paths]
        before = _descriptors(both)
        answers = both.probe("isolated", _CALLS + _DIALS, PATHS=paths)
        for server in servers:
            server.close()
    wait_for("the leaf's end", lambda: both.status()["leaves"] == [])
    assert answers[:3] == [[""] * 100] * 3
    rows = _rows(both, "isolated", "mount")
    assert sum(rows.values()) == 300
    assert rows["other unix sockets"] >= 37 * 3
    # The connection over which its status was asked for is closed a moment after the answer.
    wait_for("every listener to be closed", lambda: _descriptors(both) <= before)


def _descriptors(host: Stage) -> int:
    return len(os.listdir(f"/proc/{_enforcer(host)}/fd"))


def _enforcer(host: Stage) -> int:
    assert host.enforcer is not None
    return host.enforcer.pid
