"""Proof before admission: a throw-away process in the leaf tries to get out, and must fail, before the workload starts.

Only errors that the rules themselves cause count: EPERM from a refused datagram cannot come from a missing route or a
closed port.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from hostagent.enforcer.confinement.launch import in_child
from hostagent.enforcer.listeners import Listeners
from hostagent.model.errors import HostagentError

_TIMEOUT_S = 5.0
_DIAL_S = 1.0
# RFC 5737, RFC 3849: documentation addresses, which no host has.
_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_DISCARD = 9
_ORIGINAL_DESTINATION = 80
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)
_IP_LEVEL: dict[int, int] = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}


def prove_leaf(listeners: Listeners, enter: Callable[[], None], *, routed: bool) -> None:
    """Check a leaf whose rules are loaded and whose listeners are open.

    Args:
        listeners: the leaf's; what the canary dials is accepted and closed unread.
        enter: puts the calling process into the leaf and its network.
        routed: whether every address is routed (in an isolated namespace it is; on a host it may not be, and then what
            has no route cannot be tried).

    Raises:
        HostagentError: something got out, or a connection was not redirected. The leaf must not be used.
    """
    dialled = in_child(lambda: _attempts(listeners, routed=routed), before=enter, timeout_s=_TIMEOUT_S)
    _check_redirected(listeners, dialled.split())


def prove_slice(enter: Callable[[], None]) -> None:
    """Check that a process in the slice but in no known leaf is refused.

    Raises:
        HostagentError: it was not.
    """
    in_child(lambda: _refuse_datagrams(_LOOPBACK, routed=True), before=enter, timeout_s=_TIMEOUT_S)


def _attempts(listeners: Listeners, *, routed: bool) -> str:
    """Return the outside addresses that could be dialled, separated by spaces."""
    _refuse_datagrams(_OUTSIDE, routed=routed)
    for family, address in _LOOPBACK:
        _refuse_direct(family, address, listeners.port)
    dialled = []
    for family, address in _OUTSIDE:
        with socket.socket(family, socket.SOCK_STREAM) as dial:
            dial.settimeout(_DIAL_S)
            try:
                dial.connect((address, _DISCARD))
                dialled.append(address)
            except OSError as error:
                if routed or error.errno not in _NO_ROUTE:
                    raise HostagentError(f"a connection to {address} was not redirected ({error.strerror})") from error
    return " ".join(dialled)


def _refuse_datagrams(addresses: tuple[tuple[int, str], ...], *, routed: bool) -> str:
    for family, address in addresses:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            try:
                sender.sendto(b"canary", (address, _DISCARD))
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EACCES) or (not routed and error.errno in _NO_ROUTE):
                    continue
                raise HostagentError(f"a datagram to {address} failed by no rule ({error.strerror})") from error
            raise HostagentError(f"the fence does not hold: a datagram to {address} was let through")
    return ""


def _refuse_direct(family: int, address: str, port: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as dial:
        dial.settimeout(_DIAL_S)
        try:
            dial.connect((address, port))
        except OSError:
            return
        raise HostagentError(f"the fence does not hold: the listener could be dialled directly at {address}")


def _check_redirected(listeners: Listeners, dialled: list[str]) -> None:
    """Accept the canary's dials and compare where the kernel says they were going."""
    for listener, (family, address) in zip(listeners.tcp, _OUTSIDE, strict=True):
        if address not in dialled:
            continue
        try:
            connection, _ = listener.accept()
            with connection:
                raw = connection.getsockopt(_IP_LEVEL[family], _ORIGINAL_DESTINATION, 28)
        except OSError as error:
            raise HostagentError(f"a connection to {address} did not reach the listener ({error.strerror})") from error
        packed = raw[4:8] if family == socket.AF_INET else raw[8:24]
        if (packed, struct.unpack_from(">H", raw, 2)[0]) != (socket.inet_pton(family, address), _DISCARD):
            raise HostagentError(f"a connection to {address} lost its destination on the way to the listener")
