"""Which of the kernel's two firewalls holds the boundary: nftables, or iptables where nft does not work.

Chosen once, by trying. iptables gives isolated placement the same guarantees and refuses shared placement (see ``iptables``).
"""

from __future__ import annotations

import enum
import functools
import logging
import os
import subprocess

from hostagent.enforcer.rules import iptables, nft, ruleset, xtables
from hostagent.enforcer.rules.nft import HostTable
from hostagent.enforcer.rules.xtables import XtablesHost
from hostagent.enforcer.settings import ISOLATED_PORT, Settings
from hostagent.model.errors import HostagentError

log = logging.getLogger(__name__)

_TIMEOUT_S = 20.0


class Firewall(enum.Enum):
    """The value is the word in the configuration, and the layer of a refusal in the evidence."""

    NFT = "nft"
    IPTABLES = "iptables"

    @property
    def shared_refused(self) -> str:
        """Why shared placement is not offered, empty when it is."""
        return iptables.SHARED_REFUSED if self is Firewall.IPTABLES else ""

    def host_table(self, settings: Settings, slice_path: str, cgroup_mount: str) -> HostTable | XtablesHost:
        """Return the fence of the host's own network, not loaded yet."""
        if self is Firewall.IPTABLES:
            return XtablesHost(settings.table, slice_path, settings.log_group)
        return HostTable(settings.table, cgroup_mount, plain=settings.plain_table)

    def load_isolated(self, settings: Settings, loopback_ports: frozenset[int]) -> None:
        """Load the rules of an isolated leaf in its network namespace, which this process is in.

        Raises:
            HostagentError: refused.
        """
        port, dns_port = ISOLATED_PORT, ISOLATED_PORT + 1
        if self is Firewall.IPTABLES:
            xtables.load_isolated(port, dns_port, loopback_ports, settings.log_group)
            return
        text = ruleset.isolated(settings.table, port, dns_port, loopback_ports, settings.log_group)
        nft.run(ruleset.create(settings.table) + text)


@functools.cache
def choose(wanted: str) -> Firewall:
    """Return the firewall that is ``wanted`` ("nft", "iptables"), or for "auto" the first that works.

    Raises:
        HostagentError: it does not work here, with the reason; for "auto", both reasons.
    """
    if wanted != "auto":
        found = Firewall(wanted)
        problem = xtables.works() if found is Firewall.IPTABLES else nft_works()
        if problem:
            raise HostagentError(f"enforcement.firewall is {wanted!r}, and it does not work here: {problem}")
        return found
    problem = nft_works()
    if not problem:
        return Firewall.NFT
    other = xtables.works()
    if other:
        raise HostagentError(f"neither nftables nor iptables works here: {problem}; {other}")
    log.warning("nftables does not work here (%s): iptables is used, shared placement is refused", problem)
    return Firewall.IPTABLES


def nft_works() -> str:
    """Return why nft cannot be used in this network namespace, empty when it can; nothing is changed."""
    text = ruleset.create("probe") + ruleset.isolated("probe", ISOLATED_PORT, ISOLATED_PORT + 1, [5432], 5).partition("\n")[2]
    try:
        done = subprocess.run(
            ["nft", "--check", "-f", "-"], input=text, text=True, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return "nft is missing: apt-get install nftables"
    except (subprocess.TimeoutExpired, OSError) as error:
        return f"nft: {error}"
    return "" if done.returncode == 0 else f"nft: {done.stderr.strip()[:300] or os.strerror(done.returncode)}"


def remove_tables(table: str, cgroup_mount: str) -> None:
    """Take the host's fence down, whichever firewall it was made with.

    Raises:
        HostagentError: refused.
    """
    XtablesHost(table, "", 0).remove()
    if not nft_works():
        HostTable(table, cgroup_mount).remove()


def tables_left(table: str) -> list[str]:
    """Return what is loaded of a service's fence, in either firewall's words; a firewall that does not run holds nothing."""
    try:
        done = subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, timeout=_TIMEOUT_S, check=False)
        found = [line for line in done.stdout.splitlines() if line == f"table inet {table}"]
    except (OSError, subprocess.TimeoutExpired) as error:
        found = [f"nft cannot be asked: {error}"]
    return found + XtablesHost(table, "", 0).chains()
