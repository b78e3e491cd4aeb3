"""The completeness ledger: every dial that the kernel saw must have its row from the proxy; the rest is an alarm.

The question itself is SQL (``schema/flows.sql``) and the view ``unmatched_flows`` answers it over everything. Here it is
asked every few seconds over the newest rows, so that somebody hears of it. The caller owns both clocks.
"""

from __future__ import annotations

import logging

from hostagent.recording.schema import LEDGER_TABLES, ledger
from hostagent.recording.store import Store

log = logging.getLogger(__name__)

GRACE_NS = 5_000_000_000
LATEST_NS = 9_000_000_000
"""A dial is judged when it is ``GRACE_NS`` old and the proxy has written something since, whatever it was: one that stands still has
not looked at its connections yet. A proxy that writes nothing at all is waited for no longer than ``LATEST_NS``."""
_AFTER_NS = 200_000_000
_WRITING = ("connection", "login", "statement", "result", "close", "event")
_SPAN_NS = 10_000_000_000
_LOGGED = 10


class Ledger:
    """Looks for dials without a record. ``unmatched`` counts what was found since the start (for /metrics)."""

    def __init__(self, store: Store, *, interval: float = 1.0) -> None:
        """Begin where the last check ended; ``interval`` seconds lie between two checks."""
        self.unmatched = 0
        self._store = store
        self._interval = interval
        self._next = float("-inf")
        self._begin = self._scalar("select coalesce(max(at_ns), 0) from live.checked") - GRACE_NS
        self._judged = self._begin
        self._due = self._begin
        self._heard = 0
        self._told: dict[tuple[str, int], int] = {}

    def check(self, now: float, read_ns: int) -> bool:
        """Judge what has become old enough; returns whether there is something to publish.

        Args:
            now: monotonic seconds.
            read_ns: the wall clock when the reading began that took in everything there was, in unix nanoseconds.
        """
        if now < self._next:
            return False
        self._next = now + self._interval
        return self.settle(read_ns)

    def settle(self, read_ns: int) -> bool:
        """The same at once."""
        newest = self._scalar(f"select coalesce(max(at_ns), 0) from {self._rows('kernel_flow', self._judged)}")  # noqa: S608
        if newest <= self._judged:
            return False
        due = self._due_ns(read_ns)
        self._store.execute("delete from live.checked")
        # When every dial there is was judged, all has been up to this reading; the view's own grace is taken off again there.
        self._store.execute("insert into live.checked values (?)", [read_ns if due >= newest else due + GRACE_NS])
        found = self._alarm()
        self._judged = max(self._judged, min(newest, due))
        return found

    def _due_ns(self, read_ns: int) -> int:
        """Return until when dials are judged now: never earlier than last time.

        What the proxy had written by the check before counts, so that whatever it did in the same moment has been read since.
        """
        alive = min(read_ns - GRACE_NS, self._heard - _AFTER_NS)
        self._due = max(self._due, alive, read_ns - LATEST_NS)
        newest = " union all ".join(f"select max(at_ns) as latest from live.{name} where writer like 'proxyd-%'" for name in _WRITING)  # noqa: S608
        self._heard = max(self._heard, self._scalar(f"select coalesce(max(latest), 0) from ({newest})"))  # noqa: S608
        return self._due

    def _alarm(self) -> bool:
        # A whole span of ten seconds is compared at once, so the look back begins at its beginning.
        since = (self._judged // _SPAN_NS - 1) * _SPAN_NS
        sources = {name: self._rows(name, since) for name in LEDGER_TABLES}
        rows = self._store.execute(
            f"select writer, seq, at_ns, workload, leaf, source, destination, coalesce(\"count\", 1), pid, lineage[1].exe"  # noqa: S608
            f" from ({ledger(sources)}) order by at_ns"
        )
        self._told = {key: at for key, at in self._told.items() if at >= since}
        # What lies before our beginning was told by an earlier life of ours.
        fresh = [row for row in rows if _int(row[2]) > self._begin and (str(row[0]), _int(row[1])) not in self._told]
        for row in fresh:
            self._told[str(row[0]), _int(row[1])] = _int(row[2])
            self.unmatched += _int(row[7])
        for row in fresh[:_LOGGED]:
            log.error("ALARM unmatched flow: workload %s, leaf %s dialled %s from %s, the proxy has no record of it (pid %s, %s)",
                      row[3], row[4], row[6], row[5] or "several ports", row[8] or "unknown", row[9] or "program unknown")  # fmt: skip
        if len(fresh) > _LOGGED:
            log.error("ALARM %d more unmatched flows: see the view unmatched_flows", len(fresh) - _LOGGED)
        return bool(fresh)

    def _rows(self, table: str, since: int) -> str:
        """Return a query for the rows of ``table`` from ``since`` on: the live ones, and sealed files that hold such."""
        parts = [f"select * from live.{table} where at_ns >= {since}"]  # noqa: S608
        paths = self._store.execute(
            "select path from live.sealed where source = ? and last_at >= ? order by seal", [table, since]
        )
        for (path,) in paths:
            place = str(path).replace("'", "''")
            parts.append(f"select * from read_parquet('{place}') where at_ns >= {since}")  # noqa: S608
        return f"({' union all by name '.join(parts)})"

    def _scalar(self, statement: str) -> int:
        return _int(self._store.execute(statement)[0][0])


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
