"""The proxy's end of enforcerd's request socket: attach, then answer what enforcerd asks.

enforcerd asks whether a workload may start, hands over a leaf's listening sockets, and says when a leaf has ended. The proxy
asks for nothing but to be attached; it can never cause a launch.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Collection

from hostagent.ipc.codec import MAXIMUM_DESCRIPTORS, MAXIMUM_PACKET, Packet, decode, encode
from hostagent.ipc.messages import (
    Admit,
    Admitted,
    Attach,
    Attached,
    Body,
    Failed,
    Listen,
    Listening,
    Retire,
    Retired,
)
from hostagent.model.errors import HostagentError, RemoteWireError

log = logging.getLogger(__name__)

_RETRY_S = 0.2

OnAdmit = Callable[[Admit], Awaitable[Admitted]]
OnListen = Callable[[Listen, list[socket.socket]], None]
OnRetire = Callable[[Retire], None]


class EnforcerLink:
    """Keeps one attached connection; attaches again when enforcerd was restarted."""

    def __init__(
        self,
        path: str,
        worker: str,
        *,
        admit: OnAdmit,
        listen: OnListen,
        retire: OnRetire,
        known: Callable[[Collection[str]], None],
    ) -> None:
        """The first three callbacks answer enforcerd's questions; ``known`` gets the leaves that exist at each attach."""
        self._path = path
        self._worker = worker
        self._admit = admit
        self._listen = listen
        self._retire = retire
        self._known = known
        self.attached = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            try:
                with contextlib.closing(await self._connect()) as connection:
                    await self._serve(connection)
            except (OSError, HostagentError) as error:
                log.warning("enforcerd: %s; trying again", error)
            self.attached.clear()
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _serve(self, connection: socket.socket) -> None:
        await _send(connection, encode(1, Attach(self._worker)))
        while True:
            packet, descriptors = await _receive(connection)
            sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            try:
                answer = await self._answer(packet, sockets)
            except (HostagentError, OSError) as error:
                for passed in sockets:
                    passed.close()
                answer = Failed(str(error))
            if answer is not None:
                await _send(connection, encode(packet.id, answer))

    async def _answer(self, packet: Packet, sockets: list[socket.socket]) -> Body | None:
        match packet.body:
            case Attached():
                self._known(packet.body.leaves)
                self.attached.set()
                return None
            case Failed():
                raise RemoteWireError(packet.body.reason)
            case Admit():
                return await self._admit(packet.body)
            case Listen():
                self._listen(packet.body, sockets)
                return Listening(packet.body.leaf)
            case Retire():
                self._retire(packet.body)
                return Retired(packet.body.leaf)
            case _:
                raise RemoteWireError(f"unexpected {type(packet.body).__name__} from enforcerd")


async def _send(connection: socket.socket, data: bytes) -> None:
    await _ready(connection, writing=True)
    connection.send(data)


async def _receive(connection: socket.socket) -> tuple[Packet, list[int]]:
    await _ready(connection, writing=False)
    room = socket.CMSG_SPACE(MAXIMUM_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, flags, _ = connection.recvmsg(MAXIMUM_PACKET + 1, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data:
        raise RemoteWireError("the connection was closed")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise RemoteWireError("a packet did not fit")
    return decode(data), list(descriptors)


async def _ready(connection: socket.socket, *, writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(connection.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        remove(connection.fileno())
