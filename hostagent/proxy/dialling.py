"""Where a target is really dialled, and the dial itself: over TCP, or a unix socket by its path on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hostagent.model.flow import Endpoint
from hostagent.model.target import Target
from hostagent.proxy.dns import Resolver


def upstream_of(target: Target, destination: Endpoint, resolver: Resolver) -> Endpoint | None:
    """Return where the proxy goes for a workload that dialled ``destination``, one of the target's own places.

    The same place; or, for a unix socket of a target that has hosts, the first address that is known. None: no address is
    known.
    """
    if not destination.is_path or not target.hosts:
        return destination
    names = resolver.names_of([target])  # what is not a name there is an address
    for host in target.hosts:
        for address in names.get(host, (host,)):
            return Endpoint(address, target.port)
    return None


async def dial(protocol: Callable[[], asyncio.Protocol], place: Endpoint) -> None:
    """Connect ``protocol`` to ``place``.

    Raises:
        OSError: not reachable.
    """
    loop = asyncio.get_running_loop()
    if place.is_path:
        await loop.create_unix_connection(protocol, place.host)
    else:
        await loop.create_connection(protocol, place.host, place.port)


async def open_streams(place: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to ``place``.

    Raises:
        OSError: not reachable.
    """
    if place.is_path:
        return await asyncio.open_unix_connection(place.host)
    return await asyncio.open_connection(place.host, place.port)
