"""``python -m bench.http [--quick]``: HTTP in one run, in namespaces of its own. Needs root."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import compiled
from bench.http.load import Result, Route, download, h2load, median, wrk
from bench.http.origin import LARGE, LARGE_BYTES, MEDIUM, MEDIUM_BYTES, PEOPLE, RPC, SMALL, people, serving
from bench.http.report import C16, CALLS, H1, H2, PACED, Report
from bench.http.routes import (
    COMPILED,
    HOSTAGENT,
    MITMPROXY,
    PLAIN,
    TLS,
    governed_route,
    mitmproxy_programs,
    plain_routes,
)
from bench.http.routes import RPC as RPC_URL
from bench.load import Watched
from tests.stage import World

_INSIDE = "HOSTAGENT_BENCH_INSIDE"
_MITMPROXY = "HOSTAGENT_BENCH_MITMPROXY"
# A gRPC message: not compressed, four bytes.
_CALL = "\\000\\000\\000\\000\\004ping"
_CALL_FIELDS = ("-H", "content-type: application/grpc", "-H", "te: trailers")


def main() -> int:
    """Enter private namespaces, measure, print, and write ``bench/results-http.md``."""
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute: few cells, one round, nothing compiled; ratios are rough")
    parser.add_argument("--output", default=str(Path(__file__).parents[1] / "results-http.md"), help="where the tables are written")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("make bench-http must be run as root: it builds network and mount namespaces of its own.", file=sys.stderr)
        return 77
    if _INSIDE not in os.environ:
        inside = {**os.environ, _INSIDE: "1"}
        try:
            inside[_MITMPROXY] = str(mitmproxy_programs())
        except RuntimeError as error:
            print(error, file=sys.stderr)
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "bench.http", *sys.argv[1:]]
        return subprocess.call(command, env=inside)
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
        self._seconds = 2
        self._report = Report(load=os.getloadavg()[0], sizes={MEDIUM: MEDIUM_BYTES, PEOPLE: len(people())})
        self._started = time.monotonic()
        self._routes: list[Route] = []

    def run(self) -> Report:
        """Build the stage and measure everything."""
        large = LARGE_BYTES // 8 if self._quick else LARGE_BYTES
        with World() as world, ExitStack() as stack:
            self._say("servers and rivals")
            world.stop_sinks()
            stack.enter_context(serving(world, large=large))
            self._routes += stack.enter_context(plain_routes(world, self._mitmproxy()))
            names = [HOSTAGENT]
            if not self._quick and compiled.can_build():
                self._say("compiling the hot floors")
                (world.folder / "compiled").mkdir(mode=0o755)
                compiled.build(world.folder / "compiled")
                names.append(COMPILED)
            for name in names:
                self._say(f"starting {name}")
                self._routes.append(stack.enter_context(governed_route(world, name)))
            for route in self._routes:
                for kind in (PLAIN, TLS):  # certificates are made, names resolved
                    download(route, kind, PEOPLE, None)
            self._requests()
            self._multiplexed()
            self._downloads(large)
        self._report.seconds = time.monotonic() - self._started
        return self._report

    def _requests(self) -> None:
        for kind in (PLAIN, TLS):
            for connections in (16,) if self._quick else (1, 16, 256):
                how = f"{connections} connection{'s' if connections > 1 else ''}"
                self._wrk(kind, SMALL, how, connections)
            self._wrk(kind, MEDIUM, C16, 16, without=(MITMPROXY,))
            for connections in (1, 16):
                self._wrk(kind, PEOPLE, f"{connections} connection{'s' if connections > 1 else ''}", connections, without=(MITMPROXY,))
            words = ("--h1", "-c16", "--rps=125", f"-D{self._seconds}")
            self._cell((H1, kind, SMALL, PACED), lambda route, kind=kind, words=words: h2load(route, kind, SMALL, *words), (MITMPROXY,))  # type: ignore[misc]

    def _multiplexed(self) -> None:
        for connections, streams in ((16, 16),) if self._quick else ((1, 16), (16, 16), (256, 4)):
            words = (f"-c{connections}", f"-m{streams}", f"-D{self._seconds}")
            how = f"{connections} × {streams} streams"
            self._cell((H2, TLS, SMALL, how), lambda route, words=words: h2load(route, TLS, SMALL, *words), (MITMPROXY,))  # type: ignore[misc]
        words = ("-c16", "-m4", f"-D{self._seconds}", *_CALL_FIELDS)
        self._cell((CALLS, TLS, RPC, "16 × 4 streams"), lambda route: h2load(route, RPC_URL, RPC, *words, body=_CALL), (MITMPROXY,))

    def _downloads(self, size: int) -> None:
        for kind in (PLAIN, TLS):
            self._say(f"{size:,} bytes, {kind}")
            found: dict[str, list[float]] = {}
            memory: dict[str, Watched] = {}
            for _ in range(1 if self._quick else 3):
                for route in self._routes:
                    if route.name == MITMPROXY:
                        continue
                    if route.proxy is not None:
                        with Watched(route.proxy) as memory[route.name]:
                            seconds = download(route, kind, LARGE, size)
                    else:
                        seconds = download(route, kind, LARGE, size)
                    found.setdefault(route.name, []).append(seconds)
            self._report.downloads[kind] = {
                name: (size, sorted(times)[len(times) // 2], memory.get(name)) for name, times in found.items()
            }

    def _wrk(self, kind: str, path: str, how: str, connections: int, without: Sequence[str] = ()) -> None:
        # Connections of which each begins with a session and a dial need their time to be there.
        seconds = self._seconds * (3 if connections > 100 else 1)
        self._cell((H1, kind, path, how), lambda route: wrk(route, kind, path, connections=connections, seconds=seconds), without)

    def _cell(self, cell: tuple[str, str, str, str], load: Callable[[Route], Result], without: Sequence[str] = ()) -> None:
        self._say(" ".join(cell))
        found: dict[str, list[Result]] = {}
        for _ in range(1 if self._quick else 2):
            for route in self._routes:
                if route.name in without:
                    continue
                try:
                    found.setdefault(route.name, []).append(load(route))
                except RuntimeError as error:
                    self._miss(f"{' '.join(cell)} on {route.name}: {error}")
        self._report.cells[cell] = {name: median(results) for name, results in found.items() if results}

    def _mitmproxy(self) -> Path | None:
        if _MITMPROXY in os.environ:
            return Path(os.environ[_MITMPROXY])
        self._miss("mitmproxy could not be installed, so its floor is not measured.")
        return None

    def _miss(self, what: str) -> None:
        """Say what was not measured, here and at the top of the report: its floors are not there either."""
        self._report.missing.append(what.splitlines()[0])
        print(f"MISSING: {what}", file=sys.stderr)

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._started:5.0f} s] {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
