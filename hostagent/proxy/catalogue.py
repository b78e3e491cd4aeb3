"""Catalogues: what the targets' databases hold, fetched over connections of our own and kept fresh.

One snapshot per target and database. Masking resolves columns by it; while there is none, masking refuses rather than guesses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

from hostagent.inspectors.postgres.catalogue import CATALOGUE_QUERY, parse
from hostagent.inspectors.postgres.startup import PINNED, LoginRefused, LoginRequest
from hostagent.inspectors.postgres.upstream import Upstream
from hostagent.model.catalogue import Catalogue
from hostagent.model.command import Command, Forward, StartTLS
from hostagent.model.errors import HostagentError, RemoteWireError
from hostagent.model.flow import Endpoint
from hostagent.model.target import Target
from hostagent.proxy.dialling import open_streams
from hostagent.proxy.tls import end_point_hash, upstream_context, upstream_name
from hostagent.wire.postgres.backend import parse_data_row, parse_fields
from hostagent.wire.postgres.frontend import build_query
from hostagent.wire.postgres.messages import HEADER, HEADER_SIZE, LARGE, Client, Server, frame

log = logging.getLogger(__name__)

_FETCH_S = 10.0
_FRESH_S = 30.0
# A script of DDL asks for a new snapshot after each statement; one, a moment later, serves them all.
_SETTLE_S = 0.05
_READ = 262_144

_Key = tuple[str, str]


class CatalogueView:
    """One session's window on the store; ``database`` is set when the client has said where it wants to go."""

    __slots__ = ("_key", "_store", "database")

    def __init__(self, store: Catalogues, target: str) -> None:
        """Look at ``target`` in ``store``."""
        self._store = store
        self._key = target
        self.database = ""

    @property
    def current(self) -> Catalogue | None:
        """The latest snapshot, or None."""
        return self._store.snapshots.get((self._key, self.database))


class Catalogues:
    """Fetches and keeps snapshots."""

    def __init__(self, secrets: Mapping[str, str], host_of: Callable[[Target, str], str | None]) -> None:
        """``secrets`` are the targets' passwords by target name; ``host_of`` is the resolver's."""
        self._secrets = secrets
        self._host_of = host_of
        self.snapshots: dict[_Key, Catalogue] = {}
        self._fetched: dict[_Key, float] = {}
        self._where: dict[_Key, tuple[Target, Endpoint]] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}
        self._waiting: set[_Key] = set()

    def forget(self, names: Collection[str]) -> None:
        """Let go of everything known of these targets."""
        for kept in (self.snapshots, self._fetched, self._where, self._locks):
            for key in [key for key in kept if key[0] in names]:
                del kept[key]

    def view(self, target: Target) -> CatalogueView:
        """Return a session's window."""
        return CatalogueView(self, target.name)

    async def prepare(self, target: Target, address: Endpoint, database: str) -> None:
        """Make sure there is a snapshot, if one can be had. Never raises for a target that will not answer."""
        if (target.name, database) not in self.snapshots:
            await self._fetch(target, address, database, newer_than=0.0)

    async def refresh(self, target: Target, address: Endpoint, database: str) -> None:
        """Fetch a snapshot that is newer than this call. Calls that come while one waits its turn share its result."""
        key = (target.name, database)
        if key in self._waiting:
            return
        self._waiting.add(key)
        await asyncio.sleep(_SETTLE_S)
        self._waiting.discard(key)
        await self._fetch(target, address, database, newer_than=time.monotonic())

    async def run(self) -> None:
        """Fetch every known catalogue anew from time to time: others change schemas too."""
        while True:
            await asyncio.sleep(_FRESH_S)
            for key, (target, address) in list(self._where.items()):
                await self._fetch(target, address, key[1], newer_than=time.monotonic())

    async def _fetch(self, target: Target, address: Endpoint, database: str, *, newer_than: float) -> None:
        key = (target.name, database)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if self._fetched.get(key, -1.0) >= newer_than and key in self.snapshots:
                return
            began = time.monotonic()
            try:
                async with asyncio.timeout(_FETCH_S):
                    name = upstream_name(target, address.host, self._host_of(target, address.host) or "")
                    rows = await _ask(target, name, self._secrets.get(target.name), address, database)
                snapshot = parse([(row[0] or b"").decode() for row in rows if row])
                known = self.snapshots.get(key)
                if known is None or known.version != snapshot.version:
                    self.snapshots[key] = snapshot  # the same object otherwise: every session would judge anew
            except (OSError, TimeoutError, HostagentError, LoginRefused) as error:
                # The last good snapshot stays: an unknown object is masked whole, so an old one errs on the safe side.
                log.warning("catalogue of %s/%s: %s", target.name, database, error)
                return
            self._fetched[key] = began
            self._where[key] = (target, address)


async def _ask(
    target: Target, name: str, secret: str | None, address: Endpoint, database: str
) -> list[tuple[bytes | None, ...]]:
    settings = {**PINNED, "application_name": "hostagent catalogue"}
    request = LoginRequest(target.login.user, database, False, settings, (), 0)
    upstream = Upstream(target, secret, request, os.urandom, lambda text: text)
    async with _connected(address) as (reader, writer):
        await _obey(upstream.connected(), target, name, upstream, writer)
        while not upstream.ready:
            await _obey(upstream.feed(await _some(reader)), target, name, upstream, writer)
        writer.write(build_query(CATALOGUE_QUERY.encode()))
        rows = await _rows(reader, bytearray(upstream.leftover))
        writer.write(frame(Client.TERMINATE, b""))
        await writer.drain()
        return rows


@asynccontextmanager
async def _connected(address: Endpoint) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await open_streams(address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _obey(commands: list[Command], target: Target, name: str, upstream: Upstream, writer: asyncio.StreamWriter) -> None:
    for command in commands:
        if isinstance(command, Forward):
            writer.write(command.data)
            await writer.drain()
        elif isinstance(command, StartTLS):
            await writer.start_tls(upstream_context(target), server_hostname=name)
            tls = writer.get_extra_info("ssl_object")
            await _obey(upstream.secured(end_point_hash(tls.getpeercert(True))), target, name, upstream, writer)


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_READ)
    if not data:
        raise RemoteWireError("the target closed the connection")
    return data


async def _rows(reader: asyncio.StreamReader, buffer: bytearray) -> list[tuple[bytes | None, ...]]:
    rows: list[tuple[bytes | None, ...]] = []
    while True:
        offset = 0
        while len(buffer) - offset >= HEADER_SIZE:
            kind, length = HEADER(buffer, offset)
            if length < 4 or length > LARGE:
                raise RemoteWireError("impossible message length")
            if len(buffer) < offset + length + 1:
                break
            body = bytes(buffer[offset + HEADER_SIZE : offset + length + 1])
            offset += length + 1
            if kind == Server.DATA_ROW:
                rows.append(parse_data_row(body))
            elif kind == Server.ERROR:
                raise RemoteWireError(parse_fields(body).get("M", "the catalogue query failed"))
            elif kind == Server.READY:
                return rows
        del buffer[:offset]
        buffer += await _some(reader)
