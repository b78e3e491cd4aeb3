"""What a leaf has beside its six listeners: unix sockets of targets, and the host's ports for its inbound connections."""

from __future__ import annotations

import errno
import ipaddress
import socket

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement.unixdoors import clear, unix_doors
from hostagent.enforcer.governed import Governed
from hostagent.enforcer.listeners import Listeners
from hostagent.enforcer.peers import Peer
from hostagent.enforcer.settings import Settings
from hostagent.ipc.messages import SUPPLY, Drawn, Listen
from hostagent.model.errors import HostagentError
from hostagent.model.workload import Inbound, Workload

__all__ = ["InboundDoor", "announce", "check", "clear", "give", "open_doors"]

_BACKLOG = 128


class InboundDoor:
    """A listener of the host's, for one inbound port of a leaf."""

    def __init__(self, declared: Inbound, returned: socket.socket | None = None) -> None:
        """Bind in the host's network; nobody can dial before ``open``. ``returned``: an earlier enforcerd's listener there, instead.

        Raises:
            HostagentError: somebody else is there already, or the host has no such address.
        """
        if returned is not None:
            self.listener = returned
            return
        six = ipaddress.ip_address(declared.listen).version == 6
        family = socket.AF_INET6 if six else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            if six:
                self.listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # What an earlier leaf accepted here may still be closing.
            self._share(shared=True)
            self.listener.bind((declared.listen, declared.port))
            self._share(shared=False)
        except OSError as error:
            self.listener.close()
            raise HostagentError(f"inbound port {declared}: {error.strerror}") from error

    def open(self) -> None:
        """Let dials in."""
        self._share(shared=True)
        self.listener.listen(_BACKLOG)

    def shut(self) -> None:
        """Refuse dials from now on, reset what was queued, keep the port. ``open`` undoes it."""
        try:
            self.listener.shutdown(socket.SHUT_RD)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # was not listening
                raise
        self._share(shared=False)

    def _share(self, *, shared: bool) -> None:
        """As with the leaf's own listeners: on only while binding and listening, so that nobody takes the port over while shut."""
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))

    def close(self) -> None:
        """Give the port back, also while somebody else still has a duplicate."""
        self.shut()
        self._share(shared=True)
        self.listener.close()


def check(workload: Workload, targets: frozenset[int]) -> None:
    """See whether the workload's inbound ports can be served, given the ports of targets on loopback.

    What is dialled at one of those inside would be redirected to the leaf's own listener, and an outsider taken for the leaf.

    Raises:
        HostagentError: not in its placement, or a target has the same port.
    """
    if workload.inbound and workload.placement.value != "isolated":
        raise HostagentError(f"workload {workload.name}: inbound ports need isolated placement")
    for each in workload.inbound:
        if each.port in targets:
            raise HostagentError(
                f"workload {workload.name}: inbound port {each.port} is the port of a target on loopback; use another"
            )


def open_doors(governed: Governed, settings: Settings) -> None:
    """Make and open them, as part of the leaf's listeners from now on.

    Raises:
        HostagentError: an inbound port cannot be had.
        OSError: the kernel refused a step.
    """
    assert governed.listeners is not None
    doors = governed.listeners.doors
    governed.unix = unix_doors(settings.runtime, settings.unix_targets())
    doors.extend(governed.unix)
    for declared in governed.workload.inbound:
        doors.append(InboundDoor(declared))
    for door in doors:
        door.open()


def announce(governed: Governed, listeners: Listeners) -> Listen:
    """Return what the proxy is told with the descriptors of ``listeners``."""
    return Listen(
        leaf=governed.leaf.name,
        workload=governed.workload.name,
        placement=governed.workload.placement.value,
        port=listeners.port,
        dns_port=listeners.dns_port,
        loopback_ports=sorted(governed.loopback_ports),
        sockets=[door.path for door in governed.unix],
        uid=governed.account.uid,
        inbound=[(each.listen, each.port) for each in governed.workload.inbound],
    )


def give(proxy: Peer | None, packet_id: int, leaf: str, governed: Governed | None) -> None:
    """Answer the proxy's Draw with what ``ipc.Drawn`` says. A leaf without inbound ports, or none at all, gives nothing.

    They are made here because only a socket made inside can reach a network that has nothing but loopback. What it sends goes
    through that network's own rules, and so does every answer.
    """
    made: list[socket.socket] = []
    try:
        if governed is not None and governed.workload.inbound and governed.network >= 0:
            kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            with kernel.in_network(governed.network):
                made += [socket.socket(family, kind) for family in (socket.AF_INET, socket.AF_INET6) for _ in range(SUPPLY)]
        if proxy is not None:
            proxy.send(packet_id, Drawn(leaf), [each.fileno() for each in made])
    finally:
        for each in made:
            each.close()
