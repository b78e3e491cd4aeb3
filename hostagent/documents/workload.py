"""The workload document: who may be launched as what (``workloads/NAME.yaml``)."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from hostagent.documents.named import Key, Named, Strict, named_document
from hostagent.model.errors import DocumentError
from hostagent.model.flow import Placement
from hostagent.model.workload import IdentityKind, IdentitySource, Inbound, SharedPath, Workload

NAME = re.compile(r"[a-z][a-z0-9-]{0,47}")
_AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]
MAXIMUM_INBOUND = 16
_TAKEN = frozenset({53, 901, 902})
_Port = Annotated[int, Field(ge=1, le=65535)]


class _Identity(Strict):
    kind: Annotated[Literal["local", "token_file"], Key("local: the embedded issuer signs; token_file: an identity provider does.")] = "local"
    subject: Annotated[str, Key("Its subject. local, default: the workload's name; token_file: what the token's must be, with * and ?.")] = ""
    groups: Annotated[list[str], Key("Its groups (local).")] = []
    purpose: Annotated[str, Key("What it is for (local).")] = ""
    claims: Annotated[dict[str, Any], Key("Further claims (local).")] = {}
    path: Annotated[_AbsolutePath | Literal[""], Key("File of the token (token_file); the workload must not be able to read it.", "path")] = ""
    issuer: Annotated[str, Key("Issuer, exactly as in the token (token_file).")] = ""
    audience: Annotated[str, Key("Audience that the token must be for (token_file).")] = ""
    jwks: Annotated[str, Key("Keys of the issuer where there is no discovery (token_file).", "path or https URL")] = ""
    ca_file: Annotated[_AbsolutePath | Literal[""], Key("CAs of the issuer's server; default: the system's.", "path")] = ""
    groups_claim: Annotated[str, Key("Dotted path of the claim that holds groups.")] = "groups"
    purpose_claim: Annotated[str, Key("Dotted path of the claim that holds the purpose.")] = "purpose"

    @model_validator(mode="after")
    def _consistent(self) -> _Identity:
        if self.kind == "local":
            if self.path or self.issuer or self.audience or self.jwks or self.ca_file:
                raise ValueError("path, issuer, audience, jwks and ca_file belong to kind: token_file")
            return self
        for url in (self.issuer, self.jwks):
            urlsplit(url)  # a ValueError says what is wrong with it
        if not self.path or not self.audience:
            raise ValueError("kind: token_file needs path and audience")
        if not self.issuer and not self.jwks:
            raise ValueError("kind: token_file needs issuer (OIDC discovery) or jwks (file or https URL)")
        if self.groups or self.purpose or self.claims:
            raise ValueError("groups, purpose and claims come from the token when kind is token_file")
        return self


class _Path(Strict):
    path: Annotated[_AbsolutePath, Key("File or folder of the host that it sees at the same place.", "path")]
    writable: Annotated[bool, Key("Whether it may change what is there.")] = False


class _Inbound(Strict):
    port: Annotated[_Port, Key("TCP port on which it is reached, on the host and inside.")]
    listen: Annotated[str, Key("Address of the host.", "address")] = "127.0.0.1"
    opaque: Annotated[bool, Key("Must be true: nobody reads what passes.")] = False

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        return str(ipaddress.ip_address(listen))

    @model_validator(mode="after")
    def _permitted(self) -> _Inbound:
        if not self.opaque:
            raise ValueError("nobody reads what passes an inbound port; say opaque: true to permit that")
        if self.port in _TAKEN:
            raise ValueError(f"port {self.port} is hostagent's own inside a workload")
        return self


class WorkloadDocument(Named):
    """The form of a workload document."""

    launchers: Annotated[list[str], Key("Unix users who may launch it.")] = ["root"]
    placement: Annotated[
        Literal["isolated", "shared"], Key("isolated: a network namespace of its own; shared: the host's, fenced by nft alone.")
    ] = "isolated"
    user: Annotated[str, Key("Login user it runs as, which is weaker; empty: a uid of its own.")] = ""
    identity: _Identity = _Identity()
    paths: list[_Path] = []
    environment: Annotated[dict[str, str], Key("Variables in its environment.")] = {}
    trust_files: Annotated[list[_AbsolutePath], Key("PEM bundles and Java key stores (JKS) that its clients read: our CA is added in its private view.", "path")] = []
    unix_sockets: Annotated[bool, Key("false: it connects no unix socket at all (Linux 6.7 and eBPF, else a launch is refused).")] = True
    root: Annotated[_AbsolutePath | Literal[""], Key("Folder of a container image that it sees instead of the host's files.", "path")] = ""
    inbound: Annotated[list[_Inbound], Field(max_length=MAXIMUM_INBOUND)] = []

    @field_validator("environment")
    @classmethod
    def _variables(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not name or "=" in name:
                raise ValueError(f"{name!r} is no name of a variable")
        return environment

    @model_validator(mode="after")
    def _inside(self) -> WorkloadDocument:
        if self.inbound and self.placement == "shared":
            raise ValueError(
                "inbound needs placement: isolated; in the host's own network the workload's listener and ours would claim the"
                " same port, and an answer could leave past us"
            )
        places = [item.port for item in self.inbound]
        if len(set(places)) != len(places):
            raise ValueError("inbound names a port twice")
        return self

    @model_validator(mode="after")
    def _own_root(self) -> WorkloadDocument:
        if self.root and self.user:
            raise ValueError("user names an account of the host, which root replaces: leave one of them out")
        if self.root and not self.root.strip("/."):
            raise ValueError("root must be an image's folder, not the host's own root")
        return self


def parse_workload(name: str, text: str) -> Workload:
    """Return the workload that document ``name`` (its file name without suffix) declares.

    Raises:
        DocumentError: anything unknown, missing or inconsistent.
    """
    document = named_document(name, text, WorkloadDocument)
    if not NAME.fullmatch(name):
        raise DocumentError(f"{name}: a workload name is a lower-case letter, then letters, digits or '-', at most 48")
    identity = document.identity
    return Workload(
        name=name,
        launchers=frozenset(document.launchers),
        placement=Placement(document.placement),
        user=document.user,
        identity=IdentitySource(
            kind=IdentityKind(identity.kind),
            subject=identity.subject or (name if identity.kind == "local" else ""),
            groups=frozenset(identity.groups),
            purpose=identity.purpose,
            claims=dict(identity.claims),
            path=identity.path,
            issuer=identity.issuer,
            audience=identity.audience,
            jwks=identity.jwks,
            ca_file=identity.ca_file,
            groups_claim=identity.groups_claim,
            purpose_claim=identity.purpose_claim,
        ),
        paths=tuple(SharedPath(item.path, item.writable) for item in document.paths),
        environment=dict(document.environment),
        trust_files=tuple(document.trust_files),
        unix_sockets=document.unix_sockets,
        inbound=tuple(Inbound(item.port, item.listen) for item in document.inbound),
        root=document.root,
    )
