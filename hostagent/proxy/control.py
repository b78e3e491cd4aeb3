"""The control socket: approvals, identities and status for people on this host.

Who calls is what the kernel says (``SO_PEERCRED``), never what the caller says; a process inside the governed slice is told
nothing. One JSON object per line each way: ``{"call": "approvals.list", "args": {}}`` →
``{"ok": true, "result": …}`` or ``{"ok": false, "error": "…"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import pwd
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

_REQUEST_LIMIT = 65_536
_IDLE_S = 30.0
_PER_USER = 16
"""Most connections of one user at once; root is not counted."""
_PEERCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end, by the kernel's word. ``governed``: inside the slice, or not to be told apart from it."""

    pid: int
    uid: int
    user: str
    groups: frozenset[str]
    governed: bool


class Refused(Exception):  # noqa: N818 - an outcome more than an error
    """The call cannot be answered; ``str()`` is for the caller to read."""


Handler = Callable[[Caller, Mapping[str, object]], Awaitable[object] | object]


class Control:
    """Serves the control socket with a table of calls."""

    def __init__(self, path: str, slice_name: str) -> None:
        """``slice_name`` is the cgroup whose processes get no answer."""
        self._path = Path(path)
        self._slice = slice_name
        self._handlers: dict[str, Handler] = {}
        self._server: asyncio.Server | None = None
        self._open: Counter[int] = Counter()

    def on(self, call: str, handler: Handler) -> None:
        """Answer ``call`` with what ``handler(caller, args)`` returns; it may raise ``Refused``."""
        self._handlers[call] = handler

    async def start(self) -> None:
        """Bind the socket (any local user may connect; each call says who may use it) and serve."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(0o666)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_REQUEST_LIMIT)

    async def stop(self) -> None:
        """Close the socket and remove it."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller: Caller | None = None
        try:
            caller = identify(writer.get_extra_info("socket"), self._slice)
            self._open[caller.uid] += 1
            while caller.uid == 0 or self._open[caller.uid] <= _PER_USER:
                async with asyncio.timeout(_IDLE_S):
                    line = await reader.readline()
                if not line:
                    return
                writer.write(msgspec.json.encode(await self._answer(caller, line)) + b"\n")
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            log.debug("control connection ended", exc_info=True)
        finally:
            if caller is not None:
                self._open[caller.uid] -= 1
                self._open += Counter()  # forgets users without a connection
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, caller: Caller, line: bytes) -> dict[str, object]:
        if caller.governed:
            return {"ok": False, "error": "governed processes have no control over their governor"}
        try:
            request = msgspec.json.decode(line, type=dict[str, object])
            call, args = request.get("call"), request.get("args", {})
        except msgspec.DecodeError:
            return {"ok": False, "error": "not a JSON object"}
        handler = self._handlers.get(call) if isinstance(call, str) else None
        if handler is None or not isinstance(args, dict):
            return {"ok": False, "error": f"unknown call {call!r}"}
        try:
            result = handler(caller, args)
            if asyncio.iscoroutine(result):
                result = await result
        except Refused as refusal:
            return {"ok": False, "error": str(refusal)}
        return {"ok": True, "result": result}


def identify(connection: socket.socket, slice_name: str) -> Caller:
    """Return who is connected. A peer whose cgroup cannot be read counts as governed: unknown means no."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    pid, uid, gid = _PEERCRED.unpack(raw)
    try:
        account = pwd.getpwuid(uid)
        user = account.pw_name
        numbers = os.getgrouplist(user, account.pw_gid)
    except KeyError:
        user, numbers = "", [gid]
    groups = set()
    for number in numbers:
        with contextlib.suppress(KeyError):
            groups.add(grp.getgrgid(number).gr_name)
    return Caller(pid, uid, user, frozenset(groups), governed=_in_slice(pid, slice_name))


def _in_slice(pid: int, slice_name: str) -> bool:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return True
    unified = [line.partition("::")[2] for line in lines if line.startswith("0::")]
    return not unified or any(slice_name in path.split("/") for path in unified)
