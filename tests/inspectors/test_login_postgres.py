"""``Login`` against a real PostgreSQL, with real clients, through a small blocking rim."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psycopg
import pytest

from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.login import Login, LoginResult
from hostagent.model.command import CancelUpstream, Close, Command, Connect, Forward, Record, StartTLS
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.model.operation import Operation
from hostagent.model.target import Login as Account
from hostagent.model.target import Target, UpstreamTLS
from hostagent.model.verdict import Decision, Verdict
from hostagent.proxy.authority import Authority, open_authority
from hostagent.proxy.tls import end_point_hash, upstream_context
from hostagent.wire.postgres.startup import build_cancel_request

BIN = Path("/usr/lib/postgresql/15/bin")
HBA = """
hostnossl all scram_plain 127.0.0.1/32 scram-sha-256
hostssl   all scram_tls   127.0.0.1/32 scram-sha-256
host      all md5_user    127.0.0.1/32 md5
hostssl   all clear_user  127.0.0.1/32 password
hostnossl all clear_plain 127.0.0.1/32 password
host      all trust_user  127.0.0.1/32 trust
local     all all                      trust
"""
ROLES = """
set password_encryption = 'scram-sha-256';
create role scram_plain login password 'pässwörd';
create role scram_tls login password 's3cret';
create role clear_user login password 's3cret';
create role clear_plain login password 's3cret';
create role trust_user login;
set password_encryption = 'md5';
create role md5_user login password 's3cret';
create database crm;
"""


@dataclass
class Server:
    """A PostgreSQL of our own and the CA that vouches for it."""

    folder: Path
    port: int
    authority: Authority

    @property
    def ca_file(self) -> str:
        return str(self.folder / "ca.pem")


def as_postgres(*command: str) -> list[str]:
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="hostagent-login-"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    authority = open_authority(folder / "authority", folder / "ca.pem")
    process: subprocess.Popen[bytes] | None = None
    try:
        initdb = as_postgres(str(BIN / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N")
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        configure(data, authority)
        port = free_port()
        options = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}"]
        options += ["-c", "ssl=on", "-c", "fsync=off", "-c", f"hba_file={data}/own_hba.conf"]
        with (folder / "log").open("wb") as log:
            command = as_postgres(str(BIN / "postgres"), "-D", str(data), *options)
            process = subprocess.Popen(command, stderr=log, stdout=log, cwd="/")
        psql = ["psql", "-h", str(data), "-p", str(port), "-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]
        wait_until_ready(data, port)
        subprocess.run(psql, input=ROLES.encode(), check=True, capture_output=True, cwd="/")
        yield Server(folder, port, authority)
    finally:
        if process is not None:
            process.terminate()
            process.wait(20)
        shutil.rmtree(folder)


def configure(data: Path, authority: Authority) -> None:
    leaf = authority.leaf(["127.0.0.1", "db.internal"])
    (data / "server.crt").write_bytes(leaf.certificate)
    (data / "server.key").write_bytes(authority.leaf_key)
    (data / "own_hba.conf").write_text(HBA)
    for name in ("server.crt", "server.key", "own_hba.conf"):
        (data / name).chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(data / name, "postgres", "postgres")


def wait_until_ready(data: Path, port: int) -> None:
    """Ask until it answers: a server's start has no event to wait for."""
    for _ in range(200):
        ready = subprocess.run([str(BIN / "pg_isready"), "-q", "-h", str(data), "-p", str(port)], check=False)
        if ready.returncode == 0:
            return
        select.select([], [], [], 0.1)
    raise AssertionError("PostgreSQL did not start")


class Pipe:
    """One TLS connection over bytes handed in and out; sees nothing of the service's own."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, name: str | None = None) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)
        self.complete = False

    def established(self) -> bool:
        return self.complete

    def handshake(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.complete = True
        return self.outgoing.read()

    def receive(self) -> bytes:
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := self.tls.read(65536):
                parts.append(part)
        return b"".join(parts)

    def send(self, data: bytes) -> bytes:
        if data:
            self.tls.write(data)
        return self.outgoing.read()

    def end(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()


class End:
    """One socket of a connection, with TLS once it was begun."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.tls: Pipe | None = None

    def send(self, data: bytes) -> None:
        self.socket.sendall(data if self.tls is None else self.tls.send(data))

    def close(self) -> None:
        if self.tls is not None and self.tls.established():
            with contextlib.suppress(OSError, ValueError):  # the peer may have gone first
                self.socket.sendall(self.tls.end())
        self.socket.close()


@dataclass
class Rim:
    """Accepts connections, drives a ``Login`` for each, and passes bytes on after it is done."""

    server: Server
    target: Target
    demand_scram: bool = False
    registry: CancelRegistry = field(default_factory=CancelRegistry)
    records: list[dict[str, object]] = field(default_factory=list)
    judged: list[Operation] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict(Decision.ALLOW, ("test",), "", "0" * 64))
    secret: str | None = "s3cret"

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.leaf = self.server.authority.leaf(["127.0.0.1", "db.internal"])
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            connection, peer = self.listener.accept()
            if self.stopping.is_set():
                connection.close()
                return
            thread = threading.Thread(target=Conversation(self, connection, peer[1]).run)
            self.threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        self.listener.close()


class Entry:
    def __init__(self, workload: str) -> None:
        self.workload = workload
        self.upstream: bytes | None = None

    def cancel(self, now: float) -> bytes | None:
        return self.upstream


class Conversation:
    """One connection through the rim."""

    def __init__(self, rim: Rim, connection: socket.socket, peer_port: int) -> None:
        self.rim = rim
        self.ends = {Side.CLIENT: End(connection)}
        self.closing = False
        self.entry = Entry("bot")
        self.login = Login(
            flow=Flow(f"flow-{peer_port}", "bot", "leaf", Endpoint("127.0.0.1", peer_port), Endpoint("127.0.0.1", rim.port)),
            target=rim.target,
            judge=self.judge,
            random=os.urandom,
            cancel_registry=rim.registry,
            cancel_entry=self.entry,
            secret=rim.secret,
            demand_scram=rim.demand_scram,
            placeholder="hostagent",
        )

    def judge(self, operation: Operation) -> Verdict:
        self.rim.judged.append(operation)
        return self.rim.verdict

    def run(self) -> None:
        try:
            while not self.closing:
                self.step()
        except OSError:
            pass
        finally:
            if self.login.done is not None:
                self.rim.registry.forget(self.login.done.client_key)
            for end in self.ends.values():
                end.close()

    def step(self) -> None:
        by_socket = {end.socket: side for side, end in self.ends.items()}
        readable, _, _ = select.select(list(by_socket), [], [], 0.2)
        if self.rim.stopping.is_set():
            self.closing = True
        for ready in readable:
            side = by_socket[ready]
            data = ready.recv(65536)
            if not data:
                self.obey(self.login.closed(side, time.monotonic()))
                self.closing = True
                return
            self.received(side, data)

    def received(self, side: Side, data: bytes) -> None:
        end = self.ends[side]
        if end.tls is not None:
            data = self.through_tls(side, end, end.tls, data)
        if data:
            self.plain(side, data)

    def through_tls(self, side: Side, end: End, pipe: Pipe, data: bytes) -> bytes:
        pipe.incoming.write(data)
        if not pipe.established():
            try:
                end.socket.sendall(pipe.handshake())
            except ssl.SSLError as error:
                self.obey(self.login.connect_failed(f"TLS: {error.reason}", time.monotonic()))
                return b""
            if not pipe.established():
                return b""
            binding = self.rim.leaf.binding if side is Side.CLIENT else end_point_hash(pipe.tls.getpeercert(binary_form=True) or b"")
            now = time.monotonic()
            self.obey(self.login.secured(side, now, version=pipe.tls.version() or "", channel_binding=binding))
        return pipe.receive()

    def plain(self, side: Side, data: bytes) -> None:
        if self.login.done is not None:
            self.ends[side.other].send(data)
            return
        self.obey(self.login.feed(side, data, time.monotonic()))
        self.hand_over(self.login.done)

    def hand_over(self, done: LoginResult | None) -> None:
        if done is not None:
            if done.upstream_key is not None:
                self.entry.upstream = build_cancel_request(*done.upstream_key)
            self.ends[Side.SERVER].send(done.leftover_client)
            self.ends[Side.CLIENT].send(done.leftover_server)

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Record(event=event):
                    self.rim.records.append(dict(event.fields))
                case Forward(side=side, data=data):
                    self.ends[side].send(data)
                case Connect():
                    self.ends[Side.SERVER] = End(socket.create_connection(("127.0.0.1", self.rim.server.port)))
                    self.obey(self.login.connected(time.monotonic()))
                case StartTLS():
                    self.start_tls(command)
                case CancelUpstream(data):
                    with socket.create_connection(("127.0.0.1", self.rim.server.port)) as connection:
                        connection.sendall(data)
                        connection.recv(1)
                case Close():
                    self.closing = True
                case _:
                    raise AssertionError(command)

    def start_tls(self, command: StartTLS) -> None:
        end = self.ends[command.side]
        if command.side is Side.CLIENT:
            end.tls = Pipe(self.rim.leaf.context, server_side=True)
            if command.initial:
                self.received(Side.CLIENT, command.initial)
            return
        end.tls = Pipe(upstream_context(self.rim.target), server_side=False, name="127.0.0.1")
        end.socket.sendall(end.tls.handshake())


Start = Callable[..., Rim]


@pytest.fixture
def start(server: Server) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def make(user: str, *, tls: bool, ca_file: str = "", **options: object) -> Rim:
            target = Target(
                "crm",
                "postgres",
                ("127.0.0.1",),
                server.port,
                Account(user),
                tls=UpstreamTLS.VERIFY if tls else UpstreamTLS.DISABLE,
                ca_file=(ca_file or server.ca_file) if tls else "",
                parameters=frozenset({"search_path"}),
            )
            rim = Rim(server, target, **options)  # type: ignore[arg-type]
            stack.callback(rim.stop)
            return rim

        yield make


METHODS = [
    ("trust_user", False, None),
    ("trust_user", True, None),
    ("md5_user", False, "s3cret"),
    ("md5_user", True, "s3cret"),
    ("scram_plain", False, "pässwörd"),
    ("scram_tls", True, "s3cret"),
    ("clear_user", True, "s3cret"),
]
WHO = "select current_user || ' ' || current_database() || ' ' || pg_stat_ssl.ssl from pg_stat_ssl where pid = pg_backend_pid()"


def dsn(rim: Rim, **options: str) -> str:
    settings = {"host": "127.0.0.1", "port": str(rim.port), "user": "somebody", "dbname": "crm", "password": "wrong"}
    return " ".join(f"{key}='{value}'" for key, value in {**settings, "sslmode": "disable", **options}.items())


@pytest.mark.parametrize(("user", "tls", "secret"), METHODS)
def test_psycopg_gets_in_whatever_the_target_asks(start: Start, user: str, tls: bool, secret: str | None) -> None:
    rim = start(user, tls=tls, secret=secret)
    with psycopg.connect(dsn(rim)) as connection:
        row = connection.execute(WHO).fetchone()
    assert row == (f"{user} crm {'true' if tls else 'false'}",)
    [record] = rim.records
    assert {key: record[key] for key in ("outcome", "user", "upstream_user", "database", "tls_server")} == {
        "outcome": "ok",
        "user": "somebody",
        "upstream_user": user,
        "database": "crm",
        "tls_server": "TLSv1.3" if tls else "",
    }
    assert secret is None or secret not in str(rim.records)


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "require", "verify-full"])
def test_every_sslmode_of_libpq_works(start: Start, server: Server, sslmode: str) -> None:
    rim = start("scram_tls", tls=True)
    with psycopg.connect(dsn(rim, sslmode=sslmode, sslrootcert=server.ca_file)) as connection:
        row = connection.execute("select 1").fetchone()
        encrypted = connection.pgconn.ssl_in_use
    assert (row, encrypted) == ((1,), sslmode in ("prefer", "require", "verify-full"))
    assert rim.records[-1]["tls_client"] == ("TLSv1.3" if encrypted else "")


def test_verify_full_refuses_another_authority(start: Start, server: Server, tmp_path: Path) -> None:
    other = open_authority(tmp_path / "other")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(other.certificate)
    rim = start("trust_user", tls=False)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(dsn(rim, sslmode="verify-full", sslrootcert=str(trusted)))


@pytest.mark.parametrize(
    "options",
    [
        {"require_auth": "scram-sha-256"},
        {"require_auth": "scram-sha-256", "sslmode": "require"},
        {"channel_binding": "require", "sslmode": "require"},
    ],
    ids=["scram", "scram in tls", "channel binding"],
)
def test_client_that_demands_scram_gets_it(start: Start, options: dict[str, str]) -> None:
    rim = start("trust_user", tls=False, demand_scram=True)
    with psycopg.connect(dsn(rim, password="hostagent", **options)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="hostagent target list"):
        psycopg.connect(dsn(rim, password="wrong", **options))


def test_client_that_demands_scram_refuses_to_be_let_in_without(start: Start) -> None:
    rim = start("trust_user", tls=False)
    with pytest.raises(psycopg.OperationalError, match="authentication"):
        psycopg.connect(dsn(rim, require_auth="scram-sha-256"))


async def test_asyncpg_gets_in_plain_and_encrypted(start: Start, server: Server) -> None:
    rim = start("scram_tls", tls=True)
    context = ssl.create_default_context(cafile=server.ca_file)
    for tls in (False, context):
        connection = await asyncpg.connect(
            host="127.0.0.1", port=rim.port, user="x", password="wrong", database="crm", ssl=tls
        )
        assert await connection.fetchval("select $1::int + 1", 41) == 42
        await connection.close()


def test_psql_gets_in_with_options_and_settings(start: Start) -> None:
    rim = start("md5_user", tls=False)
    environment = {
        "PATH": os.environ["PATH"],
        "PGOPTIONS": "-c statement_timeout=7s -c search_path=pg_catalog,x",
        "PGTZ": "Asia/Tokyo",
        "PGAPPNAME": "a b",
        "PGCLIENTENCODING": "UTF8",
        "PGSSLMODE": "disable",
    }
    query = "select current_setting('statement_timeout'), current_setting('search_path'), current_setting('TimeZone'), current_setting('application_name')"
    command = ["psql", "-X", "-At", "-h", "127.0.0.1", "-p", str(rim.port), "-U", "me", "-d", "crm", "-c", query]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout, done.stderr) == ("7s|pg_catalog,x|Asia/Tokyo|a b\n", "")


def test_psql_is_told_why_it_is_denied(start: Start) -> None:
    verdict = Verdict(Decision.DENY, ("no-bots",), "not at night", "0" * 64, hint="come back at eight")
    rim = start("trust_user", tls=False, verdict=verdict)
    command = ["psql", "-X", "-h", "127.0.0.1", "-p", str(rim.port), "-U", "me", "-d", "crm", "-c", "select 1"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    for part in ("FATAL:  hostagent: login denied by rule no-bots: not at night", "HINT:  come back at eight"):
        assert part in done.stderr


def test_replication_connection_is_refused(start: Start) -> None:
    rim = start("trust_user", tls=False)
    with pytest.raises(psycopg.OperationalError, match="replication connections are refused"):
        psycopg.connect(dsn(rim, replication="database"))


def test_wrong_credential_is_ours_to_mend_and_stays_secret(start: Start) -> None:
    rim = start("scram_tls", tls=True, secret="not-the-one")
    with pytest.raises(psycopg.OperationalError, match="refused the login that hostagent itself makes") as caught:
        psycopg.connect(dsn(rim))
    assert "not-the-one" not in str(caught.value)
    assert "not-the-one" not in str(rim.records)


def test_cleartext_outside_tls_is_refused(start: Start) -> None:
    rim = start("clear_plain", tls=False)
    with pytest.raises(psycopg.OperationalError, match="in clear on an unencrypted connection"):
        psycopg.connect(dsn(rim))


def test_target_whose_certificate_nobody_vouches_for_is_refused(start: Start, tmp_path: Path) -> None:
    other = open_authority(tmp_path / "other")
    (tmp_path / "trusted.pem").write_bytes(other.certificate)
    rim = start("scram_tls", tls=True, ca_file=str(tmp_path / "trusted.pem"))
    with pytest.raises(psycopg.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        psycopg.connect(dsn(rim))


def test_missing_database_is_reported_as_the_server_does(start: Start) -> None:
    rim = start("trust_user", tls=False)
    with pytest.raises(psycopg.OperationalError, match='database "nope" does not exist'):
        psycopg.connect(dsn(rim, dbname="nope"))


@pytest.mark.parametrize("sslmode", ["disable", "require"])
async def test_cancel_reaches_the_statement_that_runs(start: Start, sslmode: str) -> None:
    rim = start("scram_tls", tls=True)
    connection = await psycopg.AsyncConnection.connect(dsn(rim, sslmode=sslmode), autocommit=True)
    task = asyncio.create_task(_sleep(connection))
    with psycopg.connect(dsn(rim)) as watcher:
        watch = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(60)%'"
        for _ in range(200):
            if watcher.execute(watch).fetchone() == (1,):
                break
            watcher.rollback()
            await asyncio.sleep(0.02)
    await connection.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await task
    await connection.close()
    assert any(str(record["reason"]).startswith("cancel request for flow") for record in rim.records)


async def _sleep(connection: psycopg.AsyncConnection[object]) -> None:
    await connection.execute("select pg_sleep(60)")


def test_direct_tls_gets_in(start: Start, server: Server) -> None:
    """What libpq 17 does with sslnegotiation=direct, by hand: the libpq at hand may be older."""
    rim = start("trust_user", tls=False)
    context = ssl.create_default_context(cafile=server.ca_file)
    context.set_alpn_protocols(["postgresql"])
    with (
        socket.create_connection(("127.0.0.1", rim.port)) as raw,
        context.wrap_socket(raw, server_hostname="db.internal") as connection,
    ):
        assert connection.selected_alpn_protocol() == "postgresql"
        connection.sendall(bytes.fromhex("0000001f00030000") + b"user\0ana\0database\0crm\0\0")
        assert connection.recv(9) == b"R\0\0\0\x08\0\0\0\0"
    assert rim.records[0]["tls_client"] == "TLSv1.3"
