"""HTTP/2 on one connection, sans I/O, spoken to the client and to the target alike.

Theory of operation. Two ends of the protocol, one towards each side, have nothing in common but streams: of each request that the
client begins, one ``Stream`` is made, judged like a request of HTTP/1.1, and given a stream of its own towards the target, with a head
written anew. Nothing is ever translated to HTTP/1.1. Bodies go through a bounded buffer: a peer may send no more than what has
gone on. What breaks one request ends its stream; what breaks a connection, or floods it, ends both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from hostagent.inspectors.http import download, problem, rewriting
from hostagent.inspectors.http.echo import Echo
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.judge import Judge
from hostagent.inspectors.http.opening import ALPN_2
from hostagent.inspectors.http.reading import Reader
from hostagent.inspectors.http.stream import Body, Stream
from hostagent.inspectors.ports import Denial, Desk, Outcome, Surroundings
from hostagent.model.command import Close, Command, Connect, Forward, StartTLS
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.target import UpstreamTLS
from hostagent.wire.http2.endpoint import Endpoint
from hostagent.wire.http2.heads import request_head, response_block, response_head, trailer
from hostagent.wire.http2.meter import Goaway

_SWITCHING: Final = 101
_FORGOTTEN: Final = 65_536
"""Bytes of a body that may still come after its response."""


class Http2:
    """Implements ``hostagent.inspectors.http.inspector.Connection`` and ``stream.Lines``."""

    def __init__(self, desk: Desk, surroundings: Surroundings, name: str) -> None:
        """Begin before the client's preface. ``name`` is the one that TLS was opened for, empty without TLS."""
        self._desk = desk
        self._target = surroundings.target
        self._tls = surroundings.target.tls is UpstreamTLS.VERIFY
        self.scheme = "https" if self._tls else "http"
        self._name = name
        self._reader = Reader(self._target, self.scheme, name)
        self._out: list[Command] = []
        self.judge = Judge(surroundings, self._out)
        self.client = Endpoint(client_side=False)
        self._server: Endpoint | None = None
        self._dialled = False
        self._streams: dict[int, Stream] = {}
        self._upward: dict[int, Stream] = {}
        self._waiting: list[Stream] = []
        self._highest = 0
        self._draining = False
        self.signed_in = False
        self.failed = False

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way or held."""
        return not self._streams

    @property
    def items(self) -> int:
        """How many requests are under way."""
        return 1 + len(self._streams)

    def ahead(self) -> int:
        """Return 0: frames are short, and each is looked at."""
        return 0

    def weigh(self) -> int:
        """Return about how many bytes are kept."""
        ends = self.client.size + (0 if self._server is None else self._server.size)
        return ends + self._reader.size + sum(stream.size for stream in self._streams.values())

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""
        if self.failed:
            return []
        end = self.client if side is Side.CLIENT else self._server
        try:
            if end is None:
                raise RemoteWireError("the target sent something that nobody asked for", "PROTOCOL_ERROR")
            for event in end.receive(data, now):
                (self._client_says if side is Side.CLIENT else self._target_says)(event, now)
            for told in end.goaways:
                self._no_more(side, told, now)
            end.goaways.clear()
        except RemoteWireError as error:
            self._broken(side, error, now)
        return self._taken()

    def answered(self, act: Callable[[], None], now: float) -> list[Command]:
        """Return the commands that ``act`` causes."""
        if self.failed:
            return []
        act()
        return self._taken()

    def _taken(self) -> list[Command]:
        if not self.failed:
            self._move()
            if self._draining and not self._streams:
                self._leave("no more streams are taken, and the last one is over")
        self._flush()
        taken = self._out[:]
        self._out.clear()
        return taken

    def _flush(self) -> None:
        if self._server is not None and (data := self._server.take()):
            self._out.append(Forward(Side.SERVER, data))
        if data := self.client.take():
            self._out.append(Forward(Side.CLIENT, data))

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""
        if self.failed:
            return []
        if self._tls:
            self._out.append(StartTLS(Side.SERVER, ALPN_2, name=self._name, demand=True))
            return self._taken()
        return self.secured(now)

    def secured(self, now: float) -> list[Command]:
        """The target can be talked to."""
        if self.failed:
            return []
        self._server = Endpoint(client_side=True)
        return self._taken()

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""
        if not self.failed:
            refused = problem.refused(502, f"the target cannot be reached: {reason}", "Try again later.")
            self._end(reason, refused, "error", now)
        return self._taken()

    # -- the client ------------------------------------------------------------------------------------------------------

    def _client_says(self, event: Event, now: float) -> None:
        match event:
            case RequestReceived():
                self._begin(event, now)
            case DataReceived():
                self._data(event, now)
            case StreamEnded():
                stream = self._streams.get(event.stream_id)
                if stream is not None and not stream.body.done:  # behind a trailer, which goes nowhere: see http1
                    stream.body.done = True
                    self._content(stream, b"", now)
            case StreamReset() if event.stream_id in self._streams:
                how = "took the request back" if event.remote_reset else "broke the rules of its stream"
                self._abandon(self._streams[event.stream_id], f"the client {how}", "CANCEL", now)
            case _:
                pass

    def _data(self, event: DataReceived, now: float) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.finished:
            self.client.used(event.stream_id, event.flow_controlled_length)
            if stream is not None:
                self._forget(stream, event)
            return
        stream.body.done = event.stream_ended is not None
        before = len(stream.to_up)
        self._content(stream, bytes(event.data), now)
        # What was kept before, to be judged, was given back when it came.
        waits = max(0, min(len(event.data), len(stream.to_up) - before))
        stream.owed_client += waits
        self.client.used(event.stream_id, event.flow_controlled_length - waits)

    def _forget(self, stream: Stream, event: DataReceived) -> None:
        """A request that has its response goes on: for a while that is nothing to us, as not all clients notice at once."""
        stream.forgotten += len(event.data)
        stream.body.done = event.stream_ended is not None
        if stream.forgotten > _FORGOTTEN:
            self.client.reset(stream.id, "NO_ERROR")  # RFC 9113 §8.1

    def _begin(self, event: RequestReceived, now: float) -> None:
        number, ended = event.stream_id, event.stream_ended is not None
        if self._draining:
            self.client.reset(number, "REFUSED_STREAM")
            return
        self._highest = max(self._highest, number)
        stream = self._streams[number] = Stream(self, number, Body(done=ended))
        try:
            request = self._reader.understood(request_head(event.headers, self.scheme), empty=ended)
        except RemoteWireError as error:
            reason = f"{Side.CLIENT}: {error}"
            self._desk.refusal(self._desk.scrub(reason), now, self._out)
            refused = problem.refused(problem.status_of(error), str(error), "Send requests as RFC 9113 writes them.")
            stream.refuse(*problem.build_parts(refused, "GET"))
            return
        self.signed_in = True
        exchange = Exchange(request, stream.body, Echo(self.judge.secrets), stream, self._desk.branch(stream))
        stream.exchange = exchange
        self._guarded(stream, lambda: self.judge.begin(exchange, now), now)

    def _content(self, stream: Stream, content: bytes, now: float) -> None:
        exchange = stream.exchange
        if exchange is not None:
            self._guarded(stream, lambda: self.judge.content(exchange, content, now), now)

    def _guarded(self, stream: Stream, act: Callable[[], None], now: float) -> None:
        """Do ``act``; what is wrong with one request ends its stream only."""
        try:
            act()
        except RemoteWireError as error:
            self._wrong(stream, Side.CLIENT, error, now)

    # -- the target ------------------------------------------------------------------------------------------------------

    def send(self, stream: Stream) -> None:
        """Have the request that ``stream`` describes go to the target, as soon as it can."""
        self._waiting.append(stream)
        if not self._dialled:
            self._dialled = True
            self._out.append(Connect())

    def _open_waiting(self, server: Endpoint) -> None:
        while self._waiting and server.can_open():
            stream = self._waiting.pop(0)
            if stream.id in self._streams:
                stream.up_ended = stream.body.done and not stream.to_up
                stream.up = server.open(stream.asked, end=stream.up_ended)
                self._upward[stream.up] = stream

    def _target_says(self, event: Event, now: float) -> None:
        server = self._server
        assert server is not None
        stream = self._upward.get(getattr(event, "stream_id", 0) or 0)
        if stream is None:
            if isinstance(event, DataReceived):
                server.used(event.stream_id, event.flow_controlled_length)
            return
        try:
            self._response(stream, event, now)
        except RemoteWireError as error:
            self._wrong(stream, Side.SERVER, error, now)

    def _response(self, stream: Stream, event: Event, now: float) -> None:
        exchange, server = stream.exchange, self._server
        assert exchange is not None
        assert server is not None
        exchange.now = now
        match event:
            case InformationalResponseReceived():
                head = response_head(event.headers)
                if head.status == _SWITCHING:
                    raise RemoteWireError("the target wants to change the protocol", "502")
                if (fields := rewriting.interim(exchange, head)) is not None:
                    self.client.head(stream.id, response_block(head.status, fields), end=False)
            case ResponseReceived():
                self._head(stream, exchange, event)
            case DataReceived():
                before = len(stream.to_down)
                stream.to_down += rewriting.piece(exchange, bytes(event.data), last=False)
                waits = min(len(event.data), len(stream.to_down) - before)
                stream.owed_target += waits
                server.used(event.stream_id, event.flow_controlled_length - waits)
            case TrailersReceived():
                stream.trailer = rewriting.trailer(exchange, trailer(event.headers))
            case StreamEnded():
                self._completed(stream, exchange, now)
            case StreamReset():
                self._cut_short(stream, exchange, now)
            case _:
                pass

    @staticmethod
    def _head(stream: Stream, exchange: Exchange, event: ResponseReceived) -> None:
        head = response_head(event.headers)
        empty = event.stream_ended is not None or exchange.head.method == "HEAD" or head.status in (204, 304)
        fields = rewriting.begin(exchange, head, empty=empty)
        if fields is None:
            return
        lengths = head.values("content-length")
        if lengths and head.status != 204:
            fields.append(("content-length", lengths[0]))
        stream.head(head.status, fields, end=event.stream_ended is not None)

    def _completed(self, stream: Stream, exchange: Exchange, now: float) -> None:
        rest = rewriting.piece(exchange, b"", last=True)
        if exchange.masked_whole and exchange.masking is not None and exchange.response is not None:
            fields, rest = rewriting.whole(exchange, exchange.masking)
            stream.head(exchange.response.status, fields, end=not rest and not stream.trailer)
        stream.to_down += rest
        stream.ending = exchange.answered = True
        self.judge.completed(exchange, now)
        if not stream.body.done:  # whatever still comes of it goes nowhere
            stream.up_ended = True
            self.judge.cut_upload(exchange, "the response came before all of it had", now)

    def _cut_short(self, stream: Stream, exchange: Exchange, now: float) -> None:
        """The target ended the stream before its end."""
        if exchange.answered:
            stream.up_ended = True
            return
        reason = "the target reset the stream before its response was complete"
        self._refuse(stream, exchange, problem.refused(502, reason, "Try again."), "error", now)

    # -- one stream's end ------------------------------------------------------------------------------------------------

    def _wrong(self, stream: Stream, side: Side, error: RemoteWireError, now: float) -> None:
        """Something about one stream is not as it must be."""
        self._desk.refusal(self._desk.scrub(f"{side}: {error}"), now, self._out)
        if stream.exchange is None:
            return
        outcome = "error" if side is Side.SERVER else "denied"
        if isinstance(error, download.NotToComeError):
            refused, outcome = error.problem, "denied"
        elif side is Side.SERVER:
            refused = problem.refused(502, f"the target's response is refused: {error}")
        else:
            refused = problem.refused(problem.status_of(error), str(error))
        self._refuse(stream, stream.exchange, refused, outcome, now)

    def _refuse(self, stream: Stream, exchange: Exchange, refused: problem.Problem, outcome: str, now: float) -> None:
        """End a stream with a refusal, if its response has not begun."""
        if exchange.answered:
            return
        if stream.headed:
            self._abandon(stream, str(refused[1]["reason"]), "INTERNAL_ERROR", now)
            return
        self.judge.withdraw(exchange, str(refused[1]["reason"]), now)
        stream.to_down.clear()
        stream.trailer = None
        exchange.kept = None
        exchange.dropped = True
        self.judge.reply(exchange, refused, outcome, now)
        self._upstream_over(stream)

    def _abandon(self, stream: Stream, reason: str, code: str, now: float) -> None:
        if stream.exchange is not None:
            self.judge.abandon(stream.exchange, reason, now)
        self.client.reset(stream.id, code)
        self._drop(stream)

    def _upstream_over(self, stream: Stream) -> None:
        if stream.up is not None and self._server is not None:
            self._server.used(stream.up, stream.owed_target)
            self._server.reset(stream.up, "CANCEL")
            self._upward.pop(stream.up, None)
        stream.owed_target = 0
        stream.up_ended = True

    def _drop(self, stream: Stream) -> None:
        self._upstream_over(stream)
        self.client.used(stream.id, stream.owed_client)
        if stream.exchange is not None:
            self._desk.prune(stream.exchange.desk)
        if stream in self._waiting:
            self._waiting.remove(stream)
        self._streams.pop(stream.id, None)

    def _move(self) -> None:
        """Move what there is room for, a frame of each stream at a time; forget the streams that are over."""
        if self._server is not None:
            self._open_waiting(self._server)
        busy = list(self._streams.values())
        while busy:
            moved = []
            for stream in busy:
                up = self._server is not None and stream.move_up(self._server)
                down = stream.move_down(self._server)
                if up or down:
                    moved.append(stream)
                elif stream.finished or self.client.over(stream.id):
                    self._over(stream)
            busy = moved
        if self._server is not None and self._waiting:
            self._open_waiting(self._server)

    def _over(self, stream: Stream) -> None:
        """Its response was sent. What may still come of the request goes nowhere."""
        if stream.body.done or self.client.over(stream.id):
            self._drop(stream)
        else:
            self._upstream_over(stream)

    # -- the connection's end --------------------------------------------------------------------------------------------

    def _no_more(self, side: Side, told: Goaway, now: float) -> None:
        """A side takes, or begins, no more streams."""
        if not self._draining:
            self._draining = True
            if side is Side.SERVER:
                self._out.append(Forward(Side.CLIENT, self.client.take() + self.client.goaway(self._highest, "NO_ERROR")))
        if side is Side.SERVER:
            for stream in [*self._waiting, *(each for up, each in self._upward.items() if up > told.last)]:
                if stream.exchange is not None and not stream.headed:
                    self.judge.shut(stream.exchange, Outcome("error", "", "", "the target takes no more requests on this connection"), now)
                    self._abandon(stream, "the target takes no more requests on this connection", "REFUSED_STREAM", now)

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """Nothing is held but by streams."""
        return []

    def notice(self, text: str, now: float) -> list[Command]:
        """Nothing is held but by streams."""
        return []

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""
        if self.failed:
            return []
        if side is Side.CLIENT:
            self._leave("the client closed the connection", now)
        else:
            reason = "the target closed the connection before its response was complete"
            self._end("the target closed the connection", problem.refused(502, reason, "Try again."), "error", now)
        return self._taken()

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session with a 503 for every request that waits for its response."""
        if not self.failed:
            self._end(reason, problem.refused(503, f"the session was ended: {reason}"), "aborted", now)
        return self._taken()

    def _broken(self, side: Side, error: RemoteWireError, now: float) -> None:
        """A side broke the protocol: nothing it sends can be told apart any more."""
        reason = f"{side}: {error}"
        self._desk.refusal(self._desk.scrub(reason), now, self._out)
        code = error.code if error.code.isupper() else "PROTOCOL_ERROR"
        if side is Side.SERVER:
            self._end(reason, problem.refused(502, f"the target's response is refused: {error}"), "error", now)
        else:
            self._leave(reason, now, code)

    def _end(self, reason: str, refused: problem.Problem, outcome: str, now: float) -> None:
        """End the session; requests that wait for their response are told why."""
        for stream in list(self._streams.values()):
            if stream.exchange is not None:
                self._refuse(stream, stream.exchange, refused, outcome, now)
        self._server = None
        self._move()
        self._leave(reason, now)

    def _leave(self, reason: str, now: float = 0.0, code: str = "NO_ERROR") -> None:
        if self.failed:
            return
        for stream in list(self._streams.values()):
            if stream.exchange is not None:
                self.judge.abandon(stream.exchange, reason, now)
                self._desk.prune(stream.exchange.desk)
        self._streams.clear()
        self._flush()
        self._out.append(Forward(Side.CLIENT, self.client.goaway(self._highest, code)))
        self.failed = True
        self._out.append(Close(reason))
