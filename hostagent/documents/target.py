"""The target document: a server that policy may let workloads reach (``targets/NAME.yaml``)."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hostagent.documents.named import Named, Strict, named_document
from hostagent.model.target import CredentialSource, Login, Target, UpstreamTLS

_HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")


class _Credential(Strict):
    file: str = ""
    env: str = ""
    systemd: str = ""

    @model_validator(mode="after")
    def _exactly_one(self) -> _Credential:
        if len([value for value in (self.file, self.env, self.systemd) if value]) != 1:
            raise ValueError("give exactly one of file (a path), env (FILE#KEY) or systemd (a credential's name)")
        if self.file and not self.file.startswith("/"):
            raise ValueError("file must be an absolute path")
        if self.env and not re.fullmatch(r"/[^#]+#[A-Za-z_][A-Za-z0-9_]*", self.env):
            raise ValueError("env must be /path/to/file#KEY")
        return self

    def source(self) -> CredentialSource:
        for kind in ("file", "env", "systemd"):
            if location := str(getattr(self, kind)):
                return CredentialSource(kind, location)
        raise AssertionError("validated above")


class _Login(Strict):
    user: str = Field(min_length=1)
    credential: _Credential | None = None


class _Document(Named):
    protocol: Literal["postgres"]
    hosts: list[str] = Field(min_length=1)
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    login: _Login
    tls: Literal["verify", "disable"] = "verify"
    ca_file: str = ""
    server_name: str = ""
    databases: list[str] = []
    users: list[str] = []
    parameters: list[str] = []
    labels: dict[str, str] = {}

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, hosts: list[str]) -> list[str]:
        return [_canonical_host(host) for host in hosts]


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


def parse_target(name: str, text: str) -> Target:
    """Return the target that document ``name`` (its file name without suffix) declares.

    Raises:
        DocumentError: anything unknown, missing or inconsistent.
    """
    document = named_document(name, text, _Document)
    credential = document.login.credential
    return Target(
        name=name,
        protocol=document.protocol,
        hosts=tuple(document.hosts),
        port=document.port,
        login=Login(document.login.user, credential.source() if credential else None),
        tls=UpstreamTLS(document.tls),
        ca_file=document.ca_file,
        server_name=document.server_name,
        databases=frozenset(document.databases),
        users=frozenset(document.users),
        parameters=frozenset(document.parameters),
        labels=dict(document.labels),
    )
