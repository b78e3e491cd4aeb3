"""The tables: what was measured, as ratios, and which floors it meets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.load import Result, Watched
from bench.routes import ALLOW_ALL, COMPILED, CUSTOMER_DATA, DIRECT, FORWARDER, PGBOUNCER

if TYPE_CHECKING:
    from bench.floors import Profile

_ROUTES = (DIRECT, FORWARDER, PGBOUNCER, CUSTOMER_DATA, ALLOW_ALL, COMPILED)
_FLAT_MB = 32.0


@dataclass
class Report:
    """Everything measured in one run.

    ``transactions``: by (mode, clients, route). ``bulk``: by (kind, route), (bytes on the wire, seconds). ``memory``: by
    (kind, route). ``idle``: kB per connection by route.
    """

    transactions: dict[tuple[str, int, str], Result] = field(default_factory=dict)
    bulk: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    memory: dict[tuple[str, str], Watched] = field(default_factory=dict)
    connections: dict[str, Result] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    profile: Profile | None = None
    seconds: float = 0.0
    load: float = 0.0

    def text(self) -> str:
        """Return the report as Markdown."""
        parts = [
            "# Results of `make bench`",
            "",
            "One run on one machine: read the ratios, not the figures. Client, proxy and database share its processors.",
            f"Load average of the machine before it began: {self.load:.1f} on {os.cpu_count()} processors. Where that is not near 0,",
            "read the proxy's processor time of each transaction instead of the ratios.",
            "",
        ]
        for section in (
            self._floors,
            self._transaction_table,
            self._bulk_table,
            self._connection_table,
            self._profile_table,
        ):
            parts += [*section(), ""]
        parts.append(f"Measured in {self.seconds:.0f} s.")
        return "\n".join(parts) + "\n"

    def floors(self) -> list[tuple[str, float, float, str]]:
        """Return (what, measured, floor, how the two compare) of every floor; the last begins with PASS or BELOW.

        What the package installs is compiled, so that its floors count wherever it was measured; a checkout's stand beside them.
        """
        found = []
        for route in (CUSTOMER_DATA, ALLOW_ALL, COMPILED):
            if route not in self.connections:
                continue
            beside = ", not compiled" if COMPILED in self.connections and route != COMPILED else ""
            for mode in ("simple", "prepared"):
                ours, theirs = (self.transactions[mode, 8, name].tps for name in (route, PGBOUNCER))
                found.append((f"pgbench -S -c8, {mode}, of pgbouncer; {route}", ours / theirs, 0.5, beside))
            ratio = self.bulk["rows", DIRECT][1] / self.bulk["rows", route][1]
            found.append((f"the large result, of direct; {route}", ratio, 0.8, beside))
        size, seconds = self.bulk["masked", CUSTOMER_DATA]
        found.append((f"masked scan, MB/s; {CUSTOMER_DATA}", size / seconds / 1e6, 20.0, ""))
        rows = [
            (what, value, floor, ("PASS" if value >= floor else "BELOW") + beside) for what, value, floor, beside in found
        ]
        memory = self.memory["rows", CUSTOMER_DATA]
        grown = memory.peak - memory.before
        rows.append(
            (
                "memory grown by the large result, MB (at most)",
                grown,
                _FLAT_MB,
                "PASS" if grown <= _FLAT_MB else "BELOW",
            )
        )
        return rows

    def _floors(self) -> Iterator[str]:
        yield "## Floors\n"
        yield from _table(
            ("", "measured", "floor", ""),
            [(what, f"{value:.2f}", f"{floor:g}", word) for what, value, floor, word in self.floors()],
        )

    def _transaction_table(self) -> Iterator[str]:
        yield "## `pgbench -S`\n"
        rows = []
        for mode, clients in dict.fromkeys((mode, clients) for mode, clients, _ in self.transactions):
            direct, bouncer = (self.transactions[mode, clients, name].tps for name in (DIRECT, PGBOUNCER))
            for name in _ROUTES:
                r = self.transactions.get((mode, clients, name))
                if r is None:
                    continue
                proxy = f"{r.proxy_us:.0f}" if r.proxy_us else ""
                rows.append(
                    (mode, str(clients), name, f"{r.tps:,.0f}", f"{r.tps / direct:.2f}", f"{r.tps / bouncer:.2f}", f"{r.p50:.0f}", f"{r.p99:.0f}", proxy)
                )  # fmt: skip
        head = (
            "mode",
            "clients",
            "route",
            "tps",
            "of direct",
            "of pgbouncer",
            "p50 µs",
            "p99 µs",
            "proxy's processor µs each",
        )
        yield from _table(head, rows)

    def _bulk_table(self) -> Iterator[str]:
        yield "## Large results\n"
        rows = []
        for (kind, name), (size, seconds) in self.bulk.items():
            memory = self.memory.get((kind, name))
            flat = f"{memory.before:.0f} / {memory.peak:.0f} / {memory.after:.0f}" if memory else ""
            ratio = self.bulk[kind, DIRECT][1] / seconds
            rows.append(
                (kind, name, f"{size / 1e6:.0f}", f"{seconds:.2f}", f"{size / seconds / 1e6:.0f}", f"{ratio:.2f}", flat)
            )
        yield from _table(
            ("result", "route", "MB", "s", "MB/s", "of direct", "proxy's memory before / peak / after, MB"), rows
        )

    def _connection_table(self) -> Iterator[str]:
        yield "## Connections\n"
        rows = []
        for name, r in self.connections.items():
            idle = f"{self.idle[name]:.0f}" if name in self.idle else ""
            rows.append((name, f"{r.tps:,.0f}", f"{1e3 / r.tps:.2f}", f"{r.proxy_us:.0f}" if r.proxy_us else "", idle))
        head = (
            "route",
            "connect, ask once, leave: per second",
            "ms each",
            "proxy's processor µs each",
            "kB per idle connection",
        )
        yield from _table(head, rows)

    def _profile_table(self) -> Iterator[str]:
        yield "## Where the time goes\n"
        profile = self.profile
        if profile is None:
            return
        yield f"A fresh decision costs {profile.decision_fresh:.1f} µs, a cached one {profile.decision_cached:.1f} µs (finding its statement included)."
        yield "Inside proxyd without sockets, `customer-data`, recording on; the rest of its time is the event loop and the kernel.\n"
        floors = list(dict.fromkeys(floor for shares in profile.shares.values() for floor in shares))
        rows = [
            (name, f"{micros:.1f}", *(f"{profile.shares[name].get(floor, 0.0):.0%}" for floor in floors))
            for name, micros in profile.micros.items()
        ]
        yield from _table(("step", "µs", *floors), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
