"""A real PostgreSQL of one's own on a unix socket, and a client that shows every message it sends."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BIN = Path("/usr/lib/postgresql/15/bin")
# PostgreSQL refuses to run as root.
_ROOT = os.geteuid() == 0
_AS_POSTGRES = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups") if _ROOT else ()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start a server that listens on a unix socket only; yield the socket's path; stop it."""
    home = Path(tempfile.mkdtemp(prefix="mask_pg_"))
    if _ROOT:
        shutil.chown(home, "postgres", "postgres")
    data = home / "data"
    options = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off -c autovacuum=off"
    control = [*_AS_POSTGRES, str(BIN / "pg_ctl"), "-D", str(data), "-w", "-l", str(home / "log")]
    subprocess.run(
        [*_AS_POSTGRES, str(BIN / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    try:
        subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True, timeout=60)
        yield str(home / ".s.PGSQL.5432")
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True, timeout=60)
        shutil.rmtree(home, ignore_errors=True)


class Message(NamedTuple):
    kind: str
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.kind.encode() + struct.pack(">i", len(self.body) + 4) + self.body


class Client:
    """Speaks protocol 3.0 without hiding anything."""

    def __init__(self, path: str, database: str = "postgres", user: str = "postgres") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rb")
        body = struct.pack(">i", 196608) + f"user\0{user}\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
        self._socket.sendall(struct.pack(">i", len(body) + 4) + body)
        self.greeting = self._until_ready()

    def simple(self, text: str) -> list[Message]:
        self._socket.sendall(Message("Q", text.encode() + b"\0").raw)
        return self._until_ready()

    def extended(self, text: str, result_format: int = 1) -> list[Message]:
        parse = Message("P", b"\0" + text.encode() + b"\0" + bytes(2))
        bind = Message("B", b"\0\0" + bytes(4) + struct.pack(">hh", 1, result_format))
        rest = (Message("D", b"P\0"), Message("E", b"\0" + bytes(4)), Message("S", b""))
        self._socket.sendall(b"".join(message.raw for message in (parse, bind, *rest)))
        return self._until_ready()

    def load(self, text: str, data: bytes) -> None:
        """Run a COPY FROM STDIN with this payload."""
        self._socket.sendall(Message("Q", text.encode() + b"\0").raw)
        started = self._message()
        assert started.kind == "G", started
        self._socket.sendall(Message("d", data).raw + Message("c", b"").raw)
        failed = [message for message in self._until_ready() if message.kind == "E"]
        assert not failed, failed

    def run(self, text: str) -> None:
        failed = [message for message in self.simple(text) if message.kind == "E"]
        assert not failed, (text, failed)

    def texts(self, text: str) -> list[str]:
        """Return the first column of every row."""
        found = []
        for message in self.simple(text):
            assert message.kind != "E", message
            if message.kind == "D":
                (length,) = struct.unpack_from(">i", message.body, 2)
                found.append(message.body[6 : 6 + length].decode())
        return found

    def close(self) -> None:
        self._socket.sendall(Message("X", b"").raw)
        self._stream.close()
        self._socket.close()

    def _message(self) -> Message:
        kind, length = struct.unpack(">ci", self._stream.read(5))
        return Message(kind.decode(), self._stream.read(length - 4))

    def _until_ready(self) -> list[Message]:
        messages = []
        while True:
            message = self._message()
            messages.append(message)
            if message.kind == "G":
                self._socket.sendall(Message("f", b"not here\0").raw)
            if message.kind == "Z":
                return messages
