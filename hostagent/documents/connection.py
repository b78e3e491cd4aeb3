"""A connection URL as people have it (``postgresql://user@host:5432/db?sslmode=verify-full``) turned into what a target needs.

PostgreSQL 17 §32.1.1.2: several hosts by comma, percent-encoding, parameters after the question mark. Of an ``http``, ``https`` or ``kubernetes``
URL host, port and user count; what is behind them is policy's business.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from hostagent.model.errors import DocumentError
from hostagent.model.target import WEB

SCHEMES = {"postgresql": "postgres", "postgres": "postgres", "https": "http", "http": "http", "kubernetes": "kubernetes"}
"""Protocol of a target by the scheme of a URL."""

_DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "https": 443, "http": 80, "kubernetes": 6443}
_VERIFYING = ("verify-full", "verify-ca", "require", "prefer", "allow", "")


class Connection(NamedTuple):
    """What a URL says. ``password`` is for the caller to keep or refuse; ``notes`` say what was taken otherwise, or not at all."""

    protocol: str
    user: str
    password: str
    hosts: tuple[str, ...]
    port: int
    socket: str
    database: str
    tls: str
    ca_file: str
    notes: tuple[str, ...]


def parse_url(url: str) -> Connection:
    """Return what ``url`` says.

    Raises:
        DocumentError: not a URL of a protocol that is understood, or one that no target can be made of. Never quotes the URL,
            which may hold a password.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise DocumentError(
            "the URL must begin with postgresql://, https:// or kubernetes://, as in postgresql://user@db.internal:5432/crm?sslmode=verify-full"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DocumentError("it is no URL that can be read: look at its brackets and at letters that stand for others") from None
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True)) if SCHEMES[scheme] == "postgres" else {}
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    named = parameters.pop("host", "") or unquote(places)
    hosts, ports = _places(named)
    if "port" in parameters:
        ports = {_port(each) for each in parameters.pop("port").split(",")}
    if len(ports) > 1:
        raise DocumentError("its hosts have several ports; a target has one: make a target for each")
    folders = [host for host in hosts if host.startswith("/")]
    if folders and len(hosts) > 1:
        raise DocumentError("it names several places, one of them a folder of unix sockets: make a target for each")
    port = next(iter(ports), _DEFAULT_PORTS[scheme])
    if SCHEMES[scheme] in WEB:
        return _web(scheme, parts.path + parts.query, unquote(user), unquote(password), tuple(hosts), port)
    tls, ca_file, notes = _encryption(parameters, over_socket=bool(folders))
    user, password = parameters.pop("user", "") or unquote(user), parameters.pop("password", "") or unquote(password)
    database = parameters.pop("dbname", "") or unquote(parts.path.lstrip("/"))
    notes += [f"{key} is the client's own business and is left out" for key in parameters]
    return Connection(
        protocol="postgres",
        user=user,
        password=password,
        hosts=() if folders else tuple(hosts),
        port=port,
        socket=f"{folders[0].rstrip('/')}/.s.PGSQL.{port}" if folders else "",
        database=database,
        tls=tls,
        ca_file=ca_file,
        notes=tuple(notes),
    )


def _web(scheme: str, behind: str, user: str, password: str, hosts: tuple[str, ...], port: int) -> Connection:
    notes = [] if scheme != "http" else ["http: requests and answers cross the network in clear"]
    notes += [] if behind in ("", "/") else ["the path is left out: a target is the whole server, and policy says what of it (what.http, what.kubernetes)"]
    tls = "verify" if scheme != "http" else "disable"
    return Connection(SCHEMES[scheme], user, password, hosts, port, "", "", tls, "", tuple(notes))


def _places(text: str) -> tuple[list[str], set[int]]:
    hosts, ports = [], set()
    for place in filter(None, text.split(",")):
        if place.startswith("["):
            host, _, port = place[1:].partition("]")
            port = port.removeprefix(":")
        elif place.startswith("/") or place.count(":") > 1:
            host, port = place, ""
        else:
            host, _, port = place.partition(":")
        hosts.append(host)
        if port:
            ports.add(_port(port))
    if not hosts:
        raise DocumentError("it names no host")
    return hosts, ports


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6) or not 1 <= int(text) <= 65535:
        raise DocumentError("its port is not a number from 1 to 65535")
    return int(text)


def _encryption(parameters: dict[str, str], *, over_socket: bool) -> tuple[str, str, list[str]]:
    mode, ca_file = parameters.pop("sslmode", ""), parameters.pop("sslrootcert", "")
    if ca_file == "system":
        ca_file = ""
    if ca_file and not ca_file.startswith("/"):
        raise DocumentError("sslrootcert must be an absolute path")
    if over_socket:
        return "disable", "", []
    if mode == "disable":
        return "disable", "", ["sslmode=disable: statements and results cross the network in clear"]
    if mode not in _VERIFYING:
        raise DocumentError(f"sslmode must be one of {', '.join(filter(None, _VERIFYING))} or disable")
    notes = [] if mode in ("verify-full", "") else [f"sslmode={mode}: hostagent always verifies chain and name, or uses no TLS at all"]
    return "verify", ca_file, notes
