"""A real PostgreSQL for one test module, on loopback, as the unprivileged user ``postgres``."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_BIN = Path("/usr/lib/postgresql/15/bin")
_AS_POSTGRES = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running() -> Iterator[int]:
    """Start a server with trust authentication; yield its port; stop it and remove its files."""
    top = Path(tempfile.mkdtemp(prefix="hostagent-pg-"))
    prefix = _AS_POSTGRES if os.geteuid() == 0 else []
    if prefix:
        entry = pwd.getpwnam("postgres")
        os.chown(top, entry.pw_uid, entry.pw_gid)
    data = top / "data"
    port = free_port()
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={top} -c fsync=off"
    try:
        _run(
            [*prefix, str(_BIN / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        )
        _run([*prefix, str(_BIN / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(top / "log"), "start"])
        try:
            yield port
        finally:
            _run([*prefix, str(_BIN / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _run(command: list[str]) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd="/", timeout=90
    )
