"""Delivers a PostgreSQL cancel request upstream, encrypted where the target is (PostgreSQL 17 §53.2.9).

The server answers by closing the connection once it has signalled the session; that is waited for, so that the client's own cancel
connection does not end before its effect.
"""

from __future__ import annotations

import asyncio

from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Endpoint
from hostagent.model.target import Target, UpstreamTLS
from hostagent.proxy.dialling import open_streams
from hostagent.proxy.tls import upstream_context
from hostagent.wire.postgres.startup import Encryption, build_encryption_request


async def deliver_cancel(target: Target, name: str, address: Endpoint, request: bytes) -> None:
    """Send ``request`` to ``address`` on a connection of its own and wait for the server to close it.

    Args:
        target: says whether the connection must be TLS.
        name: what the server's certificate must be good for.
        address: the session's own, checked address.
        request: the CancelRequest with the upstream key.

    Raises:
        OSError: not reachable, or TLS failed.
        RemoteWireError: the target does not offer the TLS that its document demands.
    """
    reader, writer = await open_streams(address)
    try:
        if target.tls is UpstreamTLS.VERIFY:
            writer.write(build_encryption_request(Encryption.SSL))
            await writer.drain()
            if await reader.readexactly(1) != b"S":
                raise RemoteWireError("the target does not offer TLS")
            await writer.start_tls(upstream_context(target), server_hostname=name)
        writer.write(request)
        await writer.drain()
        while await reader.read(4096):
            pass
    except asyncio.IncompleteReadError as error:
        raise RemoteWireError("the target closed the connection") from error
    finally:
        writer.close()
