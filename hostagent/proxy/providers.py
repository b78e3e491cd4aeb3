"""Context providers: small files and loopback services that say what is going on (a change freeze, an open incident).

They are asked in the background; a judgement only reads ``values``. What is said of a file is true while it can be read, and as old
as the file; what a service said stays until its next answer, and policy ignores it once it is older than ``max_age``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from hostagent.documents.source import read
from hostagent.model.errors import DocumentError
from hostagent.policy import ContextProvider, ContextValue

log = logging.getLogger(__name__)

MAX_ANSWER = 65_536
"""Largest file or answer, in bytes."""

TIMEOUT_S = 2.0
"""How long a service may take for its whole answer."""

POLL_S = 0.5
"""How often it is looked whether a provider is due; files are due every time."""

_ASK_AT_MOST_S, _ASK_AT_LEAST_S = 0.5, 5.0

Attributes = Mapping[str, ContextValue]


class Providers:
    """The providers that the policy in force declares, and what they last said."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with no provider. ``clock`` is wall-clock time in unix seconds."""
        self.values: Attributes = {}
        self._clock = clock
        self._declared: tuple[ContextProvider, ...] = ()
        self._said: dict[ContextProvider, Attributes] = {}
        self._asked: dict[ContextProvider, float] = {}

    def configure(self, declared: Sequence[ContextProvider]) -> None:
        """Ask these from now on. Files are read at once, so that a new policy finds its attributes."""
        self._declared = tuple(declared)
        self._said = {provider: said for provider, said in self._said.items() if provider in self._declared}
        self._asked = {provider: at for provider, at in self._asked.items() if provider in self._declared}
        for provider in self._declared:
            if provider.file:
                self._said[provider] = from_file(provider, self._clock())
        self._publish()

    async def run(self) -> None:
        """Ask every provider when it is due, until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(POLL_S)

    async def ask(self) -> None:
        """Ask every provider that is due, all at the same time, and publish what they say."""
        declared = self._declared
        async with asyncio.TaskGroup() as tasks:
            for provider in declared:
                if provider.file:
                    tasks.create_task(self._ask_file(provider))
                elif self._is_due(provider):
                    tasks.create_task(self._ask_service(provider))
        if declared is self._declared:
            self._publish()

    def _is_due(self, provider: ContextProvider) -> bool:
        now = asyncio.get_running_loop().time()
        every = min(max((provider.max_age or 0.0) / 3, _ASK_AT_MOST_S), _ASK_AT_LEAST_S)
        last = self._asked.get(provider)
        if last is not None and now - last < every:
            return False
        self._asked[provider] = now
        return True

    async def _ask_file(self, provider: ContextProvider) -> None:
        self._said[provider] = await asyncio.to_thread(from_file, provider, self._clock())

    async def _ask_service(self, provider: ContextProvider) -> None:
        asked_at = self._clock()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                said = _mapping(provider.url, await _get(provider.url))
        except (OSError, TimeoutError, ValueError, DocumentError, asyncio.IncompleteReadError) as error:
            # The last answer stands until it is too old, which policy itself notices.
            log.warning("context provider did not answer", extra={"url": provider.url, "error": str(error)})
            return
        self._said[provider] = _attributes(provider, said, asked_at)

    def _publish(self) -> None:
        self.values = {
            name: value for provider in self._declared for name, value in self._said.get(provider, {}).items()
        }


def from_file(provider: ContextProvider, now: float) -> Attributes:
    """Return what the provider's file says, as old as the file; nothing if it cannot be read or is no mapping."""
    try:
        with Path(provider.file).open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & stat.S_IWOTH:
                raise DocumentError("everybody may write it")
            said = _mapping(provider.file, file.read(MAX_ANSWER + 1))
    except (OSError, ValueError, DocumentError) as error:
        log.warning("context file cannot be used", extra={"file": provider.file, "error": str(error)})
        return {}
    # A modification time in the future must not keep a value young.
    return _attributes(provider, said, min(status.st_mtime, now))


def _attributes(provider: ContextProvider, said: Mapping[str, object], at: float) -> Attributes:
    return {
        name: ContextValue(value, at)
        for name in provider.attributes
        if isinstance(value := said.get(name), str | bool | int | float)
    }


def _mapping(name: str, content: bytes) -> Mapping[str, object]:
    if len(content) > MAX_ANSWER:
        raise ValueError(f"larger than {MAX_ANSWER} bytes")
    text = content.decode("utf-8")
    if name.endswith((".yaml", ".yml")):
        return read(name, text).value
    said = json.loads(text)
    if not isinstance(said, dict):
        raise DocumentError("not a JSON object")
    return said


async def _get(url: str) -> bytes:
    """Return the body of a 200 answer. HTTP/1.0, so that the body ends with the connection; redirects are errors."""
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else str(parts.hostname)
    reader, writer = await asyncio.open_connection(host, parts.port or 80)
    try:
        query = f"?{parts.query}" if parts.query else ""
        request = f"GET {parts.path or '/'}{query} HTTP/1.0\r\nHost: {parts.netloc}\r\nAccept: application/json\r\n\r\n"
        writer.write(request.encode("ascii"))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        status = head[0].split(b" ")
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
            raise ValueError(f"answered {head[0][:60]!r}, not 200")
        if any(line.lower().startswith(b"transfer-encoding:") for line in head):
            raise ValueError("answered with a transfer encoding to an HTTP/1.0 request")
        return await _body(reader)
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) <= MAX_ANSWER:
        chunk = await reader.read(MAX_ANSWER)
        if not chunk:
            break
        body += chunk
    return bytes(body)
