"""What the rules refused, read from the kernel's packet log (NFLOG): headers only, counted per destination and second.

Layouts: linux/netfilter/nfnetlink_log.h, RFC 791, RFC 8200, RFC 9293 §3.1, RFC 768.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from hostagent.enforcer.rules.netlink import attributes
from hostagent.enforcer.rules.ruleset import GUARD, INBOUND
from hostagent.model.flow import Endpoint

_NETLINK_NETFILTER = 12
_SUBSYSTEM_LOG = 4
_PACKET = _SUBSYSTEM_LOG << 8
_CONFIG = (_SUBSYSTEM_LOG << 8) | 1
_CONFIG_COMMAND = 1
_CONFIG_MODE = 2
_CONFIG_THRESHOLD = 5
_BIND = 1
_COPY_PACKET = 2
_MARK = 2
_PAYLOAD = 9
_PREFIX = 10
_NLM_REQUEST = 1
_NLM_ACK = 4
_NLMSG_ERROR = 2
_SNAP = 128

_TRANSPORTS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmpv6", 132: "sctp", 136: "udplite"}
_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
_MAXIMUM_KEYS = 512


class Refused(NamedTuple):
    """One refused packet. ``mark`` is the packet's mark (which leaf, in shared placement); ``prefix`` what the rule says of it."""

    transport: str
    source: Endpoint
    destination: Endpoint
    mark: int
    prefix: str = ""


class PacketLog:
    """Reads one log group of the network namespace in which it was made."""

    def __init__(self, group: int, returned: socket.socket | None = None) -> None:
        """Bind to ``group``. ``returned``: an earlier enforcerd's socket, which is bound and may hold what came meanwhile.

        Raises:
            OSError: taken by somebody else (EBUSY), or the kernel has no NFLOG.
        """
        self._socket = returned or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        if returned is not None:
            returned.setblocking(False)
            return
        try:
            self._socket.settimeout(2.0)
            self._socket.bind((0, 0))
            self._configure(group, _CONFIG_COMMAND, struct.pack("=B", _BIND))
            self._configure(group, _CONFIG_MODE, struct.pack(">IBx", _SNAP, _COPY_PACKET))
            self._configure(group, _CONFIG_THRESHOLD, struct.pack(">I", 1))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def read(self, limit: int = 64) -> Iterator[Refused]:
        """Yield what is waiting, at most ``limit`` datagrams of it."""
        for _ in range(limit):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # the kernel dropped some; the rules' own counters still count them
                    continue
                return
            yield from parse(data)

    def close(self) -> None:
        """Stop."""
        self._socket.close()

    def _configure(self, group: int, kind: int, value: bytes) -> None:
        attribute = struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + attribute
        self._socket.send(struct.pack("=IHHII", 16 + len(body), _CONFIG, _NLM_REQUEST | _NLM_ACK, 1, 0) + body)
        while True:
            answer = self._socket.recv(65536)
            _, message = struct.unpack_from("=IH", answer)
            if message == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", answer, 16)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return


def parse(data: bytes) -> Iterator[Refused]:
    """Yield the packets in one netlink datagram; what is not understood is left out (the rules counted it)."""
    position = 0
    while position + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, position)
        if length < 16 or position + length > len(data):
            return
        if kind == _PACKET:
            found = attributes(data[position + 20 : position + length])
            mark = struct.unpack(">I", found[_MARK])[0] if len(found.get(_MARK, b"")) == 4 else 0
            prefix = found.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
            headers = parse_headers(found.get(_PAYLOAD, b""))
            if headers is not None:
                yield Refused(*headers, mark, prefix)
        position += (length + 3) & ~3


def parse_headers(packet: bytes) -> tuple[str, Endpoint, Endpoint] | None:
    """Return transport, source and destination of an IP packet (ports 0 where there are none), None if it is not one.

    IPv6 extension headers are not followed: the transport is then the first of them, by number.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        protocol, start = packet[9], (packet[0] & 0xF) * 4
        addresses = (packet[12:16], packet[16:20])
    elif version == 6 and len(packet) >= 40:
        protocol, start = packet[6], 40
        addresses = (packet[8:24], packet[24:40])
    else:
        return None
    ports = (0, 0)
    if protocol in _WITH_PORTS and len(packet) >= start + 4:
        ports = struct.unpack_from(">HH", packet, start)
    source, destination = (
        Endpoint(str(ipaddress.ip_address(address)), port) for address, port in zip(addresses, ports, strict=True)
    )
    return _TRANSPORTS.get(protocol, f"ip-protocol-{protocol}"), source, destination


class Tally:
    """Counts refusals by destination until they are taken, so that a flood makes rows by the second, not by the packet."""

    def __init__(self) -> None:
        """Empty."""
        self._counts: dict[tuple[str, str, str, str, str], int] = {}

    def add(self, leaf: str, refused: Refused) -> None:
        """Count one packet of ``leaf``. Beyond 512 destinations the rest are counted together."""
        key = (leaf, refused.transport, refused.source.host, str(refused.destination), refused.prefix)
        if key not in self._counts and len(self._counts) >= _MAXIMUM_KEYS:
            key = (leaf, "various", "", "various", refused.prefix)
        self._counts[key] = self._counts.get(key, 0) + 1

    def take(self, layer: str = "nft") -> list[tuple[str, dict[str, object]]]:
        """Return leaf and event fields of each row, and start anew. ``layer``: which firewall refused."""
        counts, self._counts = self._counts, {}
        return [
            (
                leaf,
                {
                    "layer": layer,
                    "leaf": leaf,
                    "source": source,
                    "destination": destination,
                    "transport": transport,
                    "reason": _REASONS.get(prefix) or _reason(transport),
                    "count": count,
                },
            )
            for (leaf, transport, source, destination, prefix), count in counts.items()
        ]


_REASONS = {
    INBOUND: "nobody connects to a workload from outside",
    GUARD: "a listener answers its own workload alone, and only what was redirected to it",
}


def _reason(transport: str) -> str:
    if transport == "tcp":
        return "not a redirected connection of its own: only the proxy may be reached, and not directly"
    if transport == "udp":
        return "UDP other than DNS does not leave a workload"
    return f"{transport} does not leave a workload"
