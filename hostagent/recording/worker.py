"""The SQL worker: one statement of a stranger, asked of the published database, in a process that can do nothing else.

Started by ``hostagent.recording.query`` as ``python -I -m hostagent.recording.worker``; reads one JSON request on its
standard input, writes one JSON line with the columns and then one per row. Locks, each sufficient against most of the
list in tests/recording: an unprivileged user and no network namespace to speak of (when started as root), no new
privileges, no file may grow (RLIMIT_FSIZE 0), the database read-only, DuckDB's external access off except for the
sealed files, its configuration locked, exactly one statement and that a SELECT, memory and time bounded.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import pwd
import resource
import sys

import duckdb
import msgspec

_CLONE_NEWNET = 0x40000000
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG = 1
_KILL = 9
_MAX_BYTES = 64 * 1024 * 1024
# DuckDB bounds what it allocates itself; this bounds everything else (address space is cheap, so with room).
_ADDRESS_SPACE = 4 * 1024 * 1024 * 1024


class Request(msgspec.Struct, frozen=True):
    """What is asked of the worker. ``user`` empty: stay who we are."""

    database: str
    sealed: str
    sql: str
    memory: str
    cpu_s: int
    max_rows: int
    user: str


def main() -> None:
    """Answer one request; the exit status is 0 for an answer, 2 for a refusal or an error (one JSON line says which)."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        _lock_down(request.user, request.cpu_s)
        connection = _connect(request)
        statement = the_one_select(connection, request.sql)
        _answer(connection, statement, request.max_rows)
    except (duckdb.Error, ValueError, OSError, MemoryError) as error:
        _write({"error": str(error) or type(error).__name__})
        raise SystemExit(2) from None


def the_one_select(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """Return the text of the only statement in ``text``.

    Raises:
        ValueError: none, several, or not a SELECT (``from``, ``describe``, ``show`` and ``summarize`` are SELECTs too).
    """
    statements = connection.extract_statements(text)
    if len(statements) != 1:
        raise ValueError(f"exactly one statement is allowed; this is {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise ValueError(f"only SELECT is allowed; this is {statements[0].type.name}")
    return str(statements[0].query)


def _lock_down(user: str, cpu_s: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, _KILL, 0, 0, 0)
    if os.geteuid() == 0:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "the worker cannot leave the network")
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the worker cannot give up privileges")
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def _connect(request: Request) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        request.database,
        read_only=True,
        config={
            "memory_limit": request.memory,
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "threads": "2",
        },
    )
    sealed = request.sealed.replace("'", "''")
    # Started with -c, DuckDB takes itself for a person's prompt and would draw a bar among the rows after two seconds.
    connection.execute("set enable_progress_bar = false")
    connection.execute("set python_enable_replacements = false")
    connection.execute(f"set allowed_directories = ['{sealed}/']")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def _answer(connection: duckdb.DuckDBPyConnection, statement: str, max_rows: int) -> None:
    connection.execute(statement)
    names = [item[0] for item in connection.description]
    kinds = [str(item[1]) for item in connection.description]
    if any("TIME ZONE" in kind for kind in kinds):
        # Python needs an extra package for these; DuckDB's own text does as well.
        names_as_text = ", ".join(f"c{number}::varchar" for number in range(len(names)))
        aliases = ", ".join(f"c{number}" for number in range(len(names)))
        connection.execute(f"select {names_as_text} from ({statement.rstrip().rstrip(';')}\n) as q({aliases})")  # noqa: S608
        kinds = ["VARCHAR"] * len(names)
    _write({"columns": names, "types": kinds})
    sent = size = 0
    while sent < max_rows and size < _MAX_BYTES and (rows := connection.fetchmany(min(500, max_rows - sent))):
        size += sum(_write([_plain(value) for value in row]) for row in rows)
        sent += len(rows)
    if (sent == max_rows or size >= _MAX_BYTES) and connection.fetchone() is not None:
        _write({"truncated": sent})
    sys.stdout.buffer.flush()


def _plain(value: object) -> object:
    """Return ``value`` as JSON has it; times and decimals as text, bytes as hex."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return str(value)


def _write(value: object) -> int:
    line = json.dumps(value).encode() + b"\n"
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(line)
        if isinstance(value, dict):
            sys.stdout.buffer.flush()
    return len(line)


if __name__ == "__main__":
    main()
