"""HTTP/1.1 on one connection, sans I/O: the requests, what waits, and the end.

Theory of operation. The client's bytes are read head by head; of each request one ``Exchange`` is made, judged, and either sent to
the target in a form of our own or answered here. The next request is not looked at before the last one has its whole response,
so pipelined requests are answered in order and the target is never asked two things at once. What the client sends meanwhile
stays in a buffer; when that holds much, the rim is told to stop reading the client. The target is dialled for the first
request that may go there. Whatever is malformed, on either side, ends the connection after a problem document if one can
still be told apart from what was already sent.
"""

from __future__ import annotations

import base64
from typing import Final, cast

from hostagent.inspectors.http import download, problem, websocket
from hostagent.inspectors.http.dialect import PLAIN, Dialect
from hostagent.inspectors.http.echo import Echo
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.http.judge import Judge
from hostagent.inspectors.http.opening import ALPN
from hostagent.inspectors.http.problem import Problem
from hostagent.inspectors.http.question import Question
from hostagent.inspectors.http.reading import Reader
from hostagent.inspectors.http.server import Responses
from hostagent.inspectors.http.tunnel import Tunnel
from hostagent.inspectors.ports import Denial, Desk, Outcome, Surroundings
from hostagent.model.command import Close, Command, Connect, Forward, Pause, Resume, StartTLS
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.target import UpstreamTLS
from hostagent.wire.http1.body import Body, ChunkedBody, SizedBody, build_chunk, build_last_chunk, request_body
from hostagent.wire.http1.head import build_request, build_response, take_head

_INTERNAL: Final = 1011
"""What an end of a WebSocket says that has no better word (RFC 6455 §7.4.1)."""
_PAUSE_ABOVE: Final = 65_536
"""Unread bytes of a client above which it is not read any more."""


class Http1:
    """Implements ``hostagent.inspectors.http.inspector.Connection``."""

    def __init__(self, desk: Desk, surroundings: Surroundings, name: str, dialect: Dialect = PLAIN) -> None:
        """Begin before the first request. ``name`` is the one that TLS was opened for, empty without TLS."""
        self._desk = desk
        self._dialect = dialect
        self._target = surroundings.target
        self._tls = surroundings.target.tls is UpstreamTLS.VERIFY
        self._scheme = "https" if self._tls else "http"
        self._name = name
        self._reader = Reader(self._target, self._scheme, name, dialect)
        self._buffer = bytearray()
        self._responses = Responses()
        self._exchange: Exchange | None = None
        self._dialled = False
        self._ready = False
        self._paused = False
        self._up: list[bytes] = []
        self._down: list[bytes] = []
        self._out: list[Command] = []
        self._judge = Judge(surroundings, self._out, dialect)
        self._random = surroundings.random
        self._key = ""
        self._tunnel: Tunnel | None = None
        self._question: Question | None = None
        self.signed_in = False
        self.failed = False

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way or held."""
        return self._exchange is None and not self._buffer

    # -- what arrives ----------------------------------------------------------------------------------------------------

    def feed(self, side: Side, data: bytes, now: float) -> list[Command]:
        """Bytes arrived from ``side``."""
        if self.failed:
            return []
        try:
            if side is Side.SERVER and self._tunnel is None:
                self._answer(data, now)
                data = b""
                side = Side.CLIENT  # whose next request may have been waiting for this response
            if self._tunnel is not None:
                self._through(self._tunnel, side, data, now)
            else:
                self._buffer += data
                self._requests(now)
        except RemoteWireError as error:
            self._broken(side, error, now)
        return self._taken()

    def _taken(self) -> list[Command]:
        self._flush()
        taken = self._out[:]
        self._out.clear()
        return taken

    def _flush(self) -> None:
        for side, parts in ((Side.SERVER, self._up), (Side.CLIENT, self._down)):
            if parts and (side is Side.CLIENT or self._ready):
                self._out.append(Forward(side, b"".join(parts)))
                parts.clear()

    def connected(self, now: float) -> list[Command]:
        """The upstream connection is up."""
        if self.failed:
            return []
        if self._tls:
            self._out.append(StartTLS(Side.SERVER, ALPN, name=self._name))
            return self._taken()
        return self._usable(now)

    def _usable(self, now: float) -> list[Command]:
        self._ready = True
        return self.feed(Side.CLIENT, b"", now)

    def secured(self, now: float) -> list[Command]:
        """TLS is up towards the target."""
        return [] if self.failed else self._usable(now)

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""
        if self.failed:
            return []
        self._up.clear()
        self._end(reason, now, problem.refused(502, f"the target cannot be reached: {reason}", "Try again later."), "error")
        return self._taken()

    # -- the client ------------------------------------------------------------------------------------------------------

    def _requests(self, now: float) -> None:
        """Read requests as far as they may be read now."""
        while not self.failed:
            exchange = self._exchange
            if exchange is None:
                raw = take_head(self._buffer) if self._buffer else None
                if raw is None:
                    break
                self._begin(raw, now)
            elif exchange.over:
                self._exchange = None
                if exchange.closing:
                    self._leave("the exchange was the last one", now)
            elif exchange.answered and exchange.closing and not exchange.dropped:
                self._leave("the exchange was the last one", now)
            elif not self._body(exchange, now):
                break
        self._regulate()

    def _regulate(self) -> None:
        much = len(self._buffer) > _PAUSE_ABOVE
        if much is not self._paused and not self.failed:
            self._paused = much
            self._out.append(Pause(Side.CLIENT) if much else Resume(Side.CLIENT))

    def _begin(self, raw: bytes, now: float) -> None:
        self.signed_in = True
        request = self._reader.read(raw)
        exchange = Exchange(request, request_body(request.head), Echo(self._judge.secrets), self, self._desk)
        self._exchange = exchange
        self._judge.begin(exchange, now)

    def _body(self, exchange: Exchange, now: float) -> bool:
        """Take in what there is of a request's body; False: nothing more can be done now."""
        body = cast("Body", exchange.body)
        if body.done or (exchange.sent and not self._ready):
            return False
        content = body.read(self._buffer)
        if content or body.done:
            self._judge.content(exchange, content, now)
        return exchange.body.done

    # -- what a judgement asks for (``exchange.Line``) -------------------------------------------------------------------

    def reply(self, exchange: Exchange, refused: Problem) -> None:
        """Answer here, instead of the target."""
        written = self._dialect.written(refused, exchange.request)
        self._down.append(problem.build(refused, exchange.head.method, close=exchange.closing, written=written))

    def invite(self, exchange: Exchange) -> None:
        """Tell a client that waits for it to send the body."""
        self._down.append(build_response(100, "Continue", []))

    def forget(self, exchange: Exchange) -> None:
        """The body of a request that goes nowhere is read and forgotten, if it comes at all."""
        if exchange.waits_to_send:
            exchange.closing = True  # whether the body still comes, only the client knows (RFC 9110 §10.1.1)
            exchange.body = SizedBody(0)

    def forward(self, exchange: Exchange, fields: Listed, kept: bytes | None) -> None:
        """Have the request go to the target."""
        location = exchange.request.location
        lines = [("Host", location.authority.written(self._scheme)), *fields]
        whole = kept if exchange.body.done else None
        if kept is not None:
            lines = [each for each in lines if each[0].lower() != "expect"]
        if whole is not None:
            lines.append(("Content-Length", str(len(whole))))
        elif isinstance(exchange.body, ChunkedBody):
            lines.append(("Transfer-Encoding", "chunked"))
        elif isinstance(exchange.body, SizedBody) and exchange.head.values("content-length"):
            lines.append(("Content-Length", str(exchange.body.size)))
        if exchange.request.websocket:
            self._key = base64.b64encode(self._random(16)).decode()
            lines = websocket.opening(lines, self._key)
        elif exchange.closing:
            lines.append(("Connection", "close"))
        self._up.append(build_request(exchange.head.method, location.target, self._judge.presented(exchange, lines, kept)))
        if whole is not None:
            self._up.append(whole)
        elif kept:
            self.content(exchange, kept)
        self._dial()

    def content(self, exchange: Exchange, content: bytes) -> None:
        """Have a piece of the body go to the target."""
        body = exchange.body
        self._up.append(_chunked(content, body) if isinstance(body, ChunkedBody) else content)

    # -- the target ------------------------------------------------------------------------------------------------------

    def ask(self, exchange: Exchange, target: str, fields: Listed, content: bytes) -> bool:
        """Ask the target for ``target``; ``_answer`` has the judgement told."""
        host = [("Host", exchange.request.location.authority.written(self._scheme))]
        self._up += [build_request(exchange.head.method, target, [*host, *fields, ("Content-Length", str(len(content)))]), content]
        self._question = Question(exchange.head.method)
        self._dial()
        return True

    def _dial(self) -> None:
        if not self._dialled:
            self._dialled = True
            self._out.append(Connect())

    def _answer(self, data: bytes, now: float) -> None:
        exchange = self._exchange
        if self._question is not None and exchange is not None:
            question = self._question
            question.feed(data)
            if question.done:
                self._question = None
                self._judge.found(exchange, question.status, question.content, now)
            return
        if exchange is not None:
            exchange.now = now
        self._down.append(self._responses.read(exchange, data))
        if exchange is not None and exchange.switched:
            self._switch(exchange, now)
        elif exchange is not None and exchange.answered:
            self._judge.completed(exchange, now)

    # -- a WebSocket -----------------------------------------------------------------------------------------------------

    def _switch(self, exchange: Exchange, now: float) -> None:
        """The target has opened the WebSocket: open the client's, and go on with messages."""
        head, exchange.response = exchange.response, None
        assert head is not None
        fields = websocket.opened(exchange.head, head, self._key)
        self._down.append(build_response(101, "Switching Protocols", fields))
        exchange.answered = True
        self._tunnel = self._dialect.tunnel(exchange, self._out)
        self._through(self._tunnel, Side.SERVER, self._responses.rest(), now)
        rest = bytes(self._buffer)
        self._buffer.clear()
        if not self.failed:
            self._through(self._tunnel, Side.CLIENT, rest, now)

    def _through(self, tunnel: Tunnel, side: Side, data: bytes, now: float) -> None:
        """Bytes of an open WebSocket."""
        exchange, outcome = self._exchange, "ok"
        try:
            tunnel.feed(side, data, now)
        except RemoteWireError as error:
            self._desk.refusal(self._desk.scrub(f"{side}: {error}"), now, self._out)
            tunnel.refuse(str(error), int(error.code) if len(error.code) == len("1002") else _INTERNAL)
            outcome = "error"
        self._up += tunnel.up
        self._down += tunnel.down
        tunnel.up.clear()
        tunnel.down.clear()
        if tunnel.over and exchange is not None:
            self._exchange = None
            tunnel.tell(outcome, now)
            exchange.echo.count(exchange.trace)
            self._judge.shut(exchange, Outcome(outcome, "101", "", self._desk.scrub(tunnel.over)), now)
            self._leave(tunnel.over, now)

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held request was answered: send it (None), or refuse it."""
        if self.failed or self._exchange is None:
            return []
        self._judge.release(self._exchange, denial, now)
        return self.feed(Side.CLIENT, b"", now)

    @property
    def items(self) -> int:
        """One request at a time."""
        return 1

    def ahead(self) -> int:
        """Return how many bytes of the target's pass unmasked, whatever they are."""
        return self._responses.ahead(self._exchange)

    def weigh(self) -> int:
        """Return about how many bytes wait to be understood, judged, masked or sent, and what is remembered."""
        exchange = self._exchange
        whole = 0 if exchange is None else exchange.size
        waiting = (0 if self._tunnel is None else self._tunnel.size) + sum(map(len, self._up)) + sum(map(len, self._down)) + self._responses.size
        waiting += 0 if self._question is None else self._question.size
        return 3 * len(self._buffer) + 2 * whole + waiting + self._reader.size

    def notice(self, text: str, now: float) -> list[Command]:
        """A held request was parked long enough."""
        if self.failed or self._exchange is None:
            return []
        self._judge.parked(self._exchange, now)
        return self.feed(Side.CLIENT, b"", now)

    # -- the end ---------------------------------------------------------------------------------------------------------

    def closed(self, side: Side, now: float) -> list[Command]:
        """``side`` sent EOF or was reset."""
        if self.failed:
            return []
        exchange = self._exchange
        if side is Side.CLIENT:
            self._leave("the client closed the connection", now)
        elif self._ended(exchange, now):
            self._leave("the target closed the connection after its response", now)
        elif exchange is not None and not exchange.answered:
            reason = "the target closed the connection before its response was complete"
            self._end(reason, now, problem.refused(502, reason, "Try again."), "error")
        else:
            self._leave("the target closed it", now)
        return self._taken()

    def _ended(self, exchange: Exchange | None, now: float) -> bool:
        """Return whether the end of the target's connection was the end of its response, having passed on the rest."""
        try:
            rest = Responses.ended(exchange)
        except RemoteWireError as error:
            self._broken(Side.SERVER, error, now)
            return False
        if rest is None or exchange is None:
            return False
        self._down.append(rest)
        self._judge.completed(exchange, now)
        return True

    def cut(self, reason: str, now: float) -> list[Command]:
        """End the session with a 503 if a request waits for its response."""
        if self.failed:
            return []
        self._end(reason, now, problem.refused(503, f"the session was ended: {reason}"), "aborted")
        return self._taken()

    def _broken(self, side: Side, error: RemoteWireError, now: float) -> None:
        """A side broke the protocol: nothing it sends can be told apart any more."""
        reason = f"{side}: {error}"
        self._desk.refusal(self._desk.scrub(reason), now, self._out)
        if isinstance(error, download.NotToComeError):
            self._end(reason, now, error.problem, "denied")
        elif side is Side.SERVER:
            self._end(reason, now, problem.refused(502, f"the target's response is refused: {error}"), "error")
        elif self._exchange is None:
            step = "The connection was closed; send requests as RFC 9112 writes them."
            refused = problem.refused(problem.status_of(error), str(error), step)
            self._down.append(problem.build(refused, "GET", close=True, written=self._dialect.written(refused, None)))
            self._leave(reason, now)
        else:
            self._end(reason, now, problem.refused(problem.status_of(error), str(error)), "denied")

    def _end(self, reason: str, now: float, refused: Problem, outcome: str) -> None:
        """End the session; a request that waits for its response is told why."""
        exchange = self._exchange
        begun = exchange is not None and exchange.response is not None and not exchange.masked_whole
        if exchange is not None and not exchange.answered and not begun:
            exchange.closing = True
            self._judge.withdraw(exchange, reason, now)
            self._judge.reply(exchange, refused, outcome, now)
        self._leave(reason, now)

    def _leave(self, reason: str, now: float) -> None:
        if self.failed:
            return
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._tunnel is not None:
            self._tunnel.tell("aborted", now)
        if exchange is not None:
            self._judge.abandon(exchange, reason, now)
        self._flush()
        self.failed = True
        self._out.append(Close(reason))




def _chunked(content: bytes, body: ChunkedBody) -> bytes:
    """Without trailers (RFC 9110 §6.5.1): servers are known to read them as header fields, and nobody judged them."""
    return (build_chunk(content) if content else b"") + (build_last_chunk(()) if body.done else b"")
