"""The rules as text for ``iptables-restore``, for hosts without nftables: the same jobs as ``ruleset``, one text per family.

Isolated placement has all of them, in the leaf's own namespace, where these tables are nobody else's. The host's own network gets
only a fence that refuses everything from the slice. Shared placement is not offered: no match of iptables tells which
program an arriving packet is for (``-m cgroup`` knows the sockets of connections that exist already), so connections from
outside would be opened into a workload; and a redirection by cgroup could be undone by any other tool's ``iptables-restore``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_OF_A_CGROUP = re.compile(r'-A OUTPUT -m cgroup --path "([^"]+)" -j \S+')


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between IPv4 and IPv6. ``program`` is the name of the command without what comes after the dash."""

    program: str
    loopback: str
    unreachable: str
    icmp: str
    prohibited: str


FAMILIES = (
    Family("iptables", "127.0.0.0/8", "--icmp-type destination-unreachable", "icmp", "icmp-admin-prohibited"),
    Family("ip6tables", "::1/128", "--icmpv6-type destination-unreachable", "icmpv6", "icmp6-adm-prohibited"),
)
SHARED_REFUSED = (
    "shared placement needs nftables: iptables cannot tell which workload an arriving packet is for, so connections from outside"
    " could be opened into it; use isolated placement, or apt-get install nftables"
)
_DNAT = "-m conntrack --ctstate DNAT --ctdir"


def isolated(family: Family, port: int, dns_port: int, loopback_ports: Iterable[int], log_group: int) -> str:
    """Return what fills the tables of an isolated leaf's namespace; rules of others there do not survive it.

    Each table is replaced in one step, in this order: first nothing gets out, then it is redirected. Nothing in the filter table
    depends on the loopback ports, so that a reload changes one table only.

    Args:
        family: which of ``FAMILIES``.
        port: where the leaf's TCP listeners are on loopback.
        dns_port: where its DNS listeners are.
        loopback_ports: ports on loopback that are declared targets and so are redirected, not the workload's own.
        log_group: the NFLOG group that refused packets go to.
    """
    ours = f"{port},{dns_port}"
    log = _log(log_group)
    reject = f"-j REJECT --reject-with {family.prohibited}"
    output = [
        f"! -o lo {log}",
        "! -o lo -j DROP",
        f"-p tcp -m multiport --dports {ours} {_DNAT} ORIGINAL -j ACCEPT",
        f"-p udp -m udp --dport {dns_port} {_DNAT} ORIGINAL -j ACCEPT",
        f"-p tcp -m multiport --sports {ours} {_DNAT} REPLY -j ACCEPT",
        f"-p udp -m udp --sport {dns_port} {_DNAT} REPLY -j ACCEPT",
        "-p tcp -m tcp --tcp-flags RST RST -j ACCEPT",
        f"-p {family.icmp} -m {_icmp_match(family)} {family.unreachable} -j ACCEPT",
        f"-p tcp -m multiport --dports {ours} {log}",
        f"-p tcp -m multiport --dports {ours} -j REJECT --reject-with tcp-reset",
        f"-p udp -m multiport --dports {ours} {log}",
        f"-p udp -m multiport --dports {ours} {reject}",
        f"-d {family.loopback} -p tcp -j ACCEPT",
        f"-d {family.loopback} -p udp -j ACCEPT",
        log,
        reject,
    ]
    arriving = [
        "! -i lo -j DROP",
        f"-p tcp -m multiport --dports {ours} {_DNAT} ORIGINAL -j ACCEPT",
        f"-p udp -m multiport --dports {ours} {_DNAT} ORIGINAL -j ACCEPT",
        f"-p tcp -m multiport --dports {ours} -j REJECT --reject-with tcp-reset",
        f"-p udp -m multiport --dports {ours} -j DROP",
    ]
    redirect = [
        f"-p tcp -m tcp --dport 53 -j REDIRECT --to-ports {dns_port}",
        f"-p udp -m udp --dport 53 -j REDIRECT --to-ports {dns_port}",
        *(
            f"-d {family.loopback} -p tcp -m tcp --dport {each} -j REDIRECT --to-ports {port}"
            for each in sorted(loopback_ports)
        ),
        f"-d {family.loopback} -p tcp -j RETURN",
        f"-p tcp -j REDIRECT --to-ports {port}",
    ]
    filters = _table("filter", {"INPUT": "ACCEPT", "FORWARD": "DROP", "OUTPUT": "DROP"}, INPUT=arriving, OUTPUT=output)
    hooks = dict.fromkeys(("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), "ACCEPT")
    return filters + _table("nat", hooks, OUTPUT=redirect)


def host(family: Family, chain: str, slice_path: str, log_group: int, present: Sequence[str]) -> str:
    """Return what puts the host's fence in force: nothing that a process of the slice sends in the host's network gets through.

    For ``iptables-restore --noflush``; one step.

    Args:
        family: which of ``FAMILIES``.
        chain: its name, at most 28 characters.
        slice_path: the slice's cgroup below the cgroup root; it must exist.
        log_group: the NFLOG group that refused packets go to.
        present: the rules of OUTPUT (as ``-S`` prints them) that are there already; ours among them are replaced.
    """
    rules = [
        f"-A {chain} {_log(log_group)}",
        f"-A {chain} -p tcp -j REJECT --reject-with tcp-reset",
        f"-A {chain} -j REJECT --reject-with {family.prohibited}",
    ]
    return "\n".join(["*filter", f":{chain} - [0:0]", *_undone(present, chain), *rules, f"-I {jump(chain, slice_path)}", "COMMIT", ""])


def host_removed(chain: str, present: Sequence[str]) -> str:
    """Return what takes the host's fence away again; arguments as for ``host``."""
    return "\n".join(["*filter", f":{chain} - [0:0]", *_undone(present, chain), f"-X {chain}", "COMMIT", ""])


def jump(chain: str, slice_path: str) -> str:
    """Return the rule of OUTPUT, as ``-S`` prints it behind ``-A``, that sends the slice's packets to ``chain``."""
    return f'OUTPUT -m cgroup --path "{slice_path}" -j {chain}'


def in_force(present: Sequence[str], chain: str, slice_path: str) -> bool:
    """Whether the slice's packets meet ``chain`` first, going by what ``-S OUTPUT`` prints.

    Before it may stand what asks for another cgroup and for nothing else, as another service's fence does: it meets none of them.
    """
    for line in (each for each in present if each.startswith("-A ")):
        if line == f"-A {jump(chain, slice_path)}":
            return True
        other = _OF_A_CGROUP.fullmatch(line)
        if other is None or f"{slice_path}/".startswith(f"{other[1]}/"):
            return False
    return False


def _undone(present: Sequence[str], chain: str) -> list[str]:
    return [f"-D {line.removeprefix('-A ')}" for line in present if line.startswith("-A OUTPUT ") and line.endswith(f" -j {chain}")]


def _log(group: int) -> str:
    return f"-m limit --limit 200/sec --limit-burst 400 -j NFLOG --nflog-group {group} --nflog-size 128"


def _icmp_match(family: Family) -> str:
    return "icmp6" if family.icmp == "icmpv6" else "icmp"


def _table(name: str, policies: dict[str, str], **chains: Sequence[str]) -> str:
    head = [f"*{name}", *(f":{chain} {policy} [0:0]" for chain, policy in policies.items())]
    rules = [f"-A {chain} {rule}" for chain, lines in chains.items() for rule in lines]
    return "\n".join([*head, *rules, "COMMIT", ""])
