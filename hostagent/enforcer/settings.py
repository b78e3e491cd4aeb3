"""What enforcerd is told by its process: names in the kernel, accounts, and where documents and evidence go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from hostagent.model.ports import Journal
from hostagent.model.workload import Workload

ISOLATED_PORT = 901
"""Where an isolated leaf's listeners are, on loopback inside its namespace; DNS is on the port after."""


class DescriptorStore(Protocol):
    """Keeps descriptors for the next enforcerd, as a service manager does (sd_pid_notify_with_fds(3))."""

    def take(self) -> Mapping[str, Sequence[int]]:
        """Return, once, what an earlier enforcerd had kept, by name; the descriptors are the caller's."""

    def keep(self, name: str, descriptors: Sequence[int]) -> None:
        """Keep duplicates under ``name``."""

    def drop(self, name: str) -> None:
        """Let go of what is kept under ``name``."""


class Reread(NamedTuple):
    """What a reload found: the secrets for the proxy in a sealed memory file, which the caller closes, and what counts at once."""

    secrets: int
    verify_every_s: float
    verify_freeze: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the enforcer takes from outside.

    ``systemd``: leaves are scopes that systemd makes in its own slice (we run as its unit), not folders that we make.
    ``workloads`` and ``loopback_ports`` are asked again at each launch and reload, so that they may change on disk;
    ``loopback_ports`` are the ports of targets on the host's own loopback. ``ca_file`` is the CA certificate (PEM) that
    workloads are made to trust. ``hidden`` are folders no workload may look into (configuration, state, runtime).
    ``uid_first``/``uid_count`` are the uids given to workloads without ``user:``; nothing else may use them.
    ``shared_ports`` are the ports of listeners in the host's own namespace (shared placement), two per leaf, below
    ``ip_unprivileged_port_start`` so that nobody unprivileged can take one over. ``bpf``: "auto" for eBPF where it can be had, "off" for
    none. ``plain_table``: do not own the host's table
    even where the kernel can (before Linux 6.9 it cannot); weaker, for trying how that holds. ``unix_targets`` are the paths of
    targets' unix sockets, asked at each launch. ``quarantine_file`` is where the workloads that must not run are kept, in a folder
    of root's; empty: a restart forgets them. ``firewall`` is "nft", "iptables", or "auto" for the first of them that works.
    ``verify_every_s``: seconds between two verifications that nobody asked for (0: none, and none after a reload); ``verify_freeze``: while the last one failed,
    nothing is launched; both may be replaced by what ``reread`` (asked at each reload) finds; ``target_names`` are host names that a workload must be able to resolve.
    ``store`` keeps what running leaves need over our own end (``takeover``); None: they end when the next enforcerd starts.
    """

    runtime: str
    proxy_uid: int
    proxy_gid: int
    journal: Journal
    workloads: Callable[[], Mapping[str, Workload]]
    loopback_ports: Callable[[], frozenset[int]]
    ca_file: str
    hidden: tuple[str, ...] = ()
    slice_name: str = "governed.slice"
    systemd: bool = False
    table: str = "hostagent"
    uid_first: int = 64000
    uid_count: int = 1000
    shared_ports: range = field(default=range(700, 900))
    log_group: int = 5
    reserved_uids: frozenset[int] = frozenset()
    plain_table: bool = False
    unix_targets: Callable[[], tuple[str, ...]] = tuple
    quarantine_file: str = ""
    firewall: str = "auto"
    verify_every_s: float = 0.0
    verify_freeze: bool = False
    target_names: Callable[[], tuple[str, ...]] = tuple
    bpf: str = "auto"
    reread: Callable[[], Reread] | None = None
    store: DescriptorStore | None = None

    @property
    def socket_path(self) -> str:
        """The request socket."""
        return f"{self.runtime}/enforcerd.sock"
