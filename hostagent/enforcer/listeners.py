"""A leaf's listeners: bound here, served by the proxy, never read from by us.

A listener is bound to loopback explicitly, so that its port stays taken as long as we hold our
descriptor, open to dials or not.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Protocol

from hostagent.model.errors import HostagentError

_BACKLOG = 512
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class Door(Protocol):
    """A listener beside the six, with the same life."""

    listener: socket.socket

    def open(self) -> None:
        """Let dials in."""

    def shut(self) -> None:
        """Refuse dials from now on. ``open`` undoes it."""

    def close(self) -> None:
        """Give everything back."""


class Listeners:
    """Six sockets: TCP, DNS over UDP and DNS over TCP, each for IPv4 and IPv6, in the order of ``ipc.Listen``.

    ``doors`` are those that come after them.
    """

    def __init__(self, port: int, dns_port: int, returned: Iterable[socket.socket] = ()) -> None:
        """Bind, in the network namespace that the calling process is in; nothing is dialled through until ``open``.

        ``returned``: the six of an earlier enforcerd, in their order, instead.

        Raises:
            OSError: a port is taken (EADDRINUSE).
        """
        self.port = port
        self.dns_port = dns_port
        self._sockets: list[socket.socket] = list(returned)
        self.doors: list[Door] = []
        if self._sockets:
            return
        try:
            for kind, number in ((socket.SOCK_STREAM, port), (socket.SOCK_DGRAM, dns_port), (socket.SOCK_STREAM, dns_port)):
                for family, address in _LOOPBACK:
                    self._sockets.append(_bound(family, kind, address, number))
        except OSError:
            self.close()
            raise

    @property
    def own(self) -> list[socket.socket]:
        """The six."""
        return list(self._sockets)

    @property
    def descriptors(self) -> list[int]:
        """The descriptors in the order of ``ipc.Listen``."""
        return [each.fileno() for each in (*self._sockets, *(door.listener for door in self.doors))]

    @property
    def tcp(self) -> list[socket.socket]:
        """The two that carry everything but DNS."""
        return self._sockets[:2]

    def open(self) -> None:
        """Let dials in.

        SO_REUSEADDR is on only while listening: what is accepted inherits it, so that connections of a proxy that died,
        still closing, do not keep us from listening again; while shut it is off, so that nobody can share the port.
        """
        for each in self._streams():
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.listen(_BACKLOG)
        for door in self.doors:
            door.open()

    def shut(self) -> None:
        """Refuse dials from now on, reset what was queued, keep the ports. ``open`` undoes it."""
        for each in self._streams():
            try:
                each.shutdown(socket.SHUT_RD)
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # was not listening
                    raise
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        for door in self.doors:
            door.shut()

    def close(self) -> None:
        """Give the ports back (once the proxy's copies are closed too)."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        for door in self.doors:
            door.close()
        self.doors.clear()

    def _streams(self) -> list[socket.socket]:
        return [each for each in self._sockets if each.type == socket.SOCK_STREAM]


def bind_free(ports: Iterable[int], taken: Iterable[int]) -> Listeners:
    """Return listeners on the first free pair of ``ports`` (an even offset and the one after).

    Raises:
        HostagentError: none is free.
    """
    used = set(taken)
    candidates = list(ports)
    for port in candidates[::2]:
        if port in used or port + 1 not in candidates:
            continue
        try:
            return Listeners(port, port + 1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise HostagentError("no free port left for another workload in shared placement")


def _bound(family: int, kind: int, address: str, port: int) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made
