"""What a root-owned workload document says."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.model.flow import Placement

CANARY = "hostagent.verify"
"""The workload of ``hostagent verify``: no document can have this name, it has no identity, and nothing is allowed to it."""


class IdentityKind(enum.StrEnum):
    """Where a workload's token comes from."""

    LOCAL = "local"
    TOKEN_FILE = "token_file"  # noqa: S105 - a kind, not a secret


@dataclass(frozen=True, slots=True)
class IdentitySource:
    """How a workload proves who it is.

    ``LOCAL``: the embedded issuer mints it with ``subject``, ``groups``, ``purpose`` and ``claims`` from this document.
    ``TOKEN_FILE``: read from ``path`` (and re-read on renewal), verified against ``issuer`` (OIDC discovery, or
    ``jwks`` as file path or https URL) and ``audience``; ``subject``, when set, must match exactly.
    """

    kind: IdentityKind = IdentityKind.LOCAL
    subject: str = ""
    groups: frozenset[str] = frozenset()
    purpose: str = ""
    claims: Mapping[str, object] = field(default_factory=dict)
    path: str = ""
    issuer: str = ""
    audience: str = ""
    jwks: str = ""
    ca_file: str = ""
    groups_claim: str = "groups"
    purpose_claim: str = "purpose"


@dataclass(frozen=True, slots=True)
class SharedPath:
    """A host path visible inside the workload; read-only unless ``writable``."""

    path: str
    writable: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Inbound:
    """A TCP port of the workload that others may connect to, at ``listen`` (an IP address of the host), the same port.

    Nobody reads what passes: whoever declares it permits bytes that are not understood, both ways.
    """

    port: int
    listen: str = "127.0.0.1"

    def __str__(self) -> str:
        """Return where others connect."""
        return f"[{self.listen}]:{self.port}" if ":" in self.listen else f"{self.listen}:{self.port}"


@dataclass(frozen=True, slots=True)
class Workload:
    """One governed workload, as declared by root.

    ``launchers`` are the unix user names that may start it. ``user`` empty means an own uid allotted by the
    enforcer. ``trust_files`` are PEM bundles that the workload's clients read and that get our CA added.
    ``inbound`` are ports on which the workload may be connected to (none by default). Without ``unix_sockets`` it connects to
    no unix socket at all, whatever its name or namespace. ``root`` is the folder of a container image that is its root, empty
    for the host's files.
    """

    name: str
    launchers: frozenset[str] = frozenset({"root"})
    placement: Placement = Placement.ISOLATED
    user: str = ""
    identity: IdentitySource = field(default_factory=IdentitySource)
    paths: tuple[SharedPath, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    trust_files: tuple[str, ...] = ()
    unix_sockets: bool = True
    inbound: tuple[Inbound, ...] = ()
    root: str = ""
