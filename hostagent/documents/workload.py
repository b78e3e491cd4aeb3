"""The workload document: who may be launched as what (``workloads/NAME.yaml``)."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hostagent.documents.named import Named, Strict, named_document
from hostagent.model.errors import DocumentError
from hostagent.model.flow import Placement
from hostagent.model.workload import IdentityKind, IdentitySource, Inbound, SharedPath, Workload

NAME = re.compile(r"[a-z][a-z0-9-]{0,47}")
_AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$")]
MAXIMUM_INBOUND = 16
_TAKEN = frozenset({53, 901, 902})
_Port = Annotated[int, Field(ge=1, le=65535)]


class _Identity(Strict):
    kind: Literal["local", "token_file"] = "local"
    subject: str = ""
    groups: list[str] = []
    purpose: str = ""
    claims: dict[str, Any] = {}
    path: _AbsolutePath | Literal[""] = ""
    issuer: str = ""
    audience: str = ""
    jwks: str = ""
    ca_file: _AbsolutePath | Literal[""] = ""
    groups_claim: str = "groups"
    purpose_claim: str = "purpose"

    @model_validator(mode="after")
    def _consistent(self) -> _Identity:
        if self.kind == "local":
            if self.path or self.issuer or self.audience or self.jwks or self.ca_file:
                raise ValueError("path, issuer, audience, jwks and ca_file belong to kind: token_file")
            return self
        if not self.path or not self.audience:
            raise ValueError("kind: token_file needs path and audience")
        if not self.issuer and not self.jwks:
            raise ValueError("kind: token_file needs issuer (OIDC discovery) or jwks (file or https URL)")
        if self.groups or self.purpose or self.claims:
            raise ValueError("groups, purpose and claims come from the token when kind is token_file")
        return self


class _Path(Strict):
    path: _AbsolutePath
    writable: bool = False


class _Inbound(Strict):
    port: _Port
    listen: str = "127.0.0.1"
    opaque: bool = False

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


class _Document(Named):
    launchers: list[str] = ["root"]
    placement: Literal["isolated", "shared"] = "isolated"
    user: str = ""
    identity: _Identity = _Identity()
    paths: list[_Path] = []
    environment: dict[str, str] = {}
    trust_files: list[_AbsolutePath] = []
    unix_sockets: bool = True
    root: _AbsolutePath | Literal[""] = ""
    inbound: Annotated[list[_Inbound], Field(max_length=MAXIMUM_INBOUND)] = []

    @model_validator(mode="after")
    def _inside(self) -> _Document:
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
    def _own_root(self) -> _Document:
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
    document = named_document(name, text, _Document)
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
