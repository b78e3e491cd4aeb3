"""The proxy's end of enforcerd's request socket: attach, then answer what enforcerd asks.

enforcerd asks whether a workload may start, hands over a leaf's listening sockets, and says when a leaf has ended. The proxy
asks for nothing but to be attached, and for sockets of a leaf's network to connect to its inbound ports with; it can never
cause a launch.
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
    Draw,
    Drawn,
    Failed,
    Leave,
    Listen,
    Listening,
    Renew,
    Renewed,
    Retire,
    Retired,
)
from hostagent.model.errors import HostagentError, RemoteWireError

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_FIRST_DRAW = 1_000
"""Ids of our own questions begin after this; enforcerd's are its own."""

OnAdmit = Callable[[Admit], Awaitable[Admitted]]
OnListen = Callable[[Listen, list[socket.socket]], None]
OnRetire = Callable[[Retire], None]
OnRenew = Callable[[int], Awaitable[Renewed]]


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
        renew: OnRenew,
        known: Callable[[Collection[str]], None],
    ) -> None:
        """The first four callbacks answer enforcerd's questions; ``known`` gets the leaves that exist at each attach."""
        self._path = path
        self._worker = worker
        self._admit = admit
        self._listen = listen
        self._retire = retire
        self._renew = renew
        self._known = known
        self.attached = asyncio.Event()
        self._connection: socket.socket | None = None
        self._sending = asyncio.Lock()
        self._drawing: dict[int, asyncio.Future[list[socket.socket]]] = {}
        self._next_id = _FIRST_DRAW

    async def run(self) -> None:
        """Serve until cancelled."""
        problem = ""
        while True:
            try:
                with contextlib.closing(await self._connect()) as connection:
                    await self._serve(connection)
            except (OSError, HostagentError) as error:
                if str(error) != problem:
                    log.warning("enforcerd: %s; trying again", error)
                problem = str(error)
            self._detached()
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.get_running_loop().sock_connect(connection, self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    async def draw(self, leaf: str) -> list[socket.socket]:
        """Return unconnected sockets of the leaf's network, as ``ipc.Drawn`` says.

        Raises:
            HostagentError: enforcerd is away, or could not.
        """
        if self._connection is None:
            raise HostagentError("enforcerd is away")
        self._next_id += 1
        asked = self._next_id
        drawn: asyncio.Future[list[socket.socket]] = asyncio.get_running_loop().create_future()
        self._drawing[asked] = drawn
        try:
            await self._send(self._connection, encode(asked, Draw(leaf)))
            return await drawn
        except OSError as error:
            raise HostagentError(f"enforcerd: {error.strerror}") from error
        finally:
            del self._drawing[asked]

    async def leave(self) -> None:
        """Say that we are about to go and another will come: who dials meanwhile is to wait, for enforcerd's stated time."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                await self._send(self._connection, encode(_FIRST_DRAW, Leave()))

    def _detached(self) -> None:
        self.attached.clear()
        self._connection = None
        for drawn in self._drawing.values():
            if not drawn.done():
                drawn.set_exception(HostagentError("enforcerd went away"))

    async def _send(self, connection: socket.socket, data: bytes) -> None:
        async with self._sending:
            await _send(connection, data)

    async def _serve(self, connection: socket.socket) -> None:
        await self._send(connection, encode(1, Attach(self._worker)))
        self._connection = connection
        while True:
            packet, descriptors = await _receive(connection)
            if isinstance(packet.body, Renew) and len(descriptors) == 1:
                await self._send(connection, encode(packet.id, await self._renew(descriptors[0])))
                continue
            sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            try:
                answer = await self._answer(packet, sockets)
            except (HostagentError, OSError) as error:
                for passed in sockets:
                    passed.close()
                answer = Failed(str(error))
            if answer is not None:
                await self._send(connection, encode(packet.id, answer))

    async def _answer(self, packet: Packet, sockets: list[socket.socket]) -> Body | None:
        match packet.body:
            case Attached():
                self._known(packet.body.leaves)
                self.attached.set()
                return None
            case Drawn() | Failed() if packet.id in self._drawing:
                self._drawn(self._drawing[packet.id], packet.body, sockets)
                return None
            case Drawn():  # whoever asked has given up
                for each in sockets:
                    each.close()
                return None
            case Failed() if packet.id >= _FIRST_DRAW:
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


    @staticmethod
    def _drawn(asked: asyncio.Future[list[socket.socket]], body: Drawn | Failed, sockets: list[socket.socket]) -> None:
        if not asked.done():
            if isinstance(body, Drawn):
                asked.set_result(sockets)
                return
            asked.set_exception(HostagentError(body.reason))
        for each in sockets:
            each.close()


async def first(wanted: asyncio.Event, other: asyncio.Event) -> bool:
    """Wait for either; return whether ``wanted`` is set."""
    waits = [asyncio.ensure_future(each.wait()) for each in (wanted, other)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
    return wanted.is_set()


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
