"""A session: one governed connection, its upstream connection, and the gate between them.

The session moves bytes and keeps time; every decision is the gate's. Order within one command list is law: all records are
appended first (results: put off), and if that fails nothing else of the list happens and both sides are cut. Lists that only record
and forward wait for the end of the event loop's turn, so that all sessions share one append (``turn``); any other is obeyed at once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from hostagent.model.command import (
    Again,
    Analyse,
    CancelUpstream,
    Close,
    Command,
    Connect,
    Detach,
    Forward,
    Hold,
    Pause,
    Record,
    RefreshCatalogue,
    Resume,
    StartTLS,
    Withdraw,
)
from hostagent.model.errors import DocumentError, JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Flow, Side
from hostagent.model.ticket import Answer
from hostagent.proxy.around import Judging, Outside
from hostagent.proxy.shares import SHARE_S, Share, Shares
from hostagent.proxy.tlspipe import TLSPipe
from hostagent.sql import Analysis

if TYPE_CHECKING:
    from hostagent.proxy.turn import Turn

log = logging.getLogger(__name__)

# Above this many unsent bytes towards one side, the other side is no longer read.
_HIGH_WATER: Final = 524_288
_CLIENT: Final = Side.CLIENT  # at hand: looking up a member of an enumeration costs as much as a call
_SERVER: Final = Side.SERVER
STEP: Final = 2048
"""Bytes of a client that are judged in one step: the dearest texts cost some 8 µs a byte."""


# How much a session may be sent, and how many things it may keep, until it is asked how much that is.
_WEIGHED_EVERY: Final = 8192
_COUNTED_EVERY: Final = 16


class _End:
    """One side's transport callbacks: an ``asyncio.Protocol`` in all but name, because what is compiled can have no such parent.

    ``behind`` is what was received and not yet looked at, each with whether it is already decrypted; ``queued``: it waits for the
    workload's share; ``eof``: nothing more will come; ``again``: the gate has not yet looked at all that it was fed; ``demanded``: what
    must be spoken inside TLS (ALPN), if anything must.
    """

    def __init__(self, session: Session, side: Side) -> None:
        self._session = session
        self._side = side
        self.transport: asyncio.Transport | None = None
        self.tls: TLSPipe | None = None
        self.demanded = ""
        self.received = 0
        self.behind: deque[tuple[bytes, bool]] = deque()
        self.queued = False
        self.stepping = False
        self.again = False
        self.eof = False

    @property
    def protocol(self) -> asyncio.Protocol:
        """Return it as what the event loop takes."""
        return cast("asyncio.Protocol", self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are of no such class
        if self._session.over:  # it ended while this side was being dialled
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._session.opened(self._side)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._session.received(self._side, data)

    def eof_received(self) -> bool:
        self._session.ended(self._side)
        return True  # the session decides when the transport closes, so that what is queued still goes out

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._session.ended(self._side)

    def pause_writing(self) -> None:
        self._session.throttle(self._side, paused=True)

    def resume_writing(self) -> None:
        self._session.throttle(self._side, paused=False)


class Session:
    """Drives one gate. All methods are called from the event loop; none blocks and none raises."""

    def __init__(
        self,
        flow: Flow,
        gate: Judging,
        outside: Outside,
        turn: Turn,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        share: Share | None = None,
        at_once: int = 4 * STEP,
    ) -> None:
        """Tie the parts together; ``client`` and ``server`` are the protocols to give to the event loop.

        ``share`` is the workload's part of the loop's time, which all its sessions use together. ``at_once``: how many bytes of the
        target's are judged in one step.
        """
        self.flow = flow
        self.gate = gate
        self.client = _End(self, Side.CLIENT)
        self.server = _End(self, Side.SERVER)
        self._outside = outside
        self._turn = turn
        self._waiting = 0
        self._clock = clock
        self._wall_ns = wall_ns
        self._opened_at = clock()
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._share = share or Shares(asyncio.get_running_loop().call_soon).of(flow.workload)
        self._at_once = at_once
        self._gone: set[Side] = set()
        self._unread: set[Side] = set()
        self._full: set[Side] = set()
        self._reading_up = False
        self._heard = 0
        self._weighed_at = _WEIGHED_EVERY
        self._counted_at = _COUNTED_EVERY
        self._cancelling = False
        self._close_reason = ""
        self.database = ""

    # -- what the transports and the process around say ------------------------------------------------------------------

    def opened(self, side: Side) -> None:
        """A side's transport is up."""
        if side is Side.SERVER:
            self._guard(lambda: self._obey(self.gate.connected(self._clock())))

    def received(self, side: Side, data: bytes) -> None:
        """Bytes arrived from ``side``."""
        if self._over:
            return
        end = self.client if side is _CLIENT else self.server
        if end.behind or self._share.used_up or self._stands(end):
            end.behind.append((data, False))
            self._fall_behind(end, side)
            return
        began = self._clock()
        try:
            if end.tls is not None:
                self._received_tls(end, side, data)
            elif len(data) <= STEP:
                self._obey(self.gate.feed(side, data, began))
                self._heard += len(data)
                if self._heard >= self._weighed_at or self.gate.items >= self._counted_at:
                    self._weigh()
            else:
                self._step_by_step(end, side, data)
        except Exception as error:  # noqa: BLE001 - one session fails, only that session closes
            self._crashed(error)
        self._share.spent += self._clock() - began

    def _step_by_step(self, end: _End, side: Side, data: bytes) -> None:
        """Feed much data in steps; what is left when the workload's share is used up waits."""
        clock, step = self._clock, STEP if side is _CLIENT else self._at_once
        stop = clock() + SHARE_S - self._share.spent
        at, size = 0, len(data)
        end.stepping = True
        while at < size or end.again:
            now = clock()
            if now >= stop:
                end.behind.append((data[at:], True))
                self._fall_behind(end, side)
                break
            if end.again:
                end.again = False
                self._obey(self.gate.feed(side, b"", now))
            else:
                much = step if side is _CLIENT else max(step, self.gate.ahead())  # a body's content is cheap
                self._obey(self.gate.feed(side, data[at : at + much], now))
                at += much
                self._heard += much
            if self._heard >= self._weighed_at or self.gate.items >= self._counted_at:
                self._weigh()
            if self._over:
                break
            if self._stands(end):
                if at < size:
                    end.behind.append((data[at:], True))
                self._read_or_not(side)
                break
        end.stepping = False

    def _weigh(self) -> None:
        """Say how much is kept. Asked again after a little more was heard, or there are a few more things: in proportion."""
        if self._over:
            return
        size = self.gate.weigh()
        for end in (self.client, self.server):
            size += sum(len(data) for data, _ in end.behind)
            if end.transport is not None:
                size += end.transport.get_write_buffer_size()
        items = self.gate.items
        self._heard = 0
        self._weighed_at = max(_WEIGHED_EVERY, size // 64)
        self._counted_at = items + max(_COUNTED_EVERY, items // 8)
        self._outside.keeps(self, size)

    def _stands(self, end: _End) -> bool:
        """Return whether nothing of ``end`` is to be fed: it is the client's, and a statement of its is being analysed."""
        return self._reading_up and end is self.client

    def _fall_behind(self, end: _End, side: Side) -> None:
        """Something of ``end`` waits: read no more of it until that was looked at."""
        if self._stands(end):
            self._read_or_not(side)
        elif not end.queued:
            end.queued = True
            self._share.wait(lambda: self._catch_up(end, side))
            self._read_or_not(side)

    def _catch_up(self, end: _End, side: Side) -> None:
        """It is this workload's turn again: go on with what waits."""
        end.queued = False
        while end.behind and not self._over and not end.queued and not self._stands(end):
            if self._share.used_up:
                self._fall_behind(end, side)
                return
            data, plain = end.behind.popleft()
            began = self._clock()
            rest, end.behind = end.behind, deque()  # what is left of this one comes first again
            try:
                if plain or end.tls is None:
                    self._step_by_step(end, side, data)
                else:
                    self._received_tls(end, side, data)
            except Exception as error:  # noqa: BLE001 - one session fails, only that session closes
                self._crashed(error)
            end.behind += rest
            self._share.spent += self._clock() - began
        if not end.behind and not self._over and not self._stands(end):
            self._read_or_not(side)
            if end.eof:
                self.ended(side)

    def ended(self, side: Side) -> None:
        """``side`` sent EOF or was reset."""
        if self._over or side in self._gone:
            return
        end = self.client if side is _CLIENT else self.server
        if end.behind or self._stands(end):  # what it sent before comes first
            end.eof = True
            return
        self._gone.add(side)
        self._guard(lambda: self._obey(self.gate.closed(side, self._clock())))

    def connect_failed(self, reason: str) -> None:
        """The upstream connection could not be made."""
        self._guard(lambda: self._obey(self.gate.connect_failed(reason, self._clock())))

    def cancel_delivered(self) -> None:
        """The target has taken the cancel request (or cannot be reached): only now may the client's connection end.

        libpq takes that end as the word that the cancel was acted on; earlier, it could hit the client's next statement.
        """
        self._cancelling = False
        if self._close_reason:
            self._guard(lambda: self._finish(self._close_reason))

    def resume(self, answer: Answer) -> None:
        """A held operation was answered."""
        self._guard(lambda: self._obey(self.gate.resume(answer, self._clock())))

    def analysed(self, analysis: Analysis) -> None:
        """What the text that was handed out means: the client's side goes on."""
        self._reading_up = False
        began = self._clock()
        self._guard(lambda: self._obey(self.gate.analysed(analysis, began)))
        self._share.spent += self._clock() - began
        if not self._reading_up and not self._over:
            if self.client.behind:
                self._fall_behind(self.client, Side.CLIENT)
            else:
                self._read_or_not(Side.CLIENT)
                if self.client.eof:
                    self.ended(Side.CLIENT)

    def cut(self, reason: str) -> None:
        """End the session now: identity lost, workload killed, service stopping."""
        self._guard(lambda: self._obey(self.gate.cut(reason, self._clock())))
        self._finish(reason)

    def wake(self) -> None:
        """Let the gate look around soon: another connection has something for this session (a cancel request)."""
        asyncio.get_running_loop().call_soon(self._tick)

    def throttle(self, side: Side, *, paused: bool) -> None:
        """``side`` cannot take more for now (or can again): stop (or go on) reading the other side."""
        (self._full.add if paused else self._full.discard)(side)
        self._read_or_not(side.other)

    def _read_or_not(self, side: Side) -> None:
        """Read ``side`` unless the gate has enough of it, something of it still waits, or the other side cannot take more."""
        end = self.client if side is _CLIENT else self.server
        transport = end.transport
        if transport is None or transport.is_closing():
            return
        late = bool(end.behind) or end.queued or self._stands(end)
        paused = late or side in self._unread or side.other in self._full
        if paused and transport.is_reading():
            transport.pause_reading()
        elif not paused and not transport.is_reading():
            transport.resume_reading()

    @property
    def over(self) -> bool:
        """Whether the session has ended; nothing is read or written any more."""
        return self._over

    @property
    def at_rest(self) -> bool:
        """Whether it may end without undoing anything, and nothing waits to be written to the journal."""
        return not self._waiting and self.gate.at_rest

    @property
    def bytes_up(self) -> int:
        """Bytes received from the workload."""
        return self.client.received

    @property
    def bytes_down(self) -> int:
        """Bytes received from the target."""
        return self.server.received

    # -- carrying out commands -------------------------------------------------------------------------------------------

    def _obey(self, commands: Sequence[Command]) -> None:
        events: list[Event] = []
        plain = True
        for command in commands:
            if isinstance(command, Record):
                events.append(command.event)
            elif not isinstance(command, Forward):
                plain = False
        if plain and (self._waiting or (events and not self._turn.put_off(self, events))):
            self._waiting += 1
            self._turn.add(self, events, commands)
            return
        if plain:
            self._do(commands)
            return
        if events or self._waiting:
            self._turn.append(events)
            if self._over:  # what waited could not be recorded
                return
        self._do(commands)

    def carry_out(self, commands: Sequence[Command]) -> None:
        """Do what stands in ``commands``; their records are in the journal."""
        self._waiting -= 1
        if self._over:
            return
        try:
            self._do(commands)
        except Exception as error:  # noqa: BLE001 - one session fails, only that session closes
            self._crashed(error)

    def unrecorded(self, error: JournalError) -> None:
        """What was to be forwarded in this turn could not be recorded: nothing passes any more."""
        self._waiting = 0
        if not self._over:
            self._crashed(error)

    def _do(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Forward):
                end = self.client if command.side is _CLIENT else self.server
                if end.transport is not None:
                    end.transport.write(command.data if end.tls is None else end.tls.send(command.data))
            elif not isinstance(command, Record):
                self._carry_out(command)
        deadline = self.gate.deadline
        if deadline != self._deadline:
            self._arm(deadline)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Close() if self._cancelling:
                self._close_reason = command.reason
            case Close():
                self._finish(command.reason)
            case Hold():
                self._outside.hold(self, command)
            case Withdraw():
                self._outside.withdraw(command)
            case Detach():
                self._outside.detach(command)
            case Connect():
                self.database = command.database
                self._outside.connect(self, self.server.protocol)
            case StartTLS():
                self._start_tls(command)
            case Pause() | Resume() | Again():
                self._regulate(command)
            case Analyse():
                self._reading_up = True
                self._outside.analyse(self, command.text)
            case CancelUpstream():
                self._cancelling = True
                self._outside.cancel_upstream(self, command.data)
            case RefreshCatalogue():
                self._outside.refresh_catalogue(self)
            case _:
                raise TypeError(f"unknown command {command!r}")

    def _regulate(self, command: Pause | Resume | Again) -> None:
        """Read a side or not; or have the gate look at more of what it sent, as soon as it is this workload's turn."""
        side = command.side
        if not isinstance(command, Again):
            (self._unread.add if isinstance(command, Pause) else self._unread.discard)(side)
            self._read_or_not(side)
            return
        end = self.client if side is _CLIENT else self.server
        end.again = True
        if not end.stepping:
            end.behind.appendleft((b"", True))
            self._fall_behind(end, side)

    def _start_tls(self, command: StartTLS) -> None:
        end = self.client if command.side is Side.CLIENT else self.server
        if command.side is Side.CLIENT:
            end.tls = TLSPipe(self._outside.client_tls(self, command.alpn), server_side=True)
            if command.initial:
                self._received_tls(end, Side.CLIENT, command.initial)
            return
        try:
            context, name = self._outside.server_tls(self, command.name, command.alpn)
        except DocumentError as error:
            self._obey(self.gate.connect_failed(str(error), self._clock()))
            return
        end.tls = TLSPipe(context, server_side=False, server_hostname=name)
        end.demanded = command.alpn if command.demand else ""
        self._write_raw(end, end.tls.handshake())

    def _received_tls(self, end: _End, side: Side, data: bytes) -> None:
        pipe = end.tls
        assert pipe is not None
        pipe.push(data)
        if not pipe.is_up():
            try:
                self._write_raw(end, pipe.handshake())
            except ssl.SSLError as error:
                self._tls_failed(side, error)
                return
            if not pipe.is_up():
                return
            if end.demanded and pipe.alpn != end.demanded:
                self._obey(self.gate.connect_failed(f"it does not agree to speak {end.demanded} (ALPN)", self._clock()))
                return
            binding = (
                self._outside.client_binding(self)
                if side is Side.CLIENT
                else self._outside.server_binding(pipe.peer_certificate)
            )
            self._obey(self.gate.secured(side, self._clock(), version=pipe.version, channel_binding=binding))
        try:
            plain = pipe.receive()
        except ssl.SSLError as error:
            self._tls_failed(side, error)
            return
        if plain:
            self._step_by_step(end, side, plain)
        if pipe.ended:
            self.ended(side)

    def _tls_failed(self, side: Side, error: ssl.SSLError) -> None:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        if side is Side.SERVER:
            self.server.tls = None
            if self.server.transport is not None:
                self.server.transport.abort()
            self._obey(self.gate.connect_failed(f"TLS with the target failed: {reason}", self._clock()))
        else:
            self._obey(self.gate.closed(side, self._clock()))
            self._finish(f"TLS with the client failed: {reason}")

    @staticmethod
    def _write_raw(end: _End, data: bytes) -> None:
        if data and end.transport is not None:
            end.transport.write(data)

    # -- time and the end ------------------------------------------------------------------------------------------------

    def _arm(self, deadline: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadline = deadline
        if deadline is not None and not self._over:
            delay = max(0.0, deadline - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._deadline = None
        self._guard(lambda: self._obey(self.gate.tick(self._clock())))

    def _guard(self, step: Callable[[], None]) -> None:
        if self._over:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - one session fails, only that session closes
            self._crashed(error)

    def _crashed(self, error: Exception) -> None:
        """One session fails: only that session closes, and at once, because nothing about it can be trusted now."""
        if self._waiting:
            self._turn.settle()
        if isinstance(error, JournalError):
            log.critical("evidence cannot be written; session cut", extra={"flow": self.flow.flow_id})
            reason = f"evidence cannot be written: {error}"
        else:
            log.error("session failed", extra={"flow": self.flow.flow_id}, exc_info=error)
            reason = f"internal error: {type(error).__name__}"
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.abort()
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        if self._waiting:
            self._turn.settle()
        if self._over:
            return
        self._over = True
        for end in (self.client, self.server):
            end.behind.clear()
        self._arm(None)
        for end in (self.client, self.server):
            self._close(end)
        elapsed = int((self._clock() - self._opened_at) * 1e6)
        fields = {
            "reason": reason,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "statements": self.gate.statements,
            "elapsed_us": elapsed,
        }
        event = Event(EventKind.CLOSE, self._wall_ns(), self.flow.flow_id, self.flow.workload, fields)
        try:
            self._turn.append([event])
        except JournalError:
            log.critical("evidence cannot be written; a session's end is not recorded")
        self._outside.closed(self)

    @staticmethod
    def _close(end: _End) -> None:
        transport = end.transport
        if transport is None or transport.is_closing():
            return
        if end.tls is not None and end.tls.is_up():
            try:
                transport.write(end.tls.close())
            except ssl.SSLError:
                log.debug("no close_notify", exc_info=True)
        if not transport.is_reading():
            transport.resume_reading()  # a paused transport would never see the peer's answer to our FIN
        transport.close()
