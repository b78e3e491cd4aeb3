"""The nft rules as text: pure functions of what is governed, so that they can be read and compared line by line.

Four jobs in both placements (DESIGN §4.2): *redir* sends TCP and DNS to the leaf's own listener, *fence* lets nothing else
out, *guard* keeps everybody else off the listeners, *inbound* keeps everybody out of the workload. Nothing here exempts a
mark, a uid or a port.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MARK_PREFIX = 0x68610000
"""In shared placement a leaf's packets carry this plus the leaf's number, as packet mark and connection mark."""

MARK_MASK = 0xFFFF0000

_LOG_RATE = "limit rate 200/second burst 400 packets"
_UNREACHABLE = "reject with icmpx type admin-prohibited"

INBOUND = "inbound"
"""What the log says before a packet that somebody sent to a workload from outside."""

GUARD = "guard"
"""And before one that was sent to a listener without having been redirected."""


@dataclass(frozen=True, slots=True)
class SharedLeaf:
    """A leaf in the host's own network namespace. ``path`` is its cgroup below the cgroup root; ``number`` 1 to 65535."""

    path: str
    number: int
    port: int
    dns_port: int


def isolated(table: str, port: int, dns_port: int, loopback_ports: Iterable[int], log_group: int) -> str:
    """Return the commands that fill the table (it must exist) of an isolated leaf's namespace.

    Args:
        table: its name, family inet.
        port: where the leaf's TCP listeners are on 127.0.0.1 and ::1.
        dns_port: where its DNS listeners are.
        loopback_ports: ports on loopback that are declared targets and so are redirected, not the workload's own.
        log_group: the NFLOG group that refused packets go to.
    """
    ours = f"{{ {port}, {dns_port} }}"
    refuse = f"{_LOG_RATE} log group {log_group} snaplen 128"
    return _table(
        table,
        [
            _set("loopback_ports", "inet_service", map(str, sorted(loopback_ports))),
            _chain(
                "redir",
                "type nat hook output priority -150; policy accept;",
                f"meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns_port}",
                "ip daddr 127.0.0.0/8 tcp dport != @loopback_ports return",
                "ip6 daddr ::1 tcp dport != @loopback_ports return",
                f"meta l4proto tcp redirect to :{port}",
            ),
            _chain(
                "fence",
                "type filter hook output priority 10; policy drop;",
                f'oifname != "lo" {refuse}',
                'oifname != "lo" counter drop',
                f"ct direction original ct status dnat tcp dport {ours} accept",
                f"ct direction original ct status dnat udp dport {dns_port} accept",
                f"ct direction reply ct status dnat tcp sport {ours} accept",
                f"ct direction reply ct status dnat udp sport {dns_port} accept",
                "tcp flags & rst == rst accept",
                "icmp type destination-unreachable accept",
                "icmpv6 type destination-unreachable accept",
                f"meta l4proto tcp th dport {ours} {refuse}",
                f"meta l4proto tcp th dport {ours} counter reject with tcp reset",
                f"meta l4proto udp th dport {ours} {refuse}",
                f"meta l4proto udp th dport {ours} counter {_UNREACHABLE}",
                "ip daddr 127.0.0.0/8 meta l4proto { tcp, udp } accept",
                "ip6 daddr ::1 meta l4proto { tcp, udp } accept",
                refuse,
                f"counter {_UNREACHABLE}",
            ),
            _chain(
                "guard",
                "type filter hook input priority -10; policy accept;",
                'iifname != "lo" drop',
                f"meta l4proto tcp th dport {ours} ct status dnat ct direction original accept",
                f"meta l4proto udp th dport {ours} ct status dnat ct direction original accept",
                f"meta l4proto tcp th dport {ours} counter reject with tcp reset",
                f"meta l4proto udp th dport {ours} counter drop",
            ),
            _chain("forward", "type filter hook forward priority 10; policy drop;"),
        ],
    )


def shared(
    table: str,
    slice_path: str,
    level: int,
    leaves: Sequence[SharedLeaf],
    loopback_ports: Iterable[int],
    log_group: int,
    ports: range = range(700, 900),
) -> str:
    """Return the commands that fill the host's own table.

    Everything in the slice is fenced, known or not: a process that is in no listed leaf reaches nothing.

    Args:
        table: its name, family inet; it must exist.
        slice_path: the slice's cgroup below the cgroup root.
        level: how deep the slice lies (``Slice.level``); leaves are one deeper.
        leaves: those in shared placement.
        loopback_ports: ports on loopback that are declared targets.
        log_group: the NFLOG group that refused packets go to; the packet's mark names the leaf.
        ports: where listeners are bound.
    """
    here = f'socket cgroupv2 level {level} "{slice_path}"'
    leaf = f"socket cgroupv2 level {level + 1}"
    refuse = f"{_LOG_RATE} log group {log_group} snaplen 128"
    names = [(f'"{item.path}"', item) for item in leaves]
    return _table(
        table,
        [
            _set("loopback_ports", "inet_service", map(str, sorted(loopback_ports))),
            _set("listeners", "inet_service", (str(p) for _, item in names for p in (item.port, item.dns_port))),
            _map("tcp_port", "cgroupsv2 : inet_service", (f"{name} : {item.port}" for name, item in names)),
            _map("dns_port", "cgroupsv2 : inet_service", (f"{name} : {item.dns_port}" for name, item in names)),
            _map("leaf_mark", "cgroupsv2 : mark", (f"{name} : {_mark(item):#010x}" for name, item in names)),
            _set(
                "own_listener",
                "cgroupsv2 . inet_service",
                (f"{name} . {p}" for name, item in names for p in (item.port, item.dns_port)),
            ),
            _set("own_mark", "cgroupsv2 . mark", (f"{name} . {_mark(item):#010x}" for name, item in names)),
            _chain("redir", "type nat hook output priority -150; policy accept;", f"{here} jump redir_governed"),
            _chain(
                "redir_governed",
                f"meta l4proto {{ tcp, udp }} th dport 53 redirect to :{leaf} map @dns_port",
                "ip daddr 127.0.0.0/8 tcp dport != @loopback_ports return",
                "ip6 daddr ::1 tcp dport != @loopback_ports return",
                f"meta l4proto tcp redirect to :{leaf} map @tcp_port",
            ),
            _chain("fence", "type filter hook output priority 200; policy accept;", f"{here} jump fence_governed"),
            _chain(
                "fence_governed",
                f"meta mark set {leaf} map @leaf_mark",
                f"ct direction original ct status dnat fib daddr type local meta l4proto {{ tcp, udp }} {leaf} . th dport @own_listener accept",
                # The workload's own loopback: let on to the wire that is none, marked, and let in at the far end only if
                # the socket there is the same leaf's.
                f'oifname "lo" ip daddr 127.0.0.0/8 th dport != @listeners {leaf} . meta mark @own_mark jump own_loopback',
                f'oifname "lo" ip6 daddr ::1 th dport != @listeners {leaf} . meta mark @own_mark jump own_loopback',
                # What the kernel itself refuses a connection with: it is looked up like a packet of the socket it is for.
                'oifname "lo" tcp flags & rst == rst accept',
                "jump refused",
                "meta l4proto tcp counter reject with tcp reset",
                f"counter {_UNREACHABLE}",
            ),
            # What the fence accepted was for a local address, but a socket tied to a device would send it out there all the
            # same. The device is known only after the redirection was routed anew, where no socket can be asked for: the
            # fence's mark tells.
            _chain(
                "egress",
                "type filter hook postrouting priority -300; policy accept;",
                # An own-loopback server's SYN-ACK has no full socket to be marked by in the fence; `backstop` wants a mark.
                f'oifname "lo" ct direction reply ct mark & {MARK_MASK:#010x} == {MARK_PREFIX:#010x} tcp flags & (syn | ack) == syn | ack meta mark set ct mark',
                f'meta mark & {MARK_MASK:#010x} == {MARK_PREFIX:#010x} oifname != "lo" jump refused',
                f'meta mark & {MARK_MASK:#010x} == {MARK_PREFIX:#010x} oifname != "lo" counter drop',
                # What a listener sends after its connection was forgotten (`conntrack -F`) meets no socket, and Linux sends the
                # reset that answers it to ::1 out of the device that the address belongs to.
                # Also after the leaf's end, when its port is no listener's any more.
                f'oifname != "lo" ip6 daddr ::1 tcp dport {ports.start}-{ports.stop - 1} tcp flags & (syn | rst) == rst counter drop',
            ),
            _chain(
                "own_loopback",
                f"ct direction original ct mark set {leaf} map @leaf_mark accept",
                f"{leaf} . ct mark @own_mark accept",
            ),
            # Each leaf has its own rate: who makes a flood of refused packets keeps nobody else's off the record.
            _chain(
                "refused",
                *(f"meta mark {_mark(item):#010x} {rule}" for _, item in names for rule in (refuse, "return")),
                refuse,
            ),
            _chain(
                "guard",
                "type filter hook input priority -10; policy accept;",
                # The mark as well: somebody else's redirection to a listener does not make a governed connection.
                f"meta l4proto {{ tcp, udp }} th dport @listeners ct direction original ct status dnat meta mark & {MARK_MASK:#010x} == {MARK_PREFIX:#010x} accept",
                # Without it what the kernel says for a socket that has closed (the last ACK, a reset), which opens nothing: kept away, the
                # proxy's end would linger for minutes, and the next dial from the same port would meet it instead of the listener.
                "meta l4proto tcp th dport @listeners ct direction original ct status dnat tcp flags & (fin | syn) == 0x0 accept",
                f"meta l4proto {{ tcp, udp }} th dport @listeners {_logged(log_group, GUARD)}",
                "meta l4proto tcp th dport @listeners counter reject with tcp reset",
                "meta l4proto udp th dport @listeners counter drop",
            ),
            _chain(
                "inbound",
                "type filter hook input priority 10; policy accept;",
                f"{here} jump inbound_governed",
                # A leaf's own-loopback packet that met a socket of somebody else. Either mark is enough to know it by.
                f"ct mark & {MARK_MASK:#010x} == {MARK_PREFIX:#010x} jump misplaced",
                f"meta mark & {MARK_MASK:#010x} == {MARK_PREFIX:#010x} jump misplaced",
            ),
            _chain(
                "misplaced",
                "ct status dnat return",
                "ct direction reply return",
                # A TCP connection was let in with its first packet; the ones of its handshake meet no full socket.
                "meta l4proto tcp ct state != new return",
                "jump refused",
                "meta l4proto tcp counter reject with tcp reset",
                f"counter {_UNREACHABLE}",
            ),
            _chain(
                "inbound_governed",
                "ct direction reply ct status dnat accept",
                f'iifname "lo" {leaf} . ct mark @own_mark accept',
                'iifname "lo" tcp flags & rst == rst accept',
                # So that the log names the leaf, as in the fence.
                f"meta mark set {leaf} map @leaf_mark",
                _logged(log_group, INBOUND),
                f"counter {_UNREACHABLE}",
            ),
        ],
    )


def _logged(group: int, prefix: str) -> str:
    return f'{_LOG_RATE} log prefix "{prefix}" group {group} snaplen 128'


def create(table: str) -> str:
    """Return the command that makes ``table`` where it does not exist."""
    return f"add table inet {table}\n"


def delete(table: str) -> str:
    """Return the command that removes ``table``; an error if there is none."""
    return f"delete table inet {table}\n"


def signature(table: str, word: str) -> str:
    """Return commands that put ``word`` into the table, in a rule that no packet meets: whose transaction it was."""
    return f'add chain inet {table} loaded\nadd rule inet {table} loaded counter comment "{word}"\n'


def _mark(leaf: SharedLeaf) -> int:
    return leaf_mark(leaf.number)


def leaf_mark(number: int) -> int:
    """Return the mark of packets that the fence let through for leaf ``number`` (shared placement)."""
    return MARK_PREFIX | number


class _Block(NamedTuple):
    """One object of the table: the command that declares it where it is missing, and those that (re)fill it."""

    declaration: str
    refill: str = ""


def _table(name: str, blocks: Sequence[_Block]) -> str:
    """One transaction: drop every rule, declare what is missing, fill anew.

    The table itself is neither deleted nor declared: one that is persistent can only be named. Flushing it leaves the
    elements of its sets where they are, so each set is flushed by itself.
    """
    lines = [f"flush table inet {name}\n", *(each.declaration for each in blocks), *(each.refill for each in blocks)]
    return "".join(lines).replace("TABLE", f"inet {name}")


def _chain(name: str, *lines: str) -> _Block:
    """A chain; a first line that begins with ``type`` hooks it."""
    hook = lines[0] if lines[0].startswith("type ") else ""
    rules = "".join(f"add rule TABLE {name} {line}\n" for line in lines[1 if hook else 0 :])
    return _Block(f"add chain TABLE {name} {{ {hook} }}\n" if hook else f"add chain TABLE {name}\n", rules)


def _elements(kind: str, name: str, type_: str, elements: Iterable[str]) -> _Block:
    listed = ", ".join(elements)
    filled = f"add element TABLE {name} {{ {listed} }}\n" if listed else ""
    return _Block(f"add {kind} TABLE {name} {{ type {type_}; }}\n", f"flush {kind} TABLE {name}\n{filled}")


def _set(name: str, type_: str, elements: Iterable[str]) -> _Block:
    return _elements("set", name, type_, elements)


def _map(name: str, type_: str, elements: Iterable[str]) -> _Block:
    return _elements("map", name, type_, elements)
