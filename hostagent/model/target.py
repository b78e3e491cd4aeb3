"""What a target document says: a server that policy may let workloads reach."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class UpstreamTLS(enum.StrEnum):
    """How the proxy talks to the target. ``VERIFY`` checks chain and name; there is no unverified TLS."""

    VERIFY = "verify"
    DISABLE = "disable"


WEB = frozenset({"http", "kubernetes"})
"""Protocols that are HTTP, or spoken over it."""


@dataclass(frozen=True, slots=True)
class CredentialSource:
    """Where the target's secret lives: ``file`` (whole content), ``env`` (FILE#KEY), ``systemd`` or ``sealed`` (credential names)."""

    kind: str
    location: str


@dataclass(frozen=True, slots=True)
class Login:
    """The account the proxy itself uses at the target. ``credential`` names the secret; never the secret itself.

    How an HTTP target takes the secret: ``scheme`` bearer, basic (with ``user``), header (in the field ``header``), or
    certificate (the secret is a certificate with its key, in PEM, which TLS shows), or sigv4 (the secret is the access key whose id is ``user``).
    """

    user: str
    credential: CredentialSource | None = None
    scheme: str = ""
    header: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One governed server.

    ``hosts`` are names or addresses; ``databases``, ``users`` and ``parameters`` are what a client may *ask for*
    at start-up (empty ``databases``/``users``: any; ``parameters``: names added to the built-in harmless ones).
    ``sockets`` are paths where, in a workload's view, our own unix socket stands for this server; without ``hosts`` the
    server itself is reached by the same path outside. ``http2``: an HTTP server that speaks HTTP/2 as well. ``loopback`` marks a server on the host's own loopback which the workload reaches as 127.0.0.1/::1.
    """

    name: str
    protocol: str
    hosts: tuple[str, ...]
    port: int
    login: Login
    tls: UpstreamTLS = UpstreamTLS.VERIFY
    ca_file: str = ""
    server_name: str = ""
    databases: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    sockets: tuple[str, ...] = ()
    http2: bool = False

    @property
    def web(self) -> bool:
        """Whether it is spoken to over HTTP."""
        return self.protocol in WEB

    @property
    def loopback(self) -> bool:
        """Whether every host is this machine's loopback."""
        return bool(self.hosts) and all(h in ("localhost", "::1") or h.startswith("127.") for h in self.hosts)
