"""The same load on the whole service: enforcerd, proxyd and recorderd as ``hostagent up`` runs them, killed and replaced under it.

The governed dial ports that no target names: proxyd accepts each connection, refuses it by its policy and closes it, and the sinks
on the other host, which serve those ports, must see nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.lifecycle.load import PORTS
from tests.lifecycle.rig import RATE, Figures, Governed, outage
from tests.stage.service import Service, Settings
from tests.stage.sinks import TCP_PORTS
from tests.stage.world import DATABASE_V4, DATABASE_V6, World, wait_for

_WORKLOAD = "launchers: [root]\nidentity: {kind: local, groups: [support], purpose: lifecycle}\nplacement: %s\n"
_CONTROL_RATE = 50.0
_BACK_S = 40.0


class Whole:
    """A running service on the stage, as ``Governed`` wants it."""

    def __init__(self, world: World, service: Service) -> None:
        self.world, self.service = world, service

    def options(self, **more: object) -> str:
        """Return the load's options. Being closed without a word is what a governed connection is to meet here."""
        targets = [(int(socket.AF_INET), DATABASE_V4), (int(socket.AF_INET6), DATABASE_V6)]
        ports = [port for port in TCP_PORTS if port != 53] + list(PORTS)[1:17]
        return json.dumps({"rate": RATE, "token": "", "targets": targets, "ports": ports, **more})

    def start(self, workload: str, *command: str, **options: Any) -> subprocess.Popen[str]:
        words = [*self.service.command, "run", "--workload", workload, "--no-tty", "--", *command]
        return subprocess.Popen(
            words, env=self.service.environment, cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )


class Control:
    """An ungoverned program's connections (a thread of ours) to the database host, counted."""

    def __init__(self) -> None:
        self.attempts, self.gap = 0, 0.0
        self.failed: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(1 / _CONTROL_RATE):
            family, address = ((socket.AF_INET, DATABASE_V4), (socket.AF_INET6, DATABASE_V6))[self.attempts % 2]
            self.attempts += 1
            try:
                with socket.socket(family) as made:
                    made.settimeout(5.0)
                    made.connect((address, 5432))
            except OSError as error:
                self.failed[str(error)] = self.failed.get(str(error), 0) + 1
                continue
            self.gap, last = max(self.gap, time.monotonic() - last), time.monotonic()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(20)


def kill(whole: Whole, load: Governed, name: str) -> None:
    """Kill one of the three and wait until its successor serves; enforcerd's workloads end with it and are launched again."""
    before = whole.service.pid(name)
    os.kill(before, 9)

    def replaced() -> bool:
        with contextlib.suppress(RuntimeError, OSError):  # a process that ends while it is looked at
            return whole.service.pid(name) != before
        return False

    wait_for(replaced, f"another {name}", _BACK_S)
    if name == "enforcerd":
        load.again()
    else:
        load.warm()


def upgrade(whole: Whole, load: Governed) -> None:
    """Stop the service and start it anew, as an upgrade of the package does."""
    whole.service.stop()
    time.sleep(0.3)
    whole.service.start()
    load.again()


EVENTS: dict[str, Callable[[Whole, Governed], None]] = {
    "service: recorderd kill -9": lambda whole, load: kill(whole, load, "recorderd"),
    "service: proxyd kill -9": lambda whole, load: kill(whole, load, "proxyd"),
    "service: enforcerd kill -9": lambda whole, load: kill(whole, load, "enforcerd"),
    "service: stopped and started": upgrade,
}


@contextlib.contextmanager
def whole() -> Iterator[Whole]:
    """Yield a running service with one workload per placement."""
    documents = {f"{placement}.yaml": _WORKLOAD % placement for placement in ("isolated", "shared")}
    with World() as world, Service(world, Settings(workloads=documents), name="lifecycle") as service:
        yield Whole(world, service)


def measure(running: Whole, name: str, placement: str, times: int) -> Figures:
    """Run one of ``EVENTS`` under load and return its figures."""
    figures = Figures(name, placement, times)
    before = len(running.world.sink_lines())
    control = Control()
    load = Governed(running, placement)
    try:
        for _ in range(times):
            EVENTS[name](running, load)
    finally:
        runs = load.end()
        control.end()
    for run in runs:
        figures.attempts += run.get("attempts", 0)
        figures.seconds += run.get("seconds", 0.0)
        figures.met.update(run.get("met", {}))
    figures.outage = outage(runs)
    figures.control_attempts, figures.control_failed, figures.control_gap = control.attempts, control.failed, control.gap
    figures.leaks = _arrived(running, before)
    figures.leaked = len(figures.leaks)
    return figures


def _arrived(running: Whole, before: int) -> list[str]:
    """Return what the sinks saw, once they have seen one ungoverned datagram: they are awake."""
    marker = os.urandom(8).hex()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(marker.encode(), (DATABASE_V4, 9999))
    wait_for(lambda: any(marker in line and line.startswith("udp") for line in running.world.sink_lines()), "the marker")
    return [line for line in running.world.sink_lines()[before:] if marker not in line]
