"""A bare byte forwarder on uvloop: what any proxy in Python pays before it has understood a single byte.

Run: ``python -m bench.forwarder PORT HOST PORT``; prints ``ready`` when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class End(asyncio.Protocol):
    """One side; writes what it receives to the other, and stops reading while the other is full."""

    def __init__(self, other: End | None = None, upstream: tuple[str, int] = ("", 0)) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self._upstream = upstream
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if self.other is not None:
            self.other.other = self
            self.transport.write(bytes(self.other._early))
        else:
            asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: End(self), *self._upstream)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early += data
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def serve(port: int, host: str, upstream_port: int) -> None:
    """Forward until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: End(upstream=(host, upstream_port)), "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
