"""Statements that take long to understand are analysed by other processes, so that the event loop never waits for a parser.

A few processes serve all workloads. Of each workload one text is under way at a time, and workloads take turns: who sends many
such texts waits behind itself. A text whose process dies, or takes too long, is not understood: it counts as every effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, Coroutine

import msgspec

from hostagent.sql import Analysis, misunderstood

log = logging.getLogger(__name__)

INLINE = 2048
"""Bytes of a statement that is analysed on the spot: 12 ms for the dearest of that length."""
PROCESSES = 2
_COMMAND = (sys.executable, "-m", "hostagent.proxy.analyst")
_WALL_S = 60.0
_MOST_ANSWER = 64 * 1024 * 1024
_decode = msgspec.msgpack.Decoder(Analysis).decode

Done = Callable[[Analysis], None]


class _FailedError(Exception):
    """A process did not answer."""


class Analysts:
    """Hands texts to the processes, which are started when there is something to do."""

    def __init__(
        self, start: Callable[[Coroutine[object, object, None]], asyncio.Task[None]], *, processes: int = PROCESSES
    ) -> None:
        """``start`` runs work beside the caller."""
        self._start = start
        self._idle = processes
        self._spare: list[asyncio.subprocess.Process] = []
        self._waiting: dict[str, deque[tuple[bytes, Done]]] = {}
        self._turns: deque[str] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def analyse(self, workload: str, text: bytes, done: Done) -> None:
        """Have ``done`` called with what ``text`` (valid UTF-8) means."""
        queue = self._waiting.get(workload)
        if queue is None:
            queue = self._waiting[workload] = deque()
            self._turns.append(workload)
        queue.append((text, done))
        self._go()

    def withdraw(self, workload: str, done: Done) -> None:
        """Nobody wants to know any more: forget the text, unless it is under way."""
        queue = self._waiting.get(workload)
        for waiting in [each for each in queue or () if each[1] == done]:
            assert queue is not None
            queue.remove(waiting)

    def stop(self) -> None:
        """End the processes and forget what they were asked."""
        self._turns.clear()
        for task in self._running:
            task.cancel()
        for process in self._spare:
            self._start(_end(process))
        self._spare.clear()

    def _go(self) -> None:
        while self._idle and self._turns:
            workload = self._turns.popleft()
            if not self._waiting[workload]:  # all withdrawn
                del self._waiting[workload]
                continue
            self._idle -= 1
            task = self._start(self._serve(workload, *self._waiting[workload].popleft()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _serve(self, workload: str, text: bytes, done: Done) -> None:
        try:
            analysis = await self._analysed(text)
        except Exception as error:  # noqa: BLE001 - whatever it was, the text is not understood
            log.warning("a statement could not be analysed: %r", error, extra={"workload": workload})
            analysis = misunderstood(text, "the statement takes too long to understand")
        self._idle += 1
        # One at a time of each workload: only now does it stand in line again, behind the others.
        if self._waiting[workload]:
            self._turns.append(workload)
        else:
            del self._waiting[workload]
        self._go()
        done(analysis)

    async def _analysed(self, text: bytes) -> Analysis:
        process = await self._process()
        kept = False
        try:
            async with asyncio.timeout(_WALL_S):
                last, answer = await _ask(process, text)
            analysis = _decode(answer)
            kept = not last
            return analysis
        finally:
            if kept and process.returncode is None:
                self._spare.append(process)
            else:
                await _end(process)

    async def _process(self) -> asyncio.subprocess.Process:
        while self._spare:
            process = self._spare.pop()
            if process.returncode is None:
                return process
            await _end(process)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*_COMMAND, stdin=pipe, stdout=pipe, limit=_MOST_ANSWER)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


async def _ask(process: asyncio.subprocess.Process, text: bytes) -> tuple[bool, bytes]:
    """Return whether this was the process's last answer, and the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(text).to_bytes(4, "big") + text)
    await process.stdin.drain()
    try:
        head = await process.stdout.readexactly(5)
        size = int.from_bytes(head[1:], "big")
        if size > _MOST_ANSWER:
            raise _FailedError("an answer beyond all measure")
        return head[0] == 1, await process.stdout.readexactly(size)
    except asyncio.IncompleteReadError as error:
        raise _FailedError("its process ended") from error
