"""An open WebSocket (RFC 6455 §5): messages judged, masked and written anew, one connection of frames on each side.

A message of the client is an operation of its own: kept until it is whole, judged with its content, recorded, and only then sent on; one
that is denied ends the WebSocket with 1008. A message of the target is masked as a whole if a rule masks, otherwise it passes as it
comes. PING and PONG are answered here and go no further, nor do the client's words in CLOSE.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from hostagent.inspectors.http.content import UNREADABLE, rebuilt
from hostagent.inspectors.http.events import masked_text
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.judged import Subject
from hostagent.inspectors.ports import Outcome
from hostagent.model.command import Command
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.operation import Content, ContentKind, Operation
from hostagent.model.verdict import Decision, MaskColumn
from hostagent.wire.jsontext import parse

MAX_MESSAGE: Final = 1_048_576
"""Longest message of a client, and longest that can be masked."""

_NORMAL, _BROKEN, _DENIED = 1000, 1002, 1008
_UNSPOKEN: Final = frozenset({1004, 1005, 1006, 1015})
"""Codes that no frame may hold (RFC 6455 §7.4.1)."""


class Tunnel:
    """One open WebSocket. ``up`` and ``down`` are bytes to be sent; ``over`` says why it ended, empty while it has not."""

    def __init__(self, exchange: Exchange, out: list[Command]) -> None:
        """``exchange`` is the opening; records are appended to ``out``."""
        self._exchange = exchange
        self._out = out
        self._client = Connection(ConnectionType.SERVER)
        self._server = Connection(ConnectionType.CLIENT)
        self._parts: dict[Side, list[bytes]] = {Side.CLIENT: [], Side.SERVER: []}
        self._size = {Side.CLIENT: 0, Side.SERVER: 0}
        self.up: list[bytes] = []
        self.down: list[bytes] = []
        self.over = ""

    @property
    def size(self) -> int:
        """How many bytes of unfinished messages are kept."""
        return sum(self._size.values()) + 64 * sum(map(len, self._parts.values()))

    def tell(self, outcome: str, now: float) -> None:
        """Record what passed beside the messages that are operations, once; it ended with ``outcome``."""

    def feed(self, side: Side, data: bytes, now: float) -> None:
        """Bytes arrived from ``side``.

        Raises:
            RemoteWireError: they are no frames, or a message cannot be judged, masked or kept.
        """
        end = self._client if side is Side.CLIENT else self._server
        if not self.over:
            end.receive_data(data)
        events = end.events()
        while not self.over and (event := next(events, None)) is not None:
            self._look(side, end, event, now)

    def _look(self, side: Side, end: Connection, event: Event, now: float) -> None:
        if isinstance(event, CloseConnection):
            self._closed(side, end, event)
        elif isinstance(event, Ping):
            self._send(side, event.response())
        elif isinstance(event, TextMessage | BytesMessage):
            (self._said if side is Side.CLIENT else self._heard)(event, now)

    def refuse(self, reason: str, code: int = _DENIED) -> None:
        """End it on both sides; the client is told why."""
        self.over = self.over or reason
        short = f"hostagent: {reason}".encode()[:120].decode("utf-8", "ignore")
        self._send(Side.CLIENT, CloseConnection(code, short))
        self._send(Side.SERVER, CloseConnection(_NORMAL))

    def _send(self, side: Side, event: Event) -> None:
        end, parts = (self._client, self.down) if side is Side.CLIENT else (self._server, self.up)
        try:
            parts.append(end.send(event))
        except LocalProtocolError:
            return  # it was closed before

    def _closed(self, side: Side, end: Connection, event: CloseConnection) -> None:
        if end.state is ConnectionState.OPEN:
            raise RemoteWireError(f"broken WebSocket: {event.reason}", str(int(event.code)))
        code = int(event.code)
        self._send(side, event.response())
        self._send(side.other, CloseConnection(code if 1000 <= code < 5000 and code not in _UNSPOKEN else _NORMAL))
        self.over = f"{side} closed the WebSocket"

    def _whole(self, side: Side, event: TextMessage | BytesMessage) -> bytes | None:
        """Return the whole message that ``event`` ends, None if it does not."""
        data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        self._size[side] += len(data)
        if data:  # or fragments of nothing would be kept without end
            self._parts[side].append(data)
        if self._size[side] > MAX_MESSAGE:
            raise RemoteWireError(f"a message of more than {MAX_MESSAGE} bytes cannot be looked at", "1009")
        if not event.message_finished:
            return None
        whole = b"".join(self._parts[side])
        self._parts[side].clear()
        self._size[side] = 0
        return whole

    # -- the client's messages -------------------------------------------------------------------------------------------

    def _said(self, event: TextMessage | BytesMessage, now: float) -> None:
        message = self._whole(Side.CLIENT, event)
        if message is None:
            return
        text = isinstance(event, TextMessage)
        asked = _operation(self._exchange.request.subject.operations[0], message, text=text)
        desk = self._exchange.desk
        ruling = desk.rule(Subject(b"", (), (asked,)))
        verdict = ruling.verdict
        reason = ""
        if verdict.decision is Decision.HOLD:
            reason = f"rule {verdict.rules[0]} holds it, and a message of a WebSocket cannot wait"
        elif any(isinstance(each, MaskColumn) for each in verdict.obligations):
            reason = "a rule masks columns of tables, which no message shows as such"
        denied = verdict.decision is Decision.DENY or reason != ""
        exact = [self._exchange.request.exact, message]
        [trace] = desk.open(ruling, exact, None, now, self._out, decision="deny" if denied else "", reason=reason)
        if denied:
            reason = reason or verdict.reason
            desk.shut(trace, Outcome("denied", str(_DENIED), "", desk.scrub(reason)), now, self._out)
            self.refuse(f"denied by {'rule ' + verdict.rules[0] if verdict.rules else 'default'}: {reason}")
            return
        assert asked.content is not None
        message = rebuilt(asked.content) or message
        self._exchange.masking = ruling.masking or self._exchange.masking
        self.up.append(self._server.send(TextMessage(message.decode()) if text else BytesMessage(message)))
        trace.size = len(message)
        desk.shut(trace, Outcome("ok", "sent"), now, self._out)

    # -- the target's messages -------------------------------------------------------------------------------------------

    def _heard(self, event: TextMessage | BytesMessage, now: float) -> None:
        exchange = self._exchange
        text = isinstance(event, TextMessage)
        if exchange.masking is None:
            data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
            self._forward(exchange.echo.body(data, last=event.message_finished), text=text, last=event.message_finished)
            return
        if not text:
            raise RemoteWireError("a binary message cannot be masked", "1003")
        message = self._whole(Side.SERVER, event)
        if message is not None:
            found = masked_text(exchange.masking, message)
            if found is None:
                raise RemoteWireError("a message that is not JSON in one reading cannot be masked", "1003")
            if exchange.trace is not None:
                exchange.trace.count(found[1])
            self._forward(exchange.echo.body(found[0], last=True), text=True, last=True)

    def _forward(self, content: bytes, *, text: bool, last: bool) -> None:
        if self._exchange.trace is not None:
            self._exchange.trace.size += len(content)
        if text:
            self.down.append(self._client.send(TextMessage(content.decode(), message_finished=last)))
        else:
            self.down.append(self._client.send(BytesMessage(content, message_finished=last)))


def _operation(opening: Operation, message: bytes, *, text: bool) -> Operation:
    """Return what a client's message is to policy: the WebSocket it goes over, with this content."""
    kind = "text" if text else "binary"
    content = UNREADABLE
    if text:
        try:
            content = Content(ContentKind.JSON, parse(message))
        except ValueError:
            content = UNREADABLE
    said = f"{opening.redacted} [{kind} message, {len(message)} bytes]"
    return replace(
        opening,
        content=content,
        text=f"{opening.text} {message!r}",
        redacted=said,
        fingerprint=f"{opening.fingerprint} [{kind} message]",
        attributes={**opening.attributes, "message": kind},
    )
