"""Asks the published database one question through the locked-down worker (``hostagent.recording.worker``)."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hostagent.model.errors import HostagentError
from hostagent.recording.store import SEALED


class QueryError(HostagentError):
    """The question was refused, failed, or took too much time or memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one question: wall clock in seconds, memory as DuckDB writes it, rows."""

    timeout_s: float = 30.0
    memory: str = "512MB"
    max_rows: int = 1_000_000
    user: str = "hostagent-rec"


@dataclass(frozen=True, slots=True)
class Result:
    """Column names, DuckDB's names of their types, and rows of JSON-compatible values. ``truncated``: there were more."""

    columns: list[str]
    types: list[str]
    rows: list[list[object]] = field(default_factory=list)
    truncated: bool = False


def ask(database: Path, sql: str, limits: Limits | None = None) -> Result:
    """Return the answer of ``sql``, one SELECT, from the published ``database``.

    Started as root, the worker runs as ``limits.user`` (else nobody), who must be able to read the evidence.

    Raises:
        QueryError: no such database, refused, wrong, or over a limit; the message says which.
    """
    limits = limits or Limits()
    database = database.resolve()
    if not database.exists():
        raise QueryError(
            f"{database} does not exist: recorderd has not published anything yet (is the service running?)"
        )
    request = {
        "database": str(database),
        "sealed": str(database.parent / SEALED),
        "sql": sql,
        "memory": limits.memory,
        "cpu_s": int(limits.timeout_s * 2) + 2,
        "max_rows": limits.max_rows,
        "user": _worker_user(limits.user),
    }
    with _worker() as process:
        try:
            output, complaint = process.communicate(json.dumps(request).encode(), timeout=limits.timeout_s)
        except subprocess.TimeoutExpired:
            raise QueryError(
                f"the question took longer than {limits.timeout_s:g} s and was stopped; see --timeout"
            ) from None
    return _parse(output, complaint, process.returncode)


def _parse(output: bytes, complaint: bytes, status: int) -> Result:
    lines = output.splitlines()
    last = json.loads(lines[-1]) if lines else None
    if isinstance(last, dict) and "error" in last:
        raise QueryError(str(last["error"]))
    if status != 0 or not lines:
        detail = complaint.decode("utf-8", "replace").strip().splitlines()
        raise QueryError(f"the SQL worker ended with status {status}" + (f": {detail[-1]}" if detail else ""))
    head = json.loads(lines[0])
    truncated = isinstance(last, dict) and "truncated" in last
    rows = [json.loads(line) for line in (lines[1:-1] if truncated else lines[1:])]
    return Result(head["columns"], head["types"], rows, truncated)


@contextmanager
def _worker() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a started worker; it is dead when this ends, however it ends."""
    # -I: neither the caller's environment nor the current folder can put modules in its way.
    root = str(Path(__file__).resolve().parents[2])
    start = f"import sys; sys.path.insert(0, {root!r}); from hostagent.recording.worker import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"},
        cwd="/",
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _worker_user(wanted: str) -> str:
    if os.geteuid() != 0:
        return ""
    try:
        return pwd.getpwnam(wanted).pw_name
    except KeyError:
        return "nobody"
