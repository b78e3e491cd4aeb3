"""``python -m bench [--quick]``: everything in one run, in namespaces of its own. Needs root."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from bench import compiled
from bench.load import Result, Route, Watched, median, pgbench, resident
from bench.report import Report
from bench.routes import ALLOW_ALL, COMPILED, CUSTOMER_DATA, fill, governed_route, plain_routes, wire_bytes
from tests.stage import World

_INSIDE = "HOSTAGENT_BENCH_INSIDE"
_MODES = ("simple", "extended", "prepared")
_ROWS, _MASKED = "select * from events_1m;\n", "select * from customers;\n"
_ROWS_COLUMNS = ("id", "device", "reading", "place", "seen")
_MASKED_COLUMNS = ("id", "name", "email", "phone", "card_number", "country", "created")
_IDLE = 100


def main() -> int:
    """Enter private namespaces, measure, print, and write ``bench/results.md``."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute: few cells, one round; ratios are rough")
    parser.add_argument(
        "--output", default=str(Path(__file__).with_name("results.md")), help="where the tables are written"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("make bench must be run as root: it builds network and mount namespaces of its own.", file=sys.stderr)
        return 77
    if _INSIDE not in os.environ:
        command = [
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            sys.executable,
            "-m",
            "bench",
            *sys.argv[1:],
        ]
        return subprocess.call(command, env={**os.environ, _INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    report = Bench(quick=options.quick).run()
    print(report.text())
    if not options.quick:
        Path(options.output).write_text(report.text(), encoding="utf-8")
    return 0


class Bench:
    """One run. Rounds are interleaved: every route gets its turn in each, so that a busy moment hits all alike."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick
        self._report = Report(load=os.getloadavg()[0])
        self._started = time.monotonic()

    def run(self) -> Report:
        """Build the stage and measure everything."""
        rows, masked = (200_000, 20_000) if self._quick else (1_000_000, 100_000)
        with World() as world, ExitStack() as stack:
            self._say("database")
            world.stop_sinks()
            fill(world, scale=2 if self._quick else 10, rows=rows, masked=masked)
            routes = list(stack.enter_context(plain_routes(world)))
            governed = {CUSTOMER_DATA: "customer-data", ALLOW_ALL: "allow-all"}
            if not self._quick and compiled.can_build():
                self._say("compiling the hot floors")
                (world.folder / "compiled").mkdir(mode=0o755)
                compiled.build(world.folder / "compiled")
                governed[COMPILED] = "customer-data"
            for name, policy in governed.items():
                self._say(f"starting {name}")
                routes.append(stack.enter_context(governed_route(world, name, policy, compiled=name == COMPILED)))
            self._transactions(routes)
            self._bulk(routes, "rows", _ROWS, wire_bytes(world, "events_1m", _ROWS_COLUMNS), rows)
            self._bulk(routes, "masked", _MASKED, wire_bytes(world, "customers", _MASKED_COLUMNS), masked)
            self._connections(routes)
            self._idle([route for route in routes if route.proxy is not None])
        from bench.floors import where_the_time_goes

        self._say("profile by floor")
        self._report.profile = where_the_time_goes(2_000 if self._quick else 10_000)
        self._report.seconds = time.monotonic() - self._started
        return self._report

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._started:5.0f} s] {what}", file=sys.stderr, flush=True)

    def _transactions(self, routes: list[Route]) -> None:
        cells = [(mode, clients) for clients in (1, 8, 64) for mode in _MODES]
        if self._quick:
            cells = [("simple", 8), ("prepared", 8)]
        for mode, clients in cells:
            rounds = 3 if clients == 8 and mode != "extended" and not self._quick else 1
            seconds = "1" if self._quick else "2"
            self._say(f"pgbench -S, {mode}, {clients} clients")
            found: dict[str, list[Result]] = {route.name: [] for route in routes}
            for _ in range(rounds):
                for route in routes:
                    words = ["-S", "-M", mode, "-c", str(clients), "-j", str(min(clients, 2)), "-T", seconds]
                    found[route.name].append(pgbench(route, *words, sampling=0.1))
            for name, results in found.items():
                self._report.transactions[mode, clients, name] = median(results)

    def _bulk(self, routes: list[Route], kind: str, script: str, size: int, rows: int) -> None:
        self._say(f"{rows} rows, {kind}")
        found: dict[str, list[float]] = {route.name: [] for route in routes}
        for turn in range(2 if self._quick else 3):
            for route in routes:
                if route.proxy is None:
                    result = pgbench(route, "-t", "1", script=script)
                else:
                    with Watched(route.proxy) as memory:
                        result = pgbench(route, "-t", "1", script=script)
                    self._report.memory[kind, route.name] = memory
                if turn:  # the first warms up
                    found[route.name].append(result.p50 / 1e6)
        for name, times in found.items():
            self._report.bulk[kind, name] = (size, sorted(times)[len(times) // 2])

    def _connections(self, routes: list[Route]) -> None:
        self._say("connection set-up")
        seconds = "1" if self._quick else "2"
        for route in routes:
            self._report.connections[route.name] = pgbench(route, "-S", "-C", "-c", "1", "-T", seconds)

    def _idle(self, routes: list[Route]) -> None:
        self._say("idle connections")
        for route in routes:
            assert route.proxy is not None
            before = resident(route.proxy)
            with Watched(route.proxy) as memory:
                pgbench(route, "-c", str(_IDLE), "-t", "1", script="\\sleep 1 s\nselect 1;\n")
            self._report.idle[route.name] = (memory.peak - before) / _IDLE * 1024


if __name__ == "__main__":
    sys.exit(main())
