"""A raw PostgreSQL client: sends exact bytes, returns the server's messages one by one."""

from __future__ import annotations

import socket
import struct
from typing import Self

from hostagent.wire.postgres.frontend import (
    SYNC,
    Bind,
    Execute,
    Named,
    Parse,
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_parse,
    build_query,
)


class RawClient:
    """One connection as user ``postgres`` to database ``postgres``."""

    def __init__(self, port: int, database: str = "postgres") -> None:
        """Connect and sign in."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.received = b""
        body = struct.pack(">i", 196608) + f"user\0postgres\0database\0{database}\0client_encoding\0UTF8\0\0".encode()
        self.sock.sendall(struct.pack(">i", len(body) + 4) + body)
        self.until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send ``data`` as it is."""
        self.sock.sendall(data)

    def message(self) -> tuple[str, bytes]:
        """Return the next message as (type, body)."""
        while True:
            if len(self.received) >= 5:
                size = struct.unpack_from(">i", self.received, 1)[0] + 1
                if len(self.received) >= size:
                    found, self.received = self.received[:size], self.received[size:]
                    return chr(found[0]), found[5:]
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError("closed by the server")
            self.received += data

    def until_ready(self, times: int = 1) -> list[tuple[str, bytes]]:
        """Return all messages up to the ``times``-th ReadyForQuery."""
        found = []
        while times:
            message = self.message()
            found.append(message)
            times -= message[0] == "Z"
        return found

    def ask(self, data: bytes, times: int = 1) -> list[tuple[str, bytes]]:
        """Send ``data`` and return the answers up to the ``times``-th ReadyForQuery."""
        self.send(data)
        return self.until_ready(times)


def query(text: str) -> bytes:
    """Return a Query."""
    return build_query(text.encode())


def parse(text: str, name: str = "", *types: int) -> bytes:
    """Return a Parse."""
    return build_parse(Parse(name.encode(), text.encode(), types))


def bind(
    statement: str = "", portal: str = "", values: tuple[bytes | None, ...] = (), *, binary: bool = False
) -> bytes:
    """Return a Bind with text values; ``binary`` asks for binary results."""
    return build_bind(Bind(portal.encode(), statement.encode(), (), values, (1,) if binary else ()))


def describe(kind: str, name: str = "") -> bytes:
    """Return a Describe of a statement (``S``) or portal (``P``)."""
    return build_describe(Named(kind.encode(), name.encode()))


def close(kind: str, name: str = "") -> bytes:
    """Return a Close of a statement (``S``) or portal (``P``)."""
    return build_close(Named(kind.encode(), name.encode()))


def execute(portal: str = "", limit: int = 0) -> bytes:
    """Return an Execute."""
    return build_execute(Execute(portal.encode(), limit))


def run(text: str) -> bytes:
    """Return Parse, Bind, Execute of ``text``, without Sync."""
    return parse(text) + bind() + execute()


__all__ = ["SYNC", "RawClient", "bind", "close", "describe", "execute", "parse", "query", "run"]
