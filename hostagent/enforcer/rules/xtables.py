"""Loads iptables rules through ``iptables-legacy-restore``, and keeps the host's fence on a host without nftables.

The host's tables are everybody's: another tool's ``iptables -F`` takes our rule out, and the kernel tells nobody. So the rule is
looked for at every tick. What depends on it is little: on such a host every workload is isolated, and its own namespace holds it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from hostagent.enforcer.rules import iptables
from hostagent.enforcer.rules.iptables import FAMILIES, Family
from hostagent.enforcer.rules.tablewatch import TableWatch
from hostagent.model.errors import HostagentError

_TIMEOUT_S = 20.0
_LOCK_S = "10"
_TABLES_IN_USE = {"iptables": "/proc/thread-self/net/ip_tables_names", "ip6tables": "/proc/thread-self/net/ip6_tables_names"}


def run(*command: str, text: str = "") -> str:
    """Run a command of iptables in this process's network namespace and return what it printed.

    Raises:
        HostagentError: it is missing or failed, with its own words.
    """
    try:
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise HostagentError(f"{command[0]} is missing: apt-get install iptables") from None
    except subprocess.TimeoutExpired:
        raise HostagentError(f"{command[0]} did not finish within {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise HostagentError(f"{command[0]} refused the rules: {done.stderr.strip()[:2000]}")
    return done.stdout


def load_isolated(port: int, dns_port: int, loopback_ports: frozenset[int], log_group: int) -> None:
    """Load the rules of an isolated leaf's namespace, which this process is in.

    Two families are two steps; nothing runs in a new namespace yet, and a reload changes only what a loopback port means.

    Raises:
        HostagentError: refused; every table keeps what it had.
    """
    for family in FAMILIES:
        text = iptables.isolated(family, port, dns_port, loopback_ports, log_group)
        run(f"{family.program}-legacy-restore", "-w", _LOCK_S, text=text)


class XtablesHost:
    """The host's fence as one chain per family; stands where ``nft.HostTable`` stands."""

    owned = False
    watch: TableWatch | None = None

    def __init__(self, table: str, slice_path: str, log_group: int) -> None:
        """Nothing is loaded until ``load``."""
        self.chain = f"{table}-fence"
        self._slice = slice_path
        self._group = log_group

    def load(self, text: str = "", *, anew: bool = False) -> None:
        """Put the fence in force. Its rules are always the same: both arguments are ``nft.HostTable``'s and unused.

        Raises:
            HostagentError: refused.
        """
        for family in FAMILIES:
            rules = iptables.host(family, self.chain, self._slice, self._group, _output(family))
            run(f"{family.program}-legacy-restore", "--noflush", "-w", _LOCK_S, text=rules)

    def intact(self) -> bool:
        """Return whether the fence is still the first rule for what the slice sends, in both families."""
        try:
            return all(iptables.in_force(_output(family), self.chain, self._slice) for family in FAMILIES)
        except HostagentError:
            return False

    def chains(self) -> list[str]:
        """Return in which families the fence's chain is there.

        Raises:
            HostagentError: refused.
        """
        return [
            f"{family.program} chain {self.chain}"
            for family in FAMILIES
            if _in_use(family) and f"-N {self.chain}" in run(f"{family.program}-legacy", "-w", _LOCK_S, "-S").splitlines()
        ]

    def remove(self) -> None:
        """Take the fence away, if there is one.

        Raises:
            HostagentError: refused.
        """
        for family in FAMILIES:
            if _in_use(family) and f"-N {self.chain}" in run(f"{family.program}-legacy", "-w", _LOCK_S, "-S").splitlines():
                text = iptables.host_removed(self.chain, _output(family))
                run(f"{family.program}-legacy-restore", "--noflush", "-w", _LOCK_S, text=text)


def works() -> str:
    """Return why iptables cannot be used in this network namespace, empty when it can."""
    try:
        for family in FAMILIES:
            run(f"{family.program}-legacy-restore", "--test", "-w", _LOCK_S, text=iptables.isolated(family, 901, 902, [5432], 5))
            _output(family)
    except HostagentError as error:
        return str(error)
    return ""


def _output(family: Family) -> list[str]:
    return run(f"{family.program}-legacy", "-w", _LOCK_S, "-S", "OUTPUT").splitlines()


def _in_use(family: Family) -> bool:
    """Whether the kernel has the filter table in this namespace; asking for it by name would make it."""
    try:
        return "filter" in Path(_TABLES_IN_USE[family.program]).read_text().split()
    except OSError:
        return False
