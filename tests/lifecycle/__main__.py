"""`make lifecycle`: every event at its full number, one line of figures each; exit 1 on a leak. Run as root.

``python -m tests.lifecycle [WORD...]``: only events whose name and placement hold every word.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lifecycle.events import BOTH, EVENTS, Event
from tests.lifecycle.rig import Figures, Measurement, rig
from tests.lifecycle.whole import EVENTS as WHOLE_EVENTS
from tests.lifecycle.whole import measure as measure_whole
from tests.lifecycle.whole import whole

_INSIDE = "HOSTAGENT_LIFECYCLE_INSIDE"
_RATE = 1000.0
_WHOLE_TIMES = 3
_HEAD = f"{'event':<31} {'placement':<19} {'times':>5} {'attempts':>8} {'per s':>6} {'leaked':>6} {'governed out':>12} {'others failed':>13} {'others out':>10}  governed met"


def measure(event: Event, placement: str, times: int, folder: Path) -> Figures:
    """Run one event under load and return its figures."""
    variant = {"plain": "plain" in placement, "iptables": "iptables" in placement, "without_bpf": "no eBPF" in placement}
    with rig(folder, **variant) as built, Measurement(built, event.name, placement, times=times) as measurement:
        event.body(measurement, times)
    return measurement.figures


def printed(figures: Figures, found: list[str]) -> bool:
    """Print a line of figures and what is wrong with them; return whether anything is."""
    if figures.rate < _RATE:
        found = [*found, f"only {figures.rate:.0f} attempts a second: too slow to show anything"]
    print(row(figures), *(f"\n    FAULT: {fault}" for fault in found), sep="", flush=True)
    return bool(found)


def faults(event: Event | None, figures: Figures) -> list[str]:
    """Return what must not be: leaks, what the capture missed, answers that nobody may get, and others' failures."""
    found = []
    if figures.leaked or figures.leaks:
        found.append(f"{figures.leaked} frames leaked: {figures.leaks[:3]}")
    if figures.resets and "plain" not in figures.placement:
        found.append(f"{figures.resets} resets of the kernel left the host")
    if figures.suspicious:
        found.append(f"met what it must not: {figures.suspicious}")
    if figures.unread:
        found.append(f"{figures.unread} frames were not captured")
    if not figures.met["proxied"]:
        found.append("nothing was proxied: the load did not run")
    if figures.control_failed and not (event and event.breaks_others):
        found.append(f"others failed: {figures.control_failed}")
    return found


def row(figures: Figures) -> str:
    """Return the figures as one line below ``_HEAD``."""
    met = ", ".join(f"{what} {count}" for what, count in figures.met.most_common())
    strays = f"; strays: {', '.join(f'{what} {count}' for what, count in figures.strays.most_common())}" if figures.strays else ""
    strays += f"; {figures.resets} bare resets of the kernel on the wire" if figures.resets else ""
    note = f"; {figures.note}" if figures.note else ""
    return (
        f"{figures.event:<31} {figures.placement:<19} {figures.times:>5} {figures.attempts + sum(figures.strays.values()):>8} {figures.rate:>6.0f}"
        f" {figures.leaked:>6} {figures.outage * 1000:>9.0f} ms {sum(figures.control_failed.values()):>6}/{figures.control_attempts:<6}"
        f" {figures.control_gap * 1000:>7.0f} ms  {met}{strays}{note}"
    )


def main(words: list[str]) -> int:
    """Enter private namespaces and run the events."""
    if os.geteuid() != 0:
        print("make lifecycle: must run as root", file=sys.stderr)
        return 1
    if _INSIDE not in os.environ:
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "tests.lifecycle", *words]
        return subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(_HEAD, flush=True)
    bad = 0
    for event in EVENTS:
        for placement in event.placements:
            if not all(word in f"{event.name} {placement}" for word in words):
                continue
            with tempfile.TemporaryDirectory(prefix="hatest-") as name:
                Path(name).chmod(0o755)
                figures = measure(event, placement, event.full, Path(name))
            bad += printed(figures, faults(event, figures))
    chosen = [(name, placement) for name in WHOLE_EVENTS for placement in BOTH if all(word in f"{name} {placement}" for word in words)]
    with whole() if chosen else contextlib.nullcontext() as running:
        for name, placement in chosen:
            assert running is not None
            figures = measure_whole(running, name, placement, _WHOLE_TIMES)
            bad += printed(figures, faults(None, figures))
    print(f"{bad} with a fault" if bad else "no leak, nobody else disturbed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
