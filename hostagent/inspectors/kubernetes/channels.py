"""The streams of exec and attach over a WebSocket: typed channels, counted and hashed as they pass.

Layout of a message (k8s.io/apimachinery, pkg/util/remotecommand)::

    channel (1 byte) octets        0 stdin, 1 stdout, 2 stderr, 3 error (a Status), 4 resize (JSON), 255 close (v5: the channel that ends)

What program runs was judged when the WebSocket was asked for; what it reads and prints is the program's own. Each stream becomes a row of
transfers; a channel that is none, or comes from the wrong side, ends the WebSocket.
"""

from __future__ import annotations

from typing import Final

from wsproto.events import BytesMessage, TextMessage

from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.tunnel import Tunnel
from hostagent.inspectors.transfers import Meter
from hostagent.model.command import Command
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.transfer import Direction, Transfer

PROTOCOLS: Final = frozenset({"v4.channel.k8s.io", "v5.channel.k8s.io"})
STREAM: Final = "application/vnd.kubernetes.stream"
"""The media type of a stream in the rows of transfers: one that nobody declared."""

_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_NAMES: Final = {_STDIN: "stdin", _STDOUT: "stdout", _STDERR: "stderr", _ERROR: "error", _RESIZE: "resize"}
_FROM: Final = {Side.CLIENT: frozenset({_STDIN, _RESIZE, _CLOSE}), Side.SERVER: frozenset({_STDOUT, _STDERR, _ERROR, _CLOSE})}
_CONTROL_MOST: Final = 65_536
"""Most bytes of one message on a channel that carries no data of the program's."""


class Channels(Tunnel):
    """One open exec or attach."""

    def __init__(self, exchange: Exchange, out: list[Command]) -> None:
        """``exchange`` is the opening; records are appended to ``out``."""
        super().__init__(exchange, out)
        self._meters: dict[int, Meter] = {}

    def tell(self, outcome: str, now: float) -> None:
        """Record each stream on which anything passed."""
        how = {"ok": "finished"}.get(outcome, "aborted")
        for meter in self._meters.values():
            if meter.size:
                self._exchange.desk.moved(meter, how, now, self._out)
        self._meters.clear()

    def _said(self, event: TextMessage | BytesMessage, now: float) -> None:
        self._pass(Side.CLIENT, event)

    def _heard(self, event: TextMessage | BytesMessage, now: float) -> None:
        self._pass(Side.SERVER, event)

    def _pass(self, side: Side, event: TextMessage | BytesMessage) -> None:
        """Count a message once it is whole, and send it on in one frame: the API server takes each frame for a message of its own."""
        data = self._whole(side, event)
        if data is None:
            return
        if data:
            self._count(side, data[0], data[1:])
        end, parts = (self._server, self.up) if side is Side.CLIENT else (self._client, self.down)
        if side is Side.SERVER:
            data = self._exchange.echo.body(data, last=True)
        text = isinstance(event, TextMessage)
        parts.append(end.send(TextMessage(data.decode()) if text else BytesMessage(data)))

    def _count(self, side: Side, channel: int, content: bytes) -> None:
        if channel not in _FROM[side]:
            raise RemoteWireError(f"channel {channel} of an exec or attach is none that the {side} may write to", "1008")
        if channel == _CLOSE:
            return
        if channel in (_ERROR, _RESIZE) and len(content) > _CONTROL_MOST:
            raise RemoteWireError(f"a message of more than {_CONTROL_MOST} bytes on channel {channel}", "1009")
        meter = self._meters.get(channel)
        if meter is None:
            meter = self._meters[channel] = self._meter(side, channel)
        meter.take(content)
        if self._exchange.trace is not None:
            self._exchange.trace.size += len(content)

    def _meter(self, side: Side, channel: int) -> Meter:
        ruling = self._exchange.ruling
        assert ruling is not None
        direction = Direction.UPLOAD if side is Side.CLIENT else Direction.DOWNLOAD
        name = f"{self._exchange.request.location.path}:{_NAMES[channel]}"
        meter = Meter(Transfer(direction, (name,), (STREAM,), None), rules=ruling.verdict.rules, policy=ruling.verdict.policy)
        meter.statement = "" if self._exchange.trace is None else self._exchange.trace.statement
        return meter
