"""One host under load: governed programs that connect all the time, an ungoverned one beside them, and the wire's far end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from hostagent.cli.enforcerlink import EnforcerConnection
from hostagent.enforcer import kernel
from hostagent.enforcer.cgroup import Slice
from hostagent.ipc import Reload, Reloaded
from tests.netns.stage import BPF, FIREWALL, PROXY_UID, SINK_4, SINK_6, Stage, stage, wait_for

LOAD = Path(__file__).with_name("load.py").read_text()
RATE = 1250.0
"""Attempts a second asked for, so that even a busy machine makes a thousand."""

CONTROL_RATE = 150.0
_WORKLOADS = [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]


class Rig(Stage):
    """A stage whose sink and proxy count. ``plain``: its table is not owned, as before Linux 6.9."""

    sink_module = "tests.lifecycle.wire"
    proxy_module = "tests.lifecycle.counting_proxy"

    def __init__(self, folder: Path, *rest: Any) -> None:
        super().__init__(folder, *rest)
        self._ports = folder / "loopback_ports.json"
        self._ports.write_text("[5432]")
        self.settings["loopback_ports_file"] = str(self._ports)
        self.token = f"proxied {secrets.token_hex(8)}\n"
        token = Path(f"{self.proxy_log}.token")
        token.write_text(self.token)
        os.chown(token, PROXY_UID, PROXY_UID)

    def wire_line(self) -> dict[str, Any]:
        """Return the newest line of the wire's far end."""
        lines = [line for line in self.sink_log.read_text().split("\n")[:-1] if line]
        return dict(json.loads(lines[-1]))

    def options(self, **more: object) -> str:
        targets = [(int(socket.AF_INET), SINK_4), (int(socket.AF_INET6), SINK_6)]
        return json.dumps({"rate": RATE, "token": self.token, "targets": targets, **more})

    def reload(self) -> None:
        """Reload with other loopback targets than before, so that every leaf's rules are loaded too."""
        self._ports.write_text("[5432, 3306]" if self._ports.read_text() == "[5432]" else "[5432]")
        with contextlib.closing(EnforcerConnection(self.socket_path)) as connection:
            connection.ask(Reload(), Reloaded)

    def kill_enforcer(self) -> None:
        assert self.enforcer is not None
        assert self.enforcer.stdout is not None
        self.enforcer.send_signal(signal.SIGKILL)
        self.enforcer.wait(20)
        self.enforcer.stdout.close()

    def restart_proxy(self) -> None:
        """Kill the proxy, start another, and wait until every leaf is served."""
        self.stop_proxy()
        self.start_proxy()
        wait_for("the leaves to be served", lambda: all(each["served"] for each in self.status()["leaves"]))

    def other_tool(self, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the host's network; what it says is its own affair (an owned table refuses some)."""
        with kernel.in_network(self.host):
            return subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)

    @property
    def slice_path(self) -> Path:
        return Slice(self.slice).path

    def ungoverned(self, *command: str) -> subprocess.Popen[str]:
        """Start a program on the host that nobody governs."""
        with kernel.in_network(self.host):
            return subprocess.Popen(command, cwd=self.repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def repository(self) -> Path:
        return Path(__file__).resolve().parents[2]


class Reported:
    """A process that writes a JSON line of figures again and again; ``last`` is the newest."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.last: dict[str, Any] = {}
        self.errors = ""
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._drain)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):  # cut off in the middle when it was killed
                self.last = json.loads(line)

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def end(self) -> dict[str, Any]:
        """End it by its input and return its last figures."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        for thread in self._threads:
            thread.join(20)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return self.last


@dataclass
class Figures:
    """What one event came to. Times in seconds; ``leaked`` in frames at the far end, beside bare ``resets``."""

    event: str
    placement: str
    times: int = 1
    attempts: int = 0
    seconds: float = 0.0
    met: Counter[str] = field(default_factory=Counter)
    leaked: int = 0
    leaks: list[str] = field(default_factory=list)
    resets: int = 0
    unread: int = 0
    outage: float = 0.0
    strays: Counter[str] = field(default_factory=Counter)
    control_attempts: int = 0
    control_failed: dict[str, int] = field(default_factory=dict)
    control_gap: float = 0.0
    note: str = ""

    @property
    def rate(self) -> float:
        return self.attempts / self.seconds if self.seconds else 0.0

    @property
    def suspicious(self) -> dict[str, int]:
        """What no attempt may ever meet: a sent datagram, or an answer that is not the proxy's."""
        both = self.met + self.strays
        return {key: count for key, count in both.items() if key == "udp: sent" or key.startswith("unknown") or (key == "proxied" and self.strays[key])}


class Starts(Protocol):
    """What a governed load is started with."""

    def options(self, **more: object) -> str: ...

    def start(self, workload: str, *command: str, **options: Any) -> subprocess.Popen[str]: ...


class Governed:
    """The governed load: a workload that connects all the time, launched anew when it was ended with its leaf."""

    def __init__(self, rig: Starts, workload: str) -> None:
        self._rig, self.workload = rig, workload
        self._all: list[dict[str, Any]] = []
        self.running = self._start()
        self.warm()

    def _start(self) -> Reported:
        command = ("/usr/bin/python3", "-I", "-c", LOAD, self._rig.options())
        return Reported(self._rig.start(self.workload, *command, stdin=subprocess.PIPE))

    def warm(self) -> None:
        """Wait until connections are served again."""
        began = time.monotonic()
        try:
            wait_for("a proxied connection", lambda: self.running.last.get("last", 0.0) > began)
        except AssertionError as error:
            raise AssertionError(f"{error}; the program met {self.running.last} and said {self.running.errors!r}") from None

    def again(self) -> None:
        """The program was ended: launch it anew, as often as it takes."""
        self._all.append(self.running.end())
        until = time.monotonic() + 20
        while time.monotonic() < until:
            self.running = self._start()
            wait_for("the launch", lambda: self.running.last or self.running.process.poll() is not None)
            if self.running.last:
                self.warm()
                return
            self.running.end()
        raise AssertionError(f"could not be launched again: {self.running.errors}")

    def end(self) -> list[dict[str, Any]]:
        self._all.append(self.running.end())
        return self._all


def outage(runs: list[dict[str, Any]]) -> float:
    """Return the longest time without a proxied connection, within runs and between one and the next."""
    within = [run["gap"] for run in runs if run]
    known = [run for run in runs if run.get("first")]
    between = [after["first"] - before["last"] for before, after in itertools.pairwise(known)]
    return max([*within, *between], default=0.0)


class Stray:
    """A process that root put into a leaf of the slice that enforcerd does not know. Nothing is served to it, nothing gets out."""

    def __init__(self, rig: Rig, name: str = "stray") -> None:
        self.leaf = rig.slice_path / name
        self.leaf.mkdir(exist_ok=True)
        command = (sys.executable, "-I", "-c", LOAD, rig.options(cgroup=str(self.leaf)))
        self.running = Reported(rig.ungoverned(*command))
        wait_for("the stray", lambda: self.running.last or self.running.process.poll() is not None)
        assert self.running.last, self.running.errors

    def end(self) -> dict[str, Any]:
        found = self.running.end()
        with contextlib.suppress(OSError):  # enforcerd may have been faster
            self.leaf.rmdir()
        return found


class Measurement:
    """Takes figures of whatever happens between entering and leaving."""

    def __init__(self, rig: Rig, event: str, placement: str, *, times: int = 1) -> None:
        self.rig = rig
        self.figures = Figures(event, placement, times)
        self.stray_runs: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._before = wait_for("the wire", lambda: self.rig.sink_log.exists() and self.rig.sink_log.read_text().count("\n") and self.rig.wire_line())
        self.control = Reported(self.rig.ungoverned(sys.executable, "-B", "-m", "tests.lifecycle.control", str(CONTROL_RATE), SINK_4, SINK_6))
        wait_for("the control", lambda: self.control.last or self.control.process.poll() is not None)
        assert self.control.last, self.control.errors
        self.load = Governed(self.rig, self.figures.placement.split()[0])
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        runs = self.load.end()
        control = self.control.end()
        if kind is not None:
            return
        figures = self.figures
        for run in runs:
            figures.attempts += run.get("attempts", 0)
            figures.seconds += run.get("seconds", 0.0)
            figures.met.update(run.get("met", {}))
        for run in self.stray_runs:
            figures.strays.update(run.get("met", {}))
        figures.outage = outage(runs)
        figures.control_attempts, figures.control_failed, figures.control_gap = control["attempts"], control["failed"], control["gap"]
        self._arrivals()

    def _arrivals(self) -> None:
        """Count what leaked, once one ungoverned datagram that looks like a leak has been counted: the wire is awake."""
        marker = secrets.token_bytes(8)
        with kernel.in_network(self.rig.host), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(marker, (SINK_4, 9))
        before = self._before["leaked"]
        after = wait_for("the marker", lambda: (line := self.rig.wire_line())["leaked"] > before and line)
        # A full list keeps no more: then the marker is missing from it, and there are leaks anyway.
        kept = after["kept"][len(self._before["kept"]) :]
        self.figures.leaks = [frame for frame in kept if marker.hex() not in frame]
        self.figures.leaked = after["leaked"] - before - 1 if any(marker.hex() in frame for frame in kept) else after["leaked"] - before
        self.figures.resets = after["resets"] - self._before["resets"]
        self.figures.unread = after["dropped"]


@contextlib.contextmanager
def rig(folder: Path, *, plain: bool = False, iptables: bool = False, without_bpf: bool = False) -> Iterator[Rig]:
    """Yield a host under test, quiet until a ``Measurement`` begins."""
    firewall, bpf = "iptables" if iptables else FIREWALL, "off" if without_bpf else BPF
    with stage(folder, _WORKLOADS, plain_table=plain, firewall=firewall, bpf=bpf, kind=Rig) as built:
        assert isinstance(built, Rig)
        yield built
