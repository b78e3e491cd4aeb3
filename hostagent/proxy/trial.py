"""``hostagent target test``: the way of a session to its target, step by step, each with what failed and what mends it.

The same parts as a session's: the same lookup and its refusals, the same TLS context and name, the same login. Nothing that could
be a secret is in any text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from dataclasses import dataclass, field

from hostagent.inspectors.http.fields import credential
from hostagent.inspectors.http.opening import ALPN_2
from hostagent.inspectors.postgres.startup import PINNED, LoginRefused, LoginRequest
from hostagent.inspectors.postgres.upstream import Upstream
from hostagent.model.command import Command, Forward, StartTLS
from hostagent.model.errors import DocumentError, HostagentError
from hostagent.model.flow import Endpoint
from hostagent.model.target import Target, UpstreamTLS
from hostagent.proxy.dialling import open_streams
from hostagent.proxy.dns import Resolver
from hostagent.proxy.tls import end_point_hash, upstream_context, upstream_name
from hostagent.wire.postgres.backend import parse_data_row, parse_fields
from hostagent.wire.postgres.frontend import build_query
from hostagent.wire.postgres.messages import HEADER, HEADER_SIZE, Client, Server, frame

_ASK = "select current_user, current_setting('server_version'), (select rolsuper from pg_roles where rolname = current_user)"
_MOST_PLACES = 8
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step at one place (an address, or a path). ``fix`` is what to do about one that failed, or could be better."""

    name: str
    place: str
    ok: bool
    detail: str
    fix: str = ""


@dataclass(slots=True)
class _Trial:
    target: Target
    secret: str | None
    database: str
    timeout_s: float
    resolver: Resolver
    steps: list[Step] = field(default_factory=list)

    def good(self, name: str, place: object, detail: str, fix: str = "") -> None:
        self.steps.append(Step(name, str(place), ok=True, detail=detail, fix=fix))

    def bad(self, name: str, place: object, detail: str, fix: str) -> None:
        self.steps.append(Step(name, str(place), ok=False, detail=detail, fix=fix))


async def attempt(target: Target, secret: str | None, database: str, timeout_s: float) -> list[Step]:
    """Resolve, dial, encrypt and log in at every place of ``target``; return the steps taken. Raises for nothing a target does."""
    trial = _Trial(target, secret, database, timeout_s, Resolver(lambda: [target]))
    for place in (await _places(trial))[:_MOST_PLACES]:
        try:
            async with asyncio.timeout(timeout_s):
                await _try_place(trial, place)
        except TimeoutError:
            trial.bad("connect", place, f"no answer within {timeout_s:g} s", "see whether a firewall drops packets to that port")
    return trial.steps


async def _places(trial: _Trial) -> list[Endpoint]:
    target = trial.target
    if not target.hosts:
        return [Endpoint(path, 0) for path in target.sockets]
    await trial.resolver.refresh()
    found: dict[Endpoint, None] = {}
    names = trial.resolver.names
    for host in target.hosts:
        addresses = names.get(host, (host,))
        if host in names:
            if addresses:
                trial.good("resolve", host, ", ".join(addresses))
            else:
                fix = "add it to DNS or /etc/hosts of this host, or name the server's address in `hosts`"
                trial.bad("resolve", host, "no address, or only ones that a name may not mean (loopback, link-local)", fix)
        found |= dict.fromkeys(Endpoint(address, target.port) for address in addresses)
    return list(found)


async def _try_place(trial: _Trial, place: Endpoint) -> None:
    try:
        reader, writer = await open_streams(place)
    except OSError as error:
        what = "is the server running, and does it listen at this place? (PostgreSQL: listen_addresses, port, pg_hba.conf; a firewall)"
        trial.bad("connect", place, error.strerror or str(error), what)
        return
    trial.good("connect", place, "unix socket" if place.is_path else "TCP")
    try:
        if trial.target.protocol == "postgres":
            await _log_in(trial, place, reader, writer)
        elif trial.target.web:
            await _request(trial, place, reader, writer)
            if trial.target.http2 and trial.target.tls is UpstreamTLS.VERIFY:
                await _agree(trial, place)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await writer.wait_closed()


async def _log_in(trial: _Trial, place: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    settings = {**PINNED, "application_name": "hostagent target test"}
    request = LoginRequest(trial.target.login.user, trial.database, False, settings, (), 0)
    upstream = Upstream(trial.target, trial.secret, request, os.urandom, lambda text: text)
    try:
        if not await _obey(trial, place, upstream.connected(), upstream, writer):
            return
        while not upstream.ready:
            data = await reader.read(65_536)
            if not data:
                trial.bad("login", place, "the server closed the connection", "look into the server's own log")
                return
            if not await _obey(trial, place, upstream.feed(data), upstream, writer):
                return
    except LoginRefused as refusal:
        trial.bad(*_refused(trial, place, refusal))
        return
    except (HostagentError, OSError) as error:
        trial.bad("login", place, str(error), "is this a PostgreSQL server, and no pooler or load balancer that breaks the protocol?")
        return
    await _greet(trial, place, reader, writer, bytearray(upstream.leftover))


async def _obey(trial: _Trial, place: Endpoint, commands: list[Command], upstream: Upstream, writer: asyncio.StreamWriter) -> bool:
    for command in commands:
        if isinstance(command, Forward):
            writer.write(command.data)
            await writer.drain()
        elif isinstance(command, StartTLS):
            if not await _encrypt(trial, place, writer):
                return False
            certificate = writer.get_extra_info("ssl_object").getpeercert(True)
            return await _obey(trial, place, upstream.secured(end_point_hash(certificate)), upstream, writer)
    return True


async def _encrypt(trial: _Trial, place: Endpoint, writer: asyncio.StreamWriter) -> bool:
    target = trial.target
    name = upstream_name(target, place.host, trial.resolver.host_of(target, place.host) or "")
    try:
        await writer.start_tls(upstream_context(target, secret=trial.secret), server_hostname=name)
    except DocumentError as error:
        trial.bad("tls", place, str(error), "`ca_file` names a file of PEM certificates that user hostagent can read; scheme: certificate needs certificate and key in one file")
        return False
    except ssl.SSLCertVerificationError as error:
        trial.bad("tls", place, error.verify_message, _certificate_fix(error, target, name))
        return False
    except (ssl.SSLError, OSError) as error:
        trial.bad("tls", place, str(error), "the server must speak TLS 1.2 or newer")
        return False
    trust = target.ca_file or "the system's CAs"
    trial.good("tls", place, f"{writer.get_extra_info('ssl_object').version()}, certificate of {name} verified by {trust}")
    return True


async def _agree(trial: _Trial, place: Endpoint) -> None:
    """See whether a server that is said to speak HTTP/2 agrees to it, as it must for a client that does."""
    target = trial.target
    name = upstream_name(target, place.host, trial.resolver.host_of(target, place.host) or "")
    _, writer = await open_streams(place)
    try:
        await writer.start_tls(upstream_context(target, ALPN_2, trial.secret), server_hostname=name)
        agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol() == ALPN_2
    except (ssl.SSLError, OSError):
        agreed = False
    finally:
        writer.transport.abort()
    if agreed:
        trial.good("http2", place, "it agrees to speak HTTP/2")
    else:
        trial.bad("http2", place, "it does not agree to speak HTTP/2 (ALPN h2)", "turn it on at the server, or remove `http2: true`")


async def _request(trial: _Trial, place: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask a web server for the head of ``/`` with our credential, as every request of a workload goes on with it."""
    target = trial.target
    if target.tls is UpstreamTLS.VERIFY and not await _encrypt(trial, place, writer):
        return
    fields = credential(target.login, trial.secret)
    if fields is None:
        trial.bad("login", place, "the credential cannot stand in a header field", "it must be one line of printable ASCII")
        return
    host = next((name for name in target.hosts if trial.resolver.host_of(target, place.host) == name), place.host)
    lines = ["HEAD / HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields), "User-Agent: hostagent", "Connection: close"]
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        await writer.drain()
        answer = await reader.readline()
    except (OSError, ValueError) as error:
        trial.bad("login", place, str(error), "is this a web server?")
        return
    found = re.match(rb"HTTP/1\.[01] ([1-5][0-9]{2})", answer)
    if found is None:
        trial.bad("login", place, "the server's answer is not HTTP/1.1", "is this a web server, and is `tls` right for that port?")
        return
    status = int(found[1])
    if status in (401, 403) and fields:
        trial.bad("login", place, f"HEAD / answers {status}", f"the server refuses the credential (scheme {target.login.scheme}); is it the right one?")
        return
    wants = "the server asks for a credential: name it in `login`" if status == 401 else ""
    trial.good("login", place, f"HEAD / answers {status}", wants)


def _certificate_fix(error: ssl.SSLCertVerificationError, target: Target, name: str) -> str:
    if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
        return f"the certificate is not {name}'s: say the name it is for in `server_name`, or dial the server by that name"
    if "expired" in error.verify_message:
        return "renew the server's certificate (or set this host's clock)"
    store = f"{target.ca_file} does not hold it" if target.ca_file else "this system's store does not hold it"
    return f"its issuer is not trusted: {store}; name the file with the issuer's certificate in `ca_file`"


def _refused(trial: _Trial, place: Endpoint, refusal: LoginRefused) -> tuple[str, str, str, str]:
    user, source = trial.target.login.user, trial.target.login.credential
    where = f"{source.kind} {source.location}" if source is not None else "nowhere: the document names no credential"
    name = "tls" if "TLS" in str(refusal) else "login"
    match refusal.sqlstate:
        case "28P01":
            fix = f"the password (from {where}) is not that of role {user}: alter role {user} password … or correct the secret"
        case "28000":
            fix = f"pg_hba.conf has no line that lets role {user} in from this host, or the role may not log in"
        case "3D000":
            fix = "name a database that exists in `databases`, or with --database"
        case "53300":
            fix = "the server has no connection left: max_connections"
        case _:
            fix = refusal.hint or "look into the server's own log"
    return name, str(place), f"{refusal} [{refusal.sqlstate}]", fix


async def _greet(trial: _Trial, place: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, buffer: bytearray) -> None:
    """Ask who we are there: the login's last proof, and what is too much of it."""
    writer.write(build_query(_ASK.encode()))
    row: tuple[bytes | None, ...] = ()
    while True:
        while len(buffer) >= HEADER_SIZE and len(buffer) > (length := HEADER(buffer, 0)[1]):
            kind, body = buffer[0], bytes(buffer[HEADER_SIZE : length + 1])
            del buffer[: length + 1]
            if kind == Server.ERROR:
                trial.bad("login", place, parse_fields(body).get("M", "the server refused a query"), "look into the server's own log")
                return
            if kind == Server.DATA_ROW:
                row = parse_data_row(body)
            elif kind == Server.READY:
                _introduce(trial, place, row)
                writer.write(frame(Client.TERMINATE, b""))
                await writer.drain()
                return
        data = await reader.read(65_536)
        if not data:
            trial.bad("login", place, "the server closed the connection", "look into the server's own log")
            return
        buffer += data


def _introduce(trial: _Trial, place: Endpoint, row: tuple[bytes | None, ...]) -> None:
    user, version, superuser = [(value or b"").decode("utf-8", "replace") for value in row] if len(row) == 3 else ("?", "?", "")
    fix = "this role is a superuser: give the proxy a role with no more rights than the workloads need" if superuser == "t" else ""
    trial.good("login", place, f"as {user} in {trial.database}, PostgreSQL {version}", fix)
