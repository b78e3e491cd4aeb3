"""Fills a network namespace's connection tracking table, and flushes it.

``python -m tests.lifecycle.conntrack_table``, in the namespace: adds established (assured, so never evicted) TCP entries between
addresses of TEST-NET-2 until the kernel has no room, prints how many, and waits for the end of its input. The limit is the
machine's (``nf_conntrack_max`` cannot be written in a namespace) but the count is the namespace's own.
Layouts: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from pathlib import Path

_NETLINK_NETFILTER = 12
_NEW = (1 << 8) | 0
_REQUEST_CREATE = 0x1 | 0x400 | 0x200
_NESTED = 0x8000
_SEEN_REPLY_ASSURED_CONFIRMED = 0x2 | 0x4 | 0x8
_ESTABLISHED = 3
_LASTS_S = 600
_BATCH = 64


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _tuple(source: bytes, source_port: int, destination: bytes, port: int) -> bytes:
    addresses = _attribute(1 | _NESTED, _attribute(1, source) + _attribute(2, destination))
    ports = _attribute(1, struct.pack("B", 6)) + _attribute(2, struct.pack(">H", source_port)) + _attribute(3, struct.pack(">H", port))
    return addresses + _attribute(2 | _NESTED, ports)


def entry(number: int) -> bytes:
    """Return the netlink message that adds the connection called ``number``."""
    source = bytes((198, 51, 100, 1 + number // 60000 % 250))
    destination, port = bytes((198, 51, 100, 254)), 80 + number // 15_000_000
    source_port = 1024 + number % 60000
    state = _attribute(1 | _NESTED, _attribute(1, struct.pack("B", _ESTABLISHED)))
    body = struct.pack(">BBH", socket.AF_INET, 0, 0) + b"".join(
        (
            _attribute(1 | _NESTED, _tuple(source, source_port, destination, port)),
            _attribute(2 | _NESTED, _tuple(destination, port, source, source_port)),
            _attribute(3, struct.pack(">I", _SEEN_REPLY_ASSURED_CONFIRMED)),
            _attribute(4 | _NESTED, state),
            _attribute(7, struct.pack(">I", _LASTS_S)),
        )
    )
    return struct.pack("=IHHII", 16 + len(body), _NEW, _REQUEST_CREATE, number, 0) + body


def fill() -> int:
    """Add entries until there is room for none; return how many there are.

    Raises:
        OSError: the kernel refused for another reason.
    """
    limit = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    netlink.bind((0, 0))
    netlink.setblocking(False)
    with netlink:
        # Only errors are answered; more than the limit, as entries of others may end meanwhile.
        for first in range(0, limit + 20000, _BATCH):
            netlink.send(b"".join(entry(first + offset) for offset in range(_BATCH)))
            if _refused(netlink):
                return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
    raise OSError(errno.ENOSPC, f"the table took more than its limit of {limit}")


def _refused(netlink: socket.socket) -> bool:
    while True:
        try:
            answer = netlink.recv(65536)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:  # more errors than the socket holds
                return True
            raise
        (code,) = struct.unpack_from("=i", answer, 16)
        if -code == errno.ENOMEM:
            return True
        if code:
            raise OSError(-code, os.strerror(-code))


if __name__ == "__main__":
    print(fill(), flush=True)
    sys.stdin.read()
