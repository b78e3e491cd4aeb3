"""Another enforcerd goes on with the leaves of the one before, whether that was told to stop or was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.manager import Manager
from tests.netns.stage import SINK_4, Stage, stage, unix_socket_pair, wait_for

# Answers each line: a dial of the sink by TCP, a masked socket, a unix target's socket, or a call that is denied.
_WORK = """
import ctypes, socket, sys
kept = socket.socket(socket.AF_UNIX); kept.connect(TARGET)
for line in sys.stdin:
    word = line.strip()
    try:
        if word == "raw":
            socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
        elif word == "udp":
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"leak", (SINK, 9999))
        else:
            with socket.socket(socket.AF_UNIX if word.startswith("/") else socket.AF_INET) as dialled:
                dialled.settimeout(20)
                dialled.connect(word if word.startswith("/") else (SINK, 443))
                print(dialled.recv(100).decode().split(" ")[0] or "closed", flush=True)
                continue
        print("done", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


class Program:
    """A governed program that does one thing per line."""

    def __init__(self, host: Stage, workload: str, target: str) -> None:
        prelude = f"SINK={SINK_4!r}\nTARGET={target!r}\n"
        command = ["/usr/bin/python3", "-u", "-c", prelude + _WORK]
        self.process = host.start(workload, *command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.workload = workload

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(30)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[Stage, str, str]]:
    """A host under a manager that keeps descriptors; the path of a masked socket and of a unix target."""
    with tempfile.TemporaryDirectory(prefix="hatest-", dir="/opt") as name, unix_socket_pair(Path(name) / "stranger.sock"):
        Path(name).chmod(0o755)
        manager = Manager(Path(name))
        workloads: list[dict[str, Any]] = [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]

        class Managed(Stage):
            def start_enforcer(self) -> None:
                self.manager = manager
                super().start_enforcer()

        target = f"{name}/database/target.sock"  # its folder is covered in a workload's view
        Path(target).parent.mkdir(mode=0o755)
        with unix_socket_pair(Path(target)), stage(Path(name), workloads, kind=Managed, unix_targets=[target]) as built:
            yield built, f"{name}/stranger.sock", target


def _again(host: Stage, number: int) -> None:
    assert host.enforcer is not None
    assert host.enforcer.stdout is not None
    host.enforcer.send_signal(number)
    host.enforcer.wait(20)
    host.enforcer.stdout.close()
    host.start_enforcer()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workloads_go_on_under_the_next_enforcerd_as_fenced_as_before(kept: tuple[Stage, str, str], number: int) -> None:
    host, masked, target = kept
    programs = [Program(host, each, target) for each in ("isolated", "shared")]
    for each in programs:
        assert each.ask("tcp").startswith(f"{each.workload}-"), host.events("admission")[-2:]
    frames = len(host.seen_by_sink())
    before = {row["leaf"]: row["pid"] for row in host.status()["leaves"]}
    _again(host, number)
    # Its connection broke with the old one; it is the same proxy that comes back in reality.
    host.start_proxy()
    assert {row["leaf"]: row["pid"] for row in host.status()["leaves"]} == before
    wait_for("the proxy to serve them", lambda: all(row["served"] for row in host.status()["leaves"]))
    refusals = len(host.events("refusal"))
    for each in programs:
        assert each.ask("tcp").startswith(f"{each.workload}-")
        assert each.ask(target).startswith(f"{each.workload}-")
        assert each.ask("raw") in ("PermissionError", "OSError")
        assert each.ask(masked) == "closed"
        each.ask("udp")
    for layer in ("seccomp", "mount"):
        wait_for(f"rows of {layer}", lambda layer=layer: {row["leaf"] for row in host.events("refusal")[refusals:] if row["layer"] == layer} >= set(before))
    # Two looks of the auditor: what it keeps from before must not look foreign to it.
    looked = host.status()["auditor"]["last_at"]
    wait_for("another look", lambda: host.status()["auditor"]["last_at"] > looked + 1)
    assert {row["leaf"] for row in host.status()["leaves"]} == set(before)
    assert [each.end() for each in programs] == [0, 0]
    assert host.leaked(frames) == []
    wait_for("their leaves' end", lambda: host.status()["leaves"] == [])
    assert host.manager is not None
    host.manager.hear()
    assert host.manager.kept == {}


def test_a_program_that_ended_meanwhile_and_one_whose_launcher_left_are_over(kept: tuple[Stage, str, str]) -> None:
    host, _, target = kept
    program, orphan = Program(host, "isolated", target), Program(host, "shared", target)
    assert program.ask("tcp")
    assert orphan.ask("tcp")
    pids = {row["workload"]: row["pid"] for row in host.status()["leaves"]}
    assert host.enforcer is not None
    assert host.enforcer.stdout is not None
    host.enforcer.kill()
    host.enforcer.wait(20)
    host.enforcer.stdout.close()
    os.kill(pids["isolated"], signal.SIGTERM)
    orphan.process.kill()
    host.start_enforcer()
    wait_for("their leaves' end", lambda: host.status()["leaves"] == [])
    assert [program.end(), orphan.end()] == [128 + signal.SIGTERM, -signal.SIGKILL]
    assert list((Path("/sys/fs/cgroup") / host.slice).glob("*-*")) == []
