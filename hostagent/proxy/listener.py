"""A leaf's listeners: accepts connections and tells where each was going before the kernel redirected it.

The descriptors are made and bound by enforcerd inside the leaf's network; a connection accepted here *is* from that leaf.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from hostagent.model.flow import Endpoint

log = logging.getLogger(__name__)

# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h
_SO_ORIGINAL_DST = 80
_IP6T_SO_ORIGINAL_DST = 80
_SOCKADDR_IN = struct.Struct(">2xH4s8x")
_SOCKADDR_IN6 = struct.Struct(">2xH4x16s4x")
_ACCEPTS_PER_WAKE = 64
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_S = 0.2

Accepted = Callable[[socket.socket, Endpoint, Endpoint], None]


class Listeners:
    """The listening sockets of one leaf."""

    def __init__(
        self,
        leaf: str,
        workload: str,
        sockets: Sequence[socket.socket],
        accepted: Accepted,
        places: Mapping[Endpoint, socket.socket] = MappingProxyType({}),
    ) -> None:
        """``accepted(connection, peer, destination)`` gets every connection; it owns the socket from then on.

        ``places`` are listeners to which nothing was redirected, by where whoever dials them thinks that they are.
        """
        self.leaf = leaf
        self.workload = workload
        self._sockets = [*sockets, *places.values()]
        self._places = {listener: place for place, listener in places.items()}
        self._accepted = accepted
        self._own = {endpoint(listener.getsockname()).port for listener in sockets}

    def start(self) -> None:
        """Begin accepting on the running event loop."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            listener.setblocking(False)
            loop.add_reader(listener.fileno(), self._accept, listener)

    def take_waiting(self) -> None:
        """Accept what has been dialled by now: after the leaf's end nobody else will, and no dial goes without a record."""
        for listener in self._sockets:
            for connection, address in waiting(listener):
                self._take(listener, connection, address)

    def stop(self) -> None:
        """Stop accepting and close our descriptors; enforcerd keeps its own."""
        loop = asyncio.get_running_loop()
        for listener in self._sockets:
            loop.remove_reader(listener.fileno())
            listener.close()
        self._sockets.clear()

    def is_own(self, endpoint: Endpoint) -> bool:
        """Whether ``endpoint`` is one of these listeners: a direct dial, not a redirected connection."""
        return not endpoint.is_path and endpoint.port in self._own and ipaddress.ip_address(endpoint.host).is_loopback

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._pause(listener, error)
                    return
                # EINVAL: enforcerd has shut the listener down because the leaf has ended.
                log.log(logging.DEBUG if error.errno == errno.EINVAL else logging.WARNING, "accept: %s", error)
                return
            self._take(listener, connection, address)

    def _take(self, listener: socket.socket, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            destination = self._places.get(listener) or original_destination(connection)
        except OSError as error:
            # Reset before we looked, or not redirected at all: either way there is nobody to serve.
            log.info("connection without original destination: %s", error, extra={"leaf": self.leaf})
            connection.close()
            return
        peer = Endpoint("", 0) if connection.family == socket.AF_UNIX else endpoint(address)
        self._accepted(connection, peer, destination)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Leave a listener alone for a moment: trying again at once would only burn the time of every other session."""
        log.warning("accept: %s; trying again in %.1f s", error, _PAUSE_S)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())

        def resume() -> None:
            if listener in self._sockets:
                loop.add_reader(listener.fileno(), self._accept, listener)

        loop.call_later(_PAUSE_S, resume)


def waiting(listener: socket.socket) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """Accept, without waiting, every connection that a listener has in its queue; yields them with their peers' addresses."""
    with contextlib.suppress(OSError):  # BlockingIOError: no more. Anything else: none that anybody could have.
        while True:
            yield listener.accept()


def same_socket(bound: socket.socket) -> tuple[int, int]:
    """Return what two descriptors have in common if they are of the same socket (device and inode)."""
    status = os.fstat(bound.fileno())
    return status.st_dev, status.st_ino


def original_destination(connection: socket.socket) -> Endpoint:
    """Return where the peer of an accepted connection was dialling, from conntrack.

    Raises:
        OSError: the kernel knows of no redirection for it.
    """
    if connection.family == socket.AF_INET6:
        raw = connection.getsockopt(socket.IPPROTO_IPV6, _IP6T_SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
        port, packed = _SOCKADDR_IN6.unpack(raw)
    else:
        raw = connection.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size)
        port, packed = _SOCKADDR_IN.unpack(raw)
    return Endpoint(_plain(ipaddress.ip_address(packed)), port)


def endpoint(address: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """Return a socket's address, never v4-mapped."""
    return Endpoint(_plain(ipaddress.ip_address(address[0].partition("%")[0])), address[1])


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
