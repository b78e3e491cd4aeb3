"""The target document: a server that policy may let workloads reach (``targets/NAME.yaml``)."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hostagent.documents.named import Key, Named, Strict, named_document
from hostagent.model.target import WEB, CredentialSource, Login, Target, UpstreamTLS

MAXIMUM_SOCKETS = 8
_ANYBODYS = ("/tmp/", "/var/tmp/")  # noqa: S108 - refused, not used
_LONGEST_PATH = 107
"""Bytes of a path in ``struct sockaddr_un`` (unix(7)), the ending zero aside."""

_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")


class _Credential(Strict):
    file: Annotated[str, Key("File that holds the secret; root's, mode 0600.", "path")] = ""
    env: Annotated[str, Key("KEY=value line of such a file.", "path#KEY")] = ""
    systemd: Annotated[str, Key("Name of a systemd credential of the unit (LoadCredential).")] = ""
    sealed: Annotated[str, Key("Name of a secret in the sealed store (`hostagent credential`).")] = ""

    @model_validator(mode="after")
    def _exactly_one(self) -> _Credential:
        if len([value for value in (self.file, self.env, self.systemd, self.sealed) if value]) != 1:
            raise ValueError("give exactly one of file (a path), env (FILE#KEY), systemd or sealed (a credential's name)")
        if "/" in self.systemd or "/" in self.sealed:
            raise ValueError("systemd and sealed are names, not paths")
        if self.file and not self.file.startswith("/"):
            raise ValueError("file must be an absolute path")
        if self.env and not re.fullmatch(r"/[^#]+#[A-Za-z_][A-Za-z0-9_]*", self.env):
            raise ValueError("env must be /path/to/file#KEY")
        return self

    def source(self) -> CredentialSource:
        for kind in ("file", "env", "systemd", "sealed"):
            if location := str(getattr(self, kind)):
                return CredentialSource(kind, location)
        raise AssertionError("validated above")


class _Login(Strict):
    user: Annotated[str, Key("The proxy's own account at the server (postgres, or scheme: basic); with scheme: sigv4 the access key's id.")] = ""
    credential: _Credential | None = None
    scheme: Annotated[Literal["bearer", "basic", "header", "certificate", "sigv4"] | None, Key("How the secret is presented (http, kubernetes).")] = None
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{0,64}$"), Key("Name of the header field that holds it (scheme: header).")] = ""

    def for_http(self) -> str:
        """Return why this is no login for HTTP, empty if it is one."""
        if self.scheme is None:
            return "login: give scheme with a credential: bearer, basic, header, certificate or sigv4" if self.credential else ""
        if self.credential is None:
            return "login: a scheme needs a credential"
        if (self.scheme == "header") != bool(self.header):
            return "login: header (the field's name) belongs to scheme: header, and only there"
        if self.header.lower() in _FRAMING:
            return f"login: {self.header} is not a field for a credential"
        if (self.scheme in ("basic", "sigv4")) != bool(self.user) or ":" in self.user:
            return "login: user (without a colon) belongs to scheme: basic, or sigv4 (the access key's id), and only there"
        if self.scheme == "sigv4" and not self.user.isalnum():
            return f"login: {self.user!r} is not the id of an access key"
        return ""


_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer"})


class TargetDocument(Named):
    """The form of a target document."""

    protocol: Annotated[Literal["postgres", "http", "kubernetes"], Key("What the server speaks.")]
    hosts: Annotated[list[str], Key("Names and addresses that clients dial; localhost is this host's own loopback.")] = []
    sockets: Annotated[
        list[str], Field(max_length=MAXIMUM_SOCKETS), Key("Where our unix socket stands for the server in a workload's view.", "path")
    ] = []
    port: Annotated[int | None, Field(ge=1, le=65535), Key("TCP port of all hosts; default: the protocol's.")] = None
    login: _Login = _Login()
    tls: Annotated[
        Literal["verify", "disable"] | None, Key("verify (chain and name) or disable. Default: verify with hosts, disable without.")
    ] = None
    ca_file: Annotated[str, Key("PEM file of the CAs that the server is verified by; default: the system's.", "path")] = ""
    server_name: Annotated[str, Key("Name in the server's certificate, if it is none of hosts.")] = ""
    databases: Annotated[list[str], Key("Databases that clients may ask for; empty: any.")] = []
    users: Annotated[list[str], Key("User names that clients may ask for; empty: any.")] = []
    parameters: Annotated[list[str], Key("Start-up parameters that clients may bring, beside the harmless ones.")] = []
    http2: Annotated[bool, Key("The server speaks HTTP/2 too, and clients may (http).")] = False
    labels: Annotated[dict[str, str], Key("For policy (where.labels).")] = {}

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, hosts: list[str]) -> list[str]:
        return [_canonical_host(host) for host in hosts]

    @field_validator("sockets")
    @classmethod
    def _sockets(cls, sockets: list[str]) -> list[str]:
        for path in sockets:
            _check_socket(path)
        return sockets

    @model_validator(mode="after")
    def _of_its_protocol(self) -> TargetDocument:
        if self.protocol in WEB:
            wrong = self.login.for_http() or self._not_for_http()
            if not wrong and self.protocol == "kubernetes":
                wrong = self._not_for_kubernetes()
            if not wrong and self.login.scheme in ("certificate", "sigv4") and self.tls == "disable":
                wrong = f"login: scheme: {self.login.scheme} needs tls: verify"
        elif not self.login.user:
            wrong = "login: user is required"
        else:
            wrong = "login: scheme and header are for protocol: http" if self.login.scheme or self.login.header else ""
            wrong = wrong or ("http2 is for protocol: http" if self.http2 else "")
        if wrong:
            raise ValueError(wrong)
        return self

    def _not_for_http(self) -> str:
        if self.sockets:
            return "sockets: HTTP over unix sockets is not governed"
        found = [name for name in ("databases", "users", "parameters") if getattr(self, name)]
        return f"{found[0]} is not for protocol: {self.protocol}" if found else ""

    def _not_for_kubernetes(self) -> str:
        if self.http2:
            return "http2 is not for protocol: kubernetes: its clients speak HTTP/1.1 as well, and need it for exec"
        return "login: scheme: sigv4 is not for protocol: kubernetes" if self.login.scheme == "sigv4" else ""

    @model_validator(mode="after")
    def _reachable(self) -> TargetDocument:
        if not self.hosts and not self.sockets:
            raise ValueError("give hosts (names or addresses), sockets (paths of unix sockets), or both")
        if not self.hosts and self.tls == "verify":
            raise ValueError("tls: verify needs hosts; there is no TLS over a unix socket")
        for path in self.sockets if not self.hosts else ():
            if path.startswith(_ANYBODYS):
                raise ValueError(f"{path}: anybody can make a socket there and be the server; give hosts, or another folder")
        if not self.hosts and len(self.sockets) > 1:
            raise ValueError("several sockets and no hosts: give each its own document, or hosts for them all")
        return self


def _check_socket(path: str) -> None:
    """Refuse what cannot be stood in for: our socket takes the place of a file in a folder that a workload cannot change."""
    if path.startswith(("@", "\0")):
        raise ValueError(f"{path!r} is an abstract name, which has no place to stand at; only paths can be governed")
    if not path.startswith("/") or path != posixpath.normpath(path) or path.startswith("//") or "\0" in path:
        raise ValueError(f"{path!r} must be an absolute path without '.', '..', '//' or '/' at the end")
    if len(path.encode()) > _LONGEST_PATH:
        raise ValueError(f"{path!r} is longer than {_LONGEST_PATH} bytes, so no client could dial it")
    top, *below = path[1:].split("/")
    if top in ("proc", "sys", "dev"):
        raise ValueError(f"{path!r}: nothing can stand in /{top}")
    if len(below) < (1 if top in ("run", "tmp") else 2):
        raise ValueError(f"{path!r} must be in a folder of its own: what else is in the folder is not seen by workloads")


def _canonical_host(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().rstrip(".")
        if not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{host!r} is neither an address nor a host name") from None
        return name
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


_PORTS = {"postgres": 5432, "kubernetes": 6443}


def _default_port(protocol: str, tls: str) -> int:
    if protocol in _PORTS:
        return _PORTS[protocol]
    return 443 if tls == "verify" else 80


def parse_target(name: str, text: str) -> Target:
    """Return the target that document ``name`` (its file name without suffix) declares.

    Raises:
        DocumentError: anything unknown, missing or inconsistent.
    """
    document = named_document(name, text, TargetDocument)
    credential = document.login.credential
    tls = document.tls or ("verify" if document.hosts else "disable")
    return Target(
        name=name,
        protocol=document.protocol,
        hosts=tuple(document.hosts),
        port=document.port or _default_port(document.protocol, tls),
        login=Login(
            document.login.user,
            credential.source() if credential else None,
            document.login.scheme or "",
            document.login.header,
        ),
        tls=UpstreamTLS(tls),
        ca_file=document.ca_file,
        server_name=document.server_name,
        databases=frozenset(document.databases),
        users=frozenset(document.users),
        parameters=frozenset(document.parameters),
        labels=dict(document.labels),
        sockets=tuple(document.sockets),
        http2=document.http2,
    )
