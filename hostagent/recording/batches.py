"""The journal's batches: lines of several rows, whose numbers follow from the first one's. Many at once go straight into a sealed file."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from hostagent.journal import Accepted, counted
from hostagent.recording.reader import Batch

# An event beyond this has no place in the memory that DuckDB may use; what proxyd writes is smaller.
LARGEST = 8 * 1024 * 1024
# Without errors ignored, a field of another type than its column would refuse the batch: it becomes NULL, as in ``from_json``.
LINES = (
    f"format = 'newline_delimited', compression = 'uncompressed', hive_partitioning = false, ignore_errors = true, "
    f"maximum_object_size = {LARGEST}"
)
# So many rows of one writer are a file of their own: the live tables would only write them twice more.
_MANY = 30_000
# The columns of live.brief behind the writer, but for the number: that comes first and follows from the place in the batch.
_ROW = (
    ('"at"', "BIGINT"), ("flow", "VARCHAR"), ('"like"', "UBIGINT"), ("statement", "UBIGINT"),
    ("ordinal", "INTEGER"), ("digest", "VARCHAR"), ("parameters", "VARCHAR[]"),
    ("tag", "VARCHAR"), ('"rows"', "BIGINT"), ("bytes", "BIGINT"), ("masked_values", "BIGINT"),
    ("detections", "MAP(VARCHAR, BIGINT)"), ("elapsed_us", "BIGINT"),
)  # fmt: skip
_REFUSE = "error('a row of a batch cannot be read')"


def statements() -> tuple[tuple[str, str], str]:
    """Return the INSERT that reads batches from a file, as what stands before and after its path; and the careful one (``inserts``)."""
    select, into = _select("?"), "insert into live.brief "
    shape = json.dumps({"seq": "UBIGINT", "events": [{name.strip('"'): kind for name, kind in _ROW}]})
    lines = "select unnest(string_split(j, chr(10))) as j from (values (?)) as t(j)"
    careful = f"{into}{select}(select unnest(from_json(j, '{shape}')) from ({lines}))) as b"  # noqa: S608
    before, after = _source()
    return (f"{into}{select}{before}", after), careful


def many(batch: Batch) -> list[Accepted]:
    """Return the lines of ``batch`` that are worth a file of their own: none, or all that hold rows."""
    lines = [accepted for _, accepted in batch.events if accepted.rows]
    return lines if counted(lines) >= _MANY and len({branch for branch, _ in batch.events}) == 1 else []


def write(connection: duckdb.DuckDBPyConnection, label: str, lines: Sequence[Accepted], place: Path) -> None:
    """Write the rows of ``lines``, by the writer ``label``, into the Parquet file ``place``.

    Raises:
        duckdb.Error: one of ``inserts.REFUSED`` for a row that DuckDB cannot take.
    """
    before, after = _source()
    with in_memory([accepted.payload for accepted in lines]) as path:
        question = f"{_select(_quoted(label))}{before}{path}{after}"
        done = connection.execute(
            f"copy ({question}) to {_quoted(str(place))} (format parquet, compression zstd, compression_level 1)"
        ).fetchone()
    count = counted(lines)
    if done is None or done[0] != count:
        raise duckdb.InvalidInputException(f"of {count} rows {done} were written")


@contextlib.contextmanager
def in_memory(lines: Sequence[bytes]) -> Iterator[str]:
    """Give the path of a file that holds ``lines``, as long as the block runs."""
    fd = os.memfd_create("events", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(b"\n".join(lines))
        file.flush()
        yield f"/proc/self/fd/{fd}"


def _select(writer: str) -> str:
    """Return the question up to where the lines come from. A row without what every row has may not pass for an event."""
    parts = ", ".join(f"r.{name}" for name, _ in _ROW[4:])
    return (
        f"select {writer} as writer, b.seq + b.place - 1 as seq, r.\"at\" as at_ns, coalesce(r.flow, {_REFUSE}) as flow,"  # noqa: S608
        f" coalesce(r.\"like\", {_REFUSE}) as \"like\", coalesce(r.statement, {_REFUSE}) as statement, {parts}"
        " from (select seq, unnest(events) as r, generate_subscripts(events, 1) as place from "
    )


def _source() -> tuple[str, str]:
    rows = ", ".join(f"{name} {kind}" for name, kind in _ROW)
    return "read_json('", f"', columns = {{'seq': 'UBIGINT', 'events': 'struct({rows})[]'}}, {LINES})) as b"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
