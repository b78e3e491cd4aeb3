"""A real PostgreSQL for the oracle tests, with the objects the corpus talks about."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_SCHEMA = Path(__file__).parent.parent / "corpus" / "sql_schema.sql"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL is not installed"
    return found[-1].parent


def _run(folder: Path, *command: str) -> None:
    """Run a command of the server, which refuses to be root."""
    user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
    subprocess.run([*user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Yield the conninfo of a server that is reached by a unix socket only and ends with the session."""
    folder = Path(tempfile.mkdtemp(prefix="sqlpg"))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    binaries, data = _binaries(), folder / "data"
    _run(folder, str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses= -k {folder} -c fsync=off -c autovacuum=off -c max_prepared_transactions=0"
    control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(folder / "log")]
    _run(folder, *control, "start")
    try:
        conninfo = f"host={folder} user=postgres dbname=postgres"
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(_SCHEMA.read_bytes())
        yield conninfo
    finally:
        _run(folder, *control, "-m", "immediate", "stop")
        shutil.rmtree(folder)
