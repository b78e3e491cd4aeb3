"""Isolated placement: a network namespace that has only ``lo`` and routes everything to it.

Every address in the world is local there, so a connection to any of them arrives at the listener that the rules send it to,
and nothing has anywhere else to go.
"""

from __future__ import annotations

import os

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hostagent.enforcer import kernel
from hostagent.model.errors import HostagentError

SOURCE_4 = "192.0.0.8"  # RFC 7600: the dummy address, never on a wire
SOURCE_6 = "100::8"  # RFC 6666: the discard prefix
_LO = 1
_TABLE_LOCAL = 255
_SCOPE_HOST = 254
_NO_DETECTION = 0x02  # IFA_F_NODAD


def create() -> int:
    """Return the descriptor of a new namespace, configured. It lives as long as the descriptor or a process inside.

    Raises:
        HostagentError: the kernel refused an address or a route.
        OSError: it refused the namespace.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.unshare(kernel.CLONE_NEWNET)
        try:
            _configure()
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            kernel.setns(home, kernel.CLONE_NEWNET)
    finally:
        os.close(home)


def _configure() -> None:
    try:
        _configure_loopback()
    except NetlinkError as error:
        raise HostagentError(f"an isolated network cannot be set up: {error}") from error


def _configure_loopback() -> None:
    with IPRoute() as routes:
        routes.link("set", index=_LO, state="up")
        routes.addr("add", index=_LO, address=SOURCE_4, prefixlen=32)
        # Without duplicate detection: until that had run in the background, the address could not be a route's source.
        routes.addr("add", index=_LO, address=SOURCE_6, prefixlen=128, flags=_NO_DETECTION)
        routes.route(
            "add", type="local", dst="0.0.0.0/0", oif=_LO, prefsrc=SOURCE_4, table=_TABLE_LOCAL, scope=_SCOPE_HOST
        )
        routes.route("add", type="local", dst="::/0", oif=_LO, prefsrc=SOURCE_6, table=_TABLE_LOCAL)
