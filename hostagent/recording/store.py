"""The live database: rows that were read from journals, sealed into Parquet as they grow, published as copies.

Only ``recorderd`` opens it (one process, guarded by a lock of our own). The file holds live rows and views over the
sealed files, so that a copy of it is the whole public database.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from hostagent.journal import Accepted, Fault, counted
from hostagent.model.errors import HostagentError
from hostagent.recording.batches import many, write
from hostagent.recording.inserts import REFUSED, TABLES, Inserts
from hostagent.recording.reader import Batch, Reading
from hostagent.recording.schema import sql, views

log = logging.getLogger(__name__)

STORAGE_VERSION = "v1.2.0"
# Small row groups: a checkpoint writes those anew that grew.
_ATTACHED = f"storage_version '{STORAGE_VERSION}', row_group_size 8192"
SCHEMA_VERSION = 3
_NO_BATCHES = 2
# What views.sql makes up of two tables has the plain name.
_VIEWS = {"statement": "whole_statement", "result": "whole_result"}
PUBLISHED = "sessions.duckdb"
SEALED = "sealed"
_SETTINGS = {
    "threads": "1",
    "force_compression": "dictionary",  # the live file is rewritten every second: trying every method would cost more
    "wal_autocheckpoint": "64MB",  # publishing checkpoints anyway; a backlog does not need one every 25,000 events
    "memory_limit": "256MB",
    "enable_external_file_cache": "false",  # the file that events come from is another one each time, under the same name
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


class RecordingError(HostagentError):
    """The evidence folder cannot be used; the journal is untouched."""


class Store:
    """The evidence folder: ``live/live.duckdb`` (private), ``sealed/`` and ``sessions.duckdb`` (published)."""

    def __init__(self, folder: Path, *, rebuilding: bool = False) -> None:
        """Open or make the folder's databases. ``rebuilding`` starts anew beside what is there; see ``take_over``.

        Raises:
            RecordingError: another process has it open, or it is of another schema version (rebuild it).
        """
        self.folder = folder.resolve()
        self.published = self.folder / PUBLISHED
        self.sealed = self.folder / SEALED
        self._rebuilding = rebuilding
        self._live = self.folder / ("rebuild" if rebuilding else "live") / "live.duckdb"
        for place, mode in ((self.folder, 0o750), (self.sealed, 0o750)):
            place.mkdir(mode=mode, parents=True, exist_ok=True)
        self._guard = self._only_process()
        try:
            if rebuilding:
                shutil.rmtree(self._live.parent, ignore_errors=True)
            self._live.parent.mkdir(mode=0o700, exist_ok=True)
            self._connection = self._open()
        except BaseException:
            os.close(self._guard)
            raise
        self._generation = self._scalar("select max(generation) from live.about")
        self.live_rows = sum(self._scalar(f"select count(*) from live.{table}") for table in TABLES)  # noqa: S608
        self.live_bytes = self._live.stat().st_size if self.live_rows else 0
        if not rebuilding:
            self._discard_orphans()

    def take_over(self) -> None:
        """Publish what was rebuilt, put it in the place of the old live database, and remove the old sealed files."""
        self.publish()
        self._connection.close()
        live = self.folder / "live"
        shutil.rmtree(live, ignore_errors=True)
        self._live.parent.rename(live)
        self._live = live / self._live.name
        self._rebuilding = False
        self._connection = self._open()
        self._discard_orphans()

    def readings(self) -> dict[str, Reading]:
        """Return how far each writer was read."""
        rows = self._connection.execute(
            "select writer, branch, segment, position, seq, head, key, host from live.reading"
        ).fetchall()
        return {
            row[0]: Reading(
                row[0], row[1], row[2], row[3], row[4], bytes.fromhex(row[5]), bytes.fromhex(row[6]), row[7]
            )
            for row in rows
        }

    def ingest(self, batches: Sequence[Batch]) -> int:
        """Insert the events and faults of ``batches`` and remember their readings: one transaction. Returns how many events.

        An event that DuckDB cannot take (only a tampered journal holds one, or one too large) is kept as a row of kind ``unreadable``.
        """
        try:
            return self._ingest(batches)
        except REFUSED as error:
            log.warning("a batch was refused (%s): looking at each event", str(error).partition("\n")[0])
            readable = self._inserts.readable
            return self._ingest(
                [batch._replace(events=[each for item in batch.events for each in readable(*item)]) for batch in batches], careful=True
            )

    def _ingest(self, batches: Sequence[Batch], *, careful: bool = False) -> int:
        connection = self._connection
        direct = {} if careful else {batch.reading.writer: lines for batch in batches if (lines := many(batch))}
        folder, entries = self._write_direct(direct, batches) if direct else (None, [])
        rows = size = 0
        connection.execute("begin")
        try:
            for batch in batches:
                rest = [each for each in batch.events if not each[1].rows] if batch.reading.writer in direct else batch.events
                rows += self._inserts.events(batch.reading.writer, rest, careful=careful)
                size += sum([len(accepted.payload) for _, accepted in rest])
                self.note_faults(batch.reading.writer, batch.faults)
                self._remember(batch.reading)
            self._note_sealed(entries)
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self.live_rows += rows
        self.live_bytes += size
        return rows + sum(counted(lines) for lines in direct.values())

    def _write_direct(
        self, direct: Mapping[str, Sequence[Accepted]], batches: Sequence[Batch]
    ) -> tuple[Path, list[dict[str, object]]]:
        """Write rows that are many into a sealed folder; returns it and its entries, to be noted in the transaction of the rest."""
        number, folder = self._new_folder()
        entries = []
        try:
            for place, (writer, lines) in enumerate(direct.items()):
                path = folder / f"brief{place or ''}.parquet"
                branch = next(batch.events[0][0] for batch in batches if batch.reading.writer == writer)
                write(self._connection, f"{writer}#{branch}" if branch else writer, lines, path)
                entries.append(self._entry(number, "brief", path))
            self._write_manifest(folder, entries, self.readings() | {batch.reading.writer: batch.reading for batch in batches})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder, entries

    def seal(self) -> None:
        """Move all live rows into Parquet files (zstd; in order of time, or of its events where there is one writer) and note them in the manifest.

        A crash in between leaves a folder that no manifest names; the next start removes it.
        """
        number, folder = self._new_folder()
        entries = [entry for table in TABLES if (entry := self._write_sealed(number, folder, table)) is not None]
        self._write_manifest(folder, entries, self.readings())
        self._connection.execute("begin")
        try:
            for entry in entries:
                self._connection.execute(f"delete from live.{entry['source']}")  # noqa: S608
            self._note_sealed(entries)
            self._connection.execute("commit")
        except BaseException:
            self._connection.execute("rollback")
            raise
        self.live_rows = self.live_bytes = 0

    def _new_folder(self) -> tuple[int, Path]:
        number = self._scalar("select coalesce(max(seal), 0) + 1 from live.sealed")
        folder = self.sealed / f"{self._generation}-{number:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o750)
        return number, folder

    def _note_sealed(self, entries: Sequence[dict[str, object]]) -> None:
        for entry in entries:
            self._connection.execute("insert into live.sealed values (?, ?, ?, ?, ?, ?, ?, ?)", list(entry.values()))
        if entries:
            self._refresh_views()

    def publish(self) -> None:
        """Put a copy of the database at ``sessions.duckdb`` with one rename; readers keep what they have open."""
        self._connection.execute("checkpoint store")
        temporary = self.folder / f".{PUBLISHED}.new"
        temporary.unlink(missing_ok=True)
        shutil.copyfile(self._live, temporary)
        temporary.chmod(0o640)
        # No fsync: after a power loss this file is made anew from the live database, or that from the journal.
        temporary.rename(self.published)

    def last_verification(self) -> tuple[int, bool] | None:
        """Return when the newest recorded ``verify`` ended (unix nanoseconds) and whether it passed; None if there is none."""
        rows = self._connection.execute(
            "select at_ns, (fields ->> 'outcome') = 'passed' from recorded.event where kind = 'verify' order by at_ns desc limit 1"
        ).fetchall()
        return (int(rows[0][0]), bool(rows[0][1])) if rows else None

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Return the rows of one of our own statements (tests, audit)."""
        return self._connection.execute(statement, list(parameters)).fetchall()

    def close(self) -> None:
        """Close the database and let go of the folder. Idempotent."""
        self._connection.close()
        guard, self._guard = self._guard, -1
        if guard >= 0:
            os.close(guard)

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _only_process(self) -> int:
        # DuckDB's own lock is a POSIX one: closing any descriptor of the file, as publishing does, would drop it.
        fd = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise RecordingError(f"another process records into {self.folder}") from None
        return fd

    def _open(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:", config=dict(_SETTINGS))
        try:
            fresh = not self._live.exists()
            place = str(self._live).replace("'", "''")
            connection.execute(f"attach '{place}' as store ({_ATTACHED})")
            connection.execute("use store")
            self._live.chmod(0o600)
            self._connection = connection
            if fresh or not self._scalar(
                "select count(*) from duckdb_schemas() where schema_name = 'live' and database_name = 'store'"
            ):
                self._create()
            version = self._scalar("select max(version) from live.about")
            if version == _NO_BATCHES:
                self._add_batches()
                version = SCHEMA_VERSION
            if version != SCHEMA_VERSION:
                raise RecordingError(
                    f"{self.folder} has schema version {version}, this program writes {SCHEMA_VERSION}: hostagent audit rebuild"
                )
            self._renew_views()
            self._inserts = Inserts(connection)
        except duckdb.Error as error:
            connection.close()
            raise RecordingError(
                f"{self._live} cannot be opened ({error}); hostagent audit rebuild makes it anew"
            ) from error
        except RecordingError:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        connection = self._connection
        connection.execute("begin")
        connection.execute(sql("tables"))
        connection.execute(sql("brief"))
        connection.execute("create schema recorded")
        # A generation is one life of this database: its sealed files never share a name with an earlier life's.
        generations = [int(path.name.partition("-")[0]) for path in self.sealed.iterdir() if path.name[:1].isdigit()]
        connection.execute("insert into live.about values (?, ?)", [SCHEMA_VERSION, max(generations, default=0) + 1])
        self._refresh_views()
        connection.execute("commit")

    def _add_batches(self) -> None:
        """Take a database over from a program that knew no batches."""
        connection = self._connection
        connection.execute("begin")
        connection.execute(sql("brief"))
        connection.execute("update live.about set version = ?", [SCHEMA_VERSION])
        self._refresh_views()
        connection.execute("commit")

    def _renew_views(self) -> None:
        """Ask this program's own questions, whatever program made the database. A sealed file that is gone stops no recording."""
        try:
            self._connection.execute(views())
        except duckdb.IOException as error:
            log.critical("the views cannot be made anew: %s", error)

    def _discard_orphans(self) -> None:
        known = {Path(str(row[0])).parent.name for row in self.execute("select path from live.sealed")}
        for folder in self.sealed.iterdir():
            if folder.is_dir() and folder.name not in known:
                log.info("removing %s: no manifest names it (an interrupted seal, or an earlier life)", folder)
                shutil.rmtree(folder)

    def _scalar(self, statement: str) -> int:
        row = self._connection.execute(statement).fetchone()
        assert row is not None
        return int(row[0])

    # -- rows ---------------------------------------------------------------------------------------------------------

    def note_faults(self, writer: str, faults: Sequence[Fault]) -> None:
        """Log an alarm and keep a row for each fault."""
        for fault in faults:
            log.critical(
                "TAMPER %s segment %d byte %d event %d: %s: %s",
                writer,
                fault.segment,
                fault.offset,
                fault.seq,
                fault.kind,
                fault.detail,
            )
            self._connection.execute(
                "insert into live.tamper values (?, ?, ?, ?, ?, ?)",
                [writer, fault.seq, fault.segment, fault.offset, fault.kind.value, fault.detail],
            )

    def _remember(self, here: Reading) -> None:
        self._connection.execute(
            "insert or replace into live.reading values (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                here.writer,
                here.branch,
                here.segment,
                here.position,
                here.seq,
                here.head.hex(),
                here.key.hex(),
                here.host,
            ],
        )

    # -- sealing ------------------------------------------------------------------------------------------------------

    def _write_sealed(self, number: int, folder: Path, table: str) -> dict[str, object] | None:
        if not self._scalar(f"select count(*) from live.{table}"):  # noqa: S608
            return None
        path = folder / f"{table}.parquet"
        place = str(path).replace("'", "''")
        # What one writer wrote stands there in its order already, which is nearly that of time; sorting costs a third of a seal.
        alone = self._scalar(f"select count(distinct writer) from live.{table}") == 1  # noqa: S608
        order = "" if alone else " order by at_ns, writer, seq"
        form = "format parquet, compression zstd, compression_level 1"
        self._connection.execute(f"copy (select * from live.{table}{order}) to '{place}' ({form})")  # noqa: S608
        return self._entry(number, table, path)

    def _entry(self, number: int, table: str, path: Path) -> dict[str, object]:
        """Return what the manifest says of a file that is complete: it is forced to disk and its mode set."""
        path.chmod(0o640)
        count, first, last = self.execute("select count(*), min(at_ns), max(at_ns) from read_parquet(?)", [str(path)])[0]
        return {
            "seal": number,
            "source": table,
            "path": str(path),
            "sha256": file_digest(path, sync=True),
            "rows": count,
            "bytes": path.stat().st_size,
            "first_at": first,
            "last_at": last,
        }

    def _write_manifest(self, folder: Path, entries: Sequence[dict[str, object]], readings: Mapping[str, Reading]) -> None:
        heads = {
            writer: {"branch": here.branch, "seq": here.seq, "head": here.head.hex()} for writer, here in readings.items()
        }
        path = folder / "manifest.json"
        text = json.dumps({"schema": SCHEMA_VERSION, "files": entries, "journals": heads}, indent=1)
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        path.chmod(0o640)

    def _refresh_views(self) -> None:
        for table in TABLES:
            paths = [
                str(row[0])
                for row in self.execute("select path from live.sealed where source = ? order by seal", [table])
            ]
            parts = [f"select * from live.{table}"]  # noqa: S608
            if paths:
                listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
                parts.append(f"select * from read_parquet([{listed}])")  # noqa: S608
            name = _VIEWS.get(table, table)
            self._connection.execute(f"create or replace view recorded.{name} as " + " union all by name ".join(parts))


def file_digest(path: Path, *, sync: bool = False) -> str:
    """Return the hex SHA-256 of a file; with ``sync`` it is forced to disk first."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
