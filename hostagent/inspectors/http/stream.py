"""One stream of HTTP/2: a request, its response, and what waits until there is room for it on either side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.http.grpc import is_grpc, refusal_fields
from hostagent.inspectors.http.problem import Problem, build_parts
from hostagent.inspectors.ports import Denial
from hostagent.model.command import Command
from hostagent.wire.http2.endpoint import Endpoint
from hostagent.wire.http2.heads import Block, block, request_block, response_block

if TYPE_CHECKING:
    from hostagent.inspectors.http.judge import Judge


class Lines(Protocol):
    """What a stream needs of its connection."""

    scheme: str
    client: Endpoint
    judge: Judge

    def send(self, stream: Stream) -> None:
        """Have the request that ``stream`` describes go to the target, as soon as it can."""

    def answered(self, act: Callable[[], None], now: float) -> list[Command]:
        """Return the commands that ``act`` causes."""


class Body:
    """What comes behind a head: ``done`` when all of it has come."""

    def __init__(self, *, done: bool) -> None:
        """Nothing came yet."""
        self.done = done


class Stream:
    """Implements ``exchange.Line`` and ``ports.Holder``.

    ``up`` is its number towards the target, None before it has one; ``asked`` the head to be sent there. ``to_up`` and ``to_down`` wait
    for room; ``owed_client`` and ``owed_target`` are bytes that came and have not gone on, which the peer may not yet send anew.
    ``ending``: nothing comes behind ``to_down`` but ``trailer``; ``finished``: all of that was sent;
    ``forgotten`` counts what came of the request after that.
    """

    __slots__ = (
        *("asked", "body", "ending", "exchange", "finished", "headed", "id", "owed_client", "owed_target", "to_down", "to_up", "trailer", "up"),
        *("_lines", "forgotten", "up_ended"),
    )

    def __init__(self, lines: Lines, number: int, body: Body) -> None:
        """``number`` is the client's."""
        self._lines = lines
        self.id = number
        self.body = body
        self.exchange: Exchange | None = None
        self.up: int | None = None
        self.asked: Block = []
        self.to_up = bytearray()
        self.up_ended = False
        self.owed_client = 0
        self.headed = False
        self.to_down = bytearray()
        self.owed_target = 0
        self.trailer: Listed | None = None
        self.ending = False
        self.finished = False
        self.forgotten = 0

    @property
    def size(self) -> int:
        """About how many bytes are kept for it."""
        exchange = self.exchange
        kept = 0 if exchange is None else exchange.size
        return 2000 + len(self.to_up) + len(self.to_down) + 2 * kept

    # -- what a judgement asks for ---------------------------------------------------------------------------------------

    def reply(self, exchange: Exchange, refused: Problem) -> None:
        """Answer here, instead of the target."""
        if self.headed:
            return
        if is_grpc(exchange.request.own):
            self.refuse(200, refusal_fields(refused), b"")
        else:
            self.refuse(*build_parts(refused, exchange.head.method))

    def refuse(self, status: int, fields: Listed, content: bytes) -> None:
        """Send a whole response of our own."""
        self.head(status, fields, end=not content)
        self.to_down += content
        self.ending = True

    def head(self, status: int, fields: Listed, *, end: bool) -> None:
        """Send the head of the response; it ends the stream if nothing comes behind it."""
        self.headed = True
        self.ending = self.finished = end
        self._lines.client.head(self.id, response_block(status, fields), end=end)

    def invite(self, exchange: Exchange) -> None:
        """Tell a client that waits for it to send the body."""
        self._lines.client.head(self.id, response_block(100, []), end=False)

    def ask(self, exchange: Exchange, target: str, fields: Listed, content: bytes) -> bool:
        """Return False: no API that asks is spoken over HTTP/2 here."""
        return False

    def forget(self, exchange: Exchange) -> None:
        """What still comes of the body is not looked at; the client is told to stop when it has its answer."""

    def forward(self, exchange: Exchange, fields: Listed, kept: bytes | None) -> None:
        """Have the request go to the target."""
        location = exchange.request.location
        lines = fields if kept is None else [each for each in fields if each[0].lower() != "expect"]
        lengths = exchange.head.values("content-length")
        if kept is not None and exchange.body.done:
            lines = [*lines, ("content-length", str(len(kept)))]
        elif lengths:
            lines = [*lines, ("content-length", lengths[0])]
        if exchange.head.values("te"):
            lines = [*lines, ("te", "trailers")]
        lines = self._lines.judge.presented(exchange, lines, kept)
        authority = location.authority.written(self._lines.scheme)
        self.asked = request_block(exchange.head.method, self._lines.scheme, authority, location.target, lines)
        self.to_up += kept or b""
        self._lines.send(self)

    def content(self, exchange: Exchange, content: bytes) -> None:
        """Have a piece of the body go to the target."""
        self.to_up += content

    # -- holds -----------------------------------------------------------------------------------------------------------

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held request was answered: send it (None), or refuse it."""
        exchange = self.exchange
        assert exchange is not None
        return self._lines.answered(lambda: self._lines.judge.release(exchange, denial, now), now)

    def notice(self, text: str, now: float) -> list[Command]:
        """The held request was parked long enough."""
        exchange = self.exchange
        assert exchange is not None
        return self._lines.answered(lambda: self._lines.judge.parked(exchange, now), now)

    def cancel_wanted(self) -> bool:
        """Return False: a client that resets its stream withdraws the request at once."""
        return False

    # -- when there is room ----------------------------------------------------------------------------------------------

    def move_up(self, target: Endpoint) -> bool:
        """Send one frame of the body to the target; return whether that was possible."""
        if self.up is None or self.up_ended or target.over(self.up):
            return False
        last = self.body.done
        if not self.to_up and not last:
            return False
        room = target.room(self.up)
        if self.to_up and not room:
            return False
        content = bytes(self.to_up[:room])
        del self.to_up[:room]
        self.up_ended = last and not self.to_up
        target.data(self.up, content, end=self.up_ended)
        self._give_back(len(content))
        return True

    def _give_back(self, size: int) -> None:
        """The client may send as much as has gone on."""
        size = min(size, self.owed_client) if self.to_up else self.owed_client
        self.owed_client -= size
        self._lines.client.used(self.id, size)

    def move_down(self, target: Endpoint | None) -> bool:
        """Send one frame of the response to the client; return whether that was possible."""
        client = self._lines.client
        if not self.headed or self.finished or client.over(self.id) or not (self.to_down or self.ending):
            return False
        room = client.room(self.id)
        if self.to_down and not room:
            return False
        content = bytes(self.to_down[:room])
        del self.to_down[:room]
        end = self.finished = self.ending and not self.to_down
        if content or not self.trailer:
            client.data(self.id, content, end=end and not self.trailer)
        if end and self.trailer:
            client.head(self.id, block(self.trailer), end=True)
        size = min(len(content), self.owed_target) if self.to_down else self.owed_target
        self.owed_target -= size
        if target is not None and self.up is not None:
            target.used(self.up, size)
        return not end
