"""The tables: what was measured, as ratios, and which floors it meets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.http.load import Result
from bench.http.origin import PEOPLE, SMALL
from bench.http.routes import COMPILED, DIRECT, HAPROXY, HOSTAGENT, MITMPROXY, PLAIN, TLS
from bench.load import Watched
from bench.report import _table

Cell = tuple[str, str, str, str]
"""Protocol, kind, path, how it was loaded."""

H1, H2, CALLS = "HTTP/1.1", "HTTP/2", "gRPC"
C16 = "16 connections"
PACED = "16 connections, 2,000 a second"
_FLAT_MB = 32.0


@dataclass
class Report:
    """Everything measured in one run: ``cells`` by cell and route; ``downloads`` by kind and route, (bytes, seconds, the proxy's memory)."""

    cells: dict[Cell, dict[str, Result]] = field(default_factory=dict)
    downloads: dict[str, dict[str, tuple[int, float, Watched | None]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    seconds: float = 0.0
    load: float = 0.0

    def text(self) -> str:
        """Return the report as Markdown."""
        parts = [
            "# Results of `make bench-http`",
            "",
            "One run on one machine: read the ratios, not the figures. Client, proxy and server share its processors.",
            f"Load average of the machine before it began: {self.load:.1f} on {os.cpu_count()} processors. Where that is not near 0, the figures only",
            "indicate: read the proxy's processor time of each request instead.",
            "",
            *(f"**MISSING: {what}**\n" for what in self.missing),
            "## Floors",
            "",
            *_table(
                ("", "measured", "floor", ""),
                [(what, f"{value:.2f}", f"{'≥' if least else '≤'} {floor:g}", _word(value, floor, least=least)) for what, value, floor, least in self.floors()],
            ),
            "",
            "## Requests",
            "",
            *self._requests(),
            "",
            "## Large downloads",
            "",
            *self._downloads(),
            "",
            f"Measured in {self.seconds:.0f} s.",
        ]
        return "\n".join(parts) + "\n"

    def floors(self) -> Iterator[tuple[str, float, float, bool]]:
        """Yield (what, measured, floor, whether it is the least allowed rather than the most) for every floor that was measured."""
        for route in (HOSTAGENT, COMPILED):
            for kind, rival, floor in ((PLAIN, MITMPROXY, 20.0), (PLAIN, HAPROXY, 0.3), (TLS, HAPROXY, 0.3)):
                found = self.cells[H1, kind, SMALL, C16]
                if route in found and rival in found:
                    yield f"small GETs, {kind}, of {rival}; {route}", found[route].rps / found[rival].rps, floor, True
            for kind, times in self.downloads.items():
                if route not in times:
                    continue
                _, seconds, memory = times[route]
                assert memory is not None
                yield f"large download, {kind}, of haproxy; {route}", times[HAPROXY][1] / seconds, 0.5, True
                yield f"memory grown by the large download, {kind}, MB; {route}", memory.peak - memory.before, _FLAT_MB, False
            for (protocol, kind, path, how), found in self.cells.items():
                if (protocol, path) == (H1, SMALL) and how in (C16, PACED) and route in found and DIRECT in found:
                    yield f"added p99, {kind}, {how}, ms; {route}", (found[route].p99 - found[DIRECT].p99) / 1e3, 1, False
                if path == PEOPLE and route in found:
                    yield f"JSON masked, {kind}, {how}, MB/s; {route}", found[route].rps * self.sizes[PEOPLE] / 1e6, 30, True

    def _requests(self) -> Iterator[str]:
        rows = []
        for (protocol, kind, path, how), found in self.cells.items():
            for name, result in found.items():
                size = self.sizes.get(path)
                rows.append(
                    (
                        protocol, kind, path, how, name, f"{result.rps:,.0f}", f"{result.rps * size / 1e6:,.0f}" if size else "",
                        _ratio(found, name, DIRECT), _ratio(found, name, HAPROXY),
                        f"{result.p50:,.0f}", f"{result.p99:,.0f}", f"{result.proxy_us:.0f}" if result.proxy_us else "",
                    )
                )  # fmt: skip
        head = ("", "", "path", "load", "route", "a second", "MB/s", "of direct", "of haproxy", "p50 µs", "p99 µs", "proxy's processor µs each")
        yield from _table(head, rows)

    def _downloads(self) -> Iterator[str]:
        rows = []
        for kind, found in self.downloads.items():
            for name, (size, seconds, memory) in found.items():
                flat = f"{memory.before:.0f} / {memory.peak:.0f} / {memory.after:.0f}" if memory else ""
                ratio = found[HAPROXY][1] / seconds
                rows.append((kind, name, f"{size / 1e6:,.0f}", f"{seconds:.2f}", f"{size / seconds / 1e6:,.0f}", f"{ratio:.2f}", flat))
        yield from _table(("", "route", "MB", "s", "MB/s", "of haproxy", "proxy's memory before / peak / after, MB"), rows)


def _ratio(found: dict[str, Result], route: str, rival: str) -> str:
    return f"{found[route].rps / found[rival].rps:.2f}" if rival in found else ""


def _word(value: float, floor: float, *, least: bool) -> str:
    return "PASS" if (value >= floor if least else value <= floor) else "BELOW"
