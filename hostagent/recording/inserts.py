"""Journal payloads into the live tables: DuckDB reads them as JSON lines out of a file in memory.

A string parameter with one payload a line, split and parsed by SQL, costs three times as much; it serves as the careful way, for
a batch in which something cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import duckdb
import msgspec

from hostagent.journal import Accepted
from hostagent.recording import batches
from hostagent.recording.batches import LARGEST, LINES

TYPED = ("connection", "login", "statement", "result", "close", "kernel_flow")
TABLES = (*TYPED, "event", "brief")
# What DuckDB raises for an event it cannot take.
REFUSED = (duckdb.DataError, duckdb.InvalidInputException, duckdb.OutOfMemoryException)
_COMMON = ("writer", "seq", "at_ns", "flow", "workload")
_TABLE_OF = {kind: kind for kind in TYPED}
class Inserts:
    """The INSERT statements of one open database; columns and types come from its tables."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the statements for the tables of schema ``live``."""
        self._connection = connection
        self._fast: dict[str, tuple[str, str]] = {}
        self._careful: dict[str, str] = {}
        for table in TABLES:
            self._fast[table], self._careful[table] = self._statements(table) if table != "brief" else batches.statements()

    def events(self, writer: str, events: Sequence[tuple[int, Accepted]], *, careful: bool = False) -> int:
        """Insert ``events`` of ``writer``, each given with its branch; returns how many.

        ``careful``: each was found to be ``readable``.

        Raises:
            duckdb.Error: one of ``REFUSED`` for an event that DuckDB cannot take; the transaction is to be rolled back.
        """
        groups: dict[tuple[int, str], list[bytes]] = {}
        counts: dict[tuple[int, str], int] = {}
        for branch, accepted in events:
            place = branch, "brief" if accepted.rows else _TABLE_OF.get(accepted.line.kind, "event")
            groups.setdefault(place, []).append(accepted.payload)
            counts[place] = counts.get(place, 0) + (accepted.rows or 1)
        for (branch, table), group in groups.items():
            label = f"{writer}#{branch}" if branch else writer
            if careful:
                text = b"\n".join(group).decode("utf-8", "replace")
                self._connection.execute(self._careful[table], [label, text])
            else:
                self._insert(table, label, group, counts[branch, table])
        return sum(counts.values())

    def readable(self, branch: int, accepted: Accepted) -> list[tuple[int, Accepted]]:
        """Return the line as it is if DuckDB can read it, else a stand-in for each of its events that says so."""
        insert = self._careful["brief" if accepted.rows else _TABLE_OF.get(accepted.line.kind, "event")]
        try:
            if len(accepted.payload) > LARGEST:
                raise duckdb.OutOfMemoryException(f"an event of {len(accepted.payload)} bytes")
            trial = insert[insert.index(" select ") :]
            rows = self._connection.execute(trial, ["", accepted.payload.decode("utf-8", "replace")]).fetchall()
            if len(rows) == (accepted.rows or 1):
                return [(branch, accepted)]
        except duckdb.Error:
            pass
        return [(branch, _unreadable(accepted, seq)) for seq in range(accepted.line.seq, accepted.last + 1)]

    def _insert(self, table: str, label: str, group: Sequence[bytes], count: int) -> None:
        before, after = self._fast[table]
        with batches.in_memory(group) as path:
            done = self._connection.execute(f"{before}{path}{after}", [label]).fetchone()
        if done is None or done[0] != count:
            raise duckdb.InvalidInputException(f"of {count} events {done} were inserted")

    def _statements(self, table: str) -> tuple[tuple[str, str], str]:
        """Return the INSERT that reads JSON lines from a file, as what stands before and after its path; and the careful one."""
        columns = [
            (str(name), str(kind))
            for name, kind in self._connection.execute(
                "select column_name, data_type from duckdb_columns() where database_name = 'store' and schema_name = 'live'"
                " and table_name = ? order by column_index",
                [table],
            ).fetchall()
        ]
        shape: dict[str, object] = {"seq": "UBIGINT", "at": "BIGINT", "flow": "VARCHAR", "workload": "VARCHAR"}
        fields = {name: kind for name, kind in columns if name not in _COMMON}
        if table == "event":
            shape |= {"kind": "VARCHAR", "fields": "JSON"}
            values = ["e.kind", "e.fields"]
        else:
            shape["fields"] = fields
            values = [f'e.fields."{name}"' for name in fields]
        into = f"insert into live.{table} select ?,"
        rest = ", ".join(['e."at"', "e.flow", "e.workload", *values])
        text = json.dumps(shape).replace("'", "''")
        # The text comes from VALUES, not as a bare parameter: DuckDB would work that out while planning, one value at a time.
        lines = "select unnest(string_split(j, chr(10))) as j from (values (?)) as t(j)"
        careful = f"{into} e.seq, {rest} from (select from_json(j, '{text}') as e from ({lines}))"  # noqa: S608
        if table != "event":
            shape["fields"] = "struct(" + ", ".join(f'"{name}" {kind}' for name, kind in fields.items()) + ")"
        listed = ", ".join(f"'{name}': '{str(kind).replace(chr(39), chr(39) * 2)}'" for name, kind in shape.items())
        # A line that is no JSON comes as NULLs; it must not pass for an event.
        number = "coalesce(e.seq, error('an event cannot be read'))"
        before = f"{into} {number}, {rest} from read_json('"
        return (before, f"', columns = {{{listed}}}, {LINES}) as e"), careful


def _unreadable(accepted: Accepted, seq: int) -> Accepted:
    line = accepted.line
    payload = json.dumps({"seq": seq, "kind": "unreadable", "at": line.at, "flow": "", "workload": "", "fields": {}})
    return accepted._replace(payload=payload.encode(), line=msgspec.structs.replace(line, seq=seq, kind="unreadable"), rows=0)
