"""A flow: one redirected connection, as the kernel describes it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Side(enum.Enum):
    """Which end of a flow: the governed workload or the target's server."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> Side:
        """Return the opposite side."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class Placement(enum.StrEnum):
    """Where a workload's network lives (DESIGN §4.2)."""

    ISOLATED = "isolated"
    SHARED = "shared"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where something listens: textual IP (IPv4 or IPv6, never v4-mapped) and port, or a unix socket's path and port 0."""

    host: str
    port: int

    @property
    def is_path(self) -> bool:
        """Whether it is a unix socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        """Return ``host:port`` with IPv6 in brackets, or the path."""
        if self.is_path or not self.host:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection accepted on a leaf's listener.

    ``leaf`` is the kernel's own answer to who connected (the listener is the identity);
    ``destination`` is the address the workload dialled, before redirection; ``transport`` is tcp or unix.
    """

    flow_id: str
    workload: str
    leaf: str
    peer: Endpoint
    destination: Endpoint
    transport: str = "tcp"
