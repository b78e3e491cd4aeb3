"""HTTP/1.1 on one flow, sans I/O: the opening, the requests, what waits, and the end.

Theory of operation. The client's bytes are read head by head; of each request one ``Exchange`` is made, judged, and either sent to
the target in a form of our own or answered here. The next request is not looked at before the last one has its whole response,
so pipelined requests are answered in order and the target is never asked two things at once. What the client sends meanwhile
stays in a buffer; when that holds much, the rim is told to stop reading the client. The target is dialled for the first
request that may go there. Whatever is malformed, on either side, ends the connection after a problem document if one can
still be told apart from what was already sent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hostagent.inspectors.http import problem
from hostagent.inspectors.http.echo import Echo, forms
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed, credential, for_looking, for_masking
from hostagent.inspectors.http.opening import ALPN, alert, objection
from hostagent.inspectors.http.reading import Reader
from hostagent.inspectors.http.request import PROTOCOL, recorded, shown
from hostagent.inspectors.http.server import Responses
from hostagent.inspectors.ports import Denial, Desk, Outcome, Ruling, Surroundings
from hostagent.model.command import Close, Command, Connect, Forward, Pause, Resume, StartTLS
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.operation import Effect, Operation
from hostagent.model.target import UpstreamTLS
from hostagent.model.verdict import Decision, MaskContent
from hostagent.sql import Analysis
from hostagent.wire.http1.body import ChunkedBody, SizedBody, build_chunk, build_last_chunk, request_body
from hostagent.wire.http1.head import build_request, build_response, take_head
from hostagent.wire.tls_hello import RECORD_HANDSHAKE, read_client_hello

_PAUSE_ABOVE: Final = 65_536
"""Unread bytes of a client above which it is not read any more."""
_MAX_HELD: Final = 1_048_576
"""Longest body of a request that a person can be asked about: they must be able to see it."""

Problem = tuple[int, dict[str, object]]


class HttpInspector:
    """Implements ``hostagent.inspectors.ports.Inspector``."""

    def __init__(self, desk: Desk, surroundings: Surroundings) -> None:
        """Begin before the first byte."""
        self._desk = desk
        self._target = surroundings.target
        self._secrets = forms(surroundings.target.login, surroundings.secret)
        self._credential = credential(surroundings.target.login, surroundings.secret)
        self._tls = surroundings.target.tls is UpstreamTLS.VERIFY
        self._scheme = "https" if self._tls else "http"
        self._park_s = surroundings.park_s
        self._wall_offset_s = surroundings.wall_offset_ns / 1e9
        self._name = ""
        self._reader = Reader(self._target, self._scheme, "")
        self._buffer = bytearray()
        self._responses = Responses()
        self._exchange: Exchange | None = None
        self._open = not self._tls
        self._dialled = False
        self._ready = False
        self._paused = False
        self._up: list[bytes] = []
        self._down: list[bytes] = []
        self._out: list[Command] = []
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
            if side is Side.SERVER:
                self._answer(data, now)
            else:
                self._buffer += data
            if self._open:
                side = Side.CLIENT  # whose next request may have been waiting for this response
                self._requests(now)
            else:
                self._opening(now)
        except RemoteWireError as error:
            self._broken(side, error, now)
        return self._taken()

    def _taken(self) -> list[Command]:
        self._flush()
        taken, self._out = self._out, []
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

    def secured(self, side: Side, now: float, *, version: str, channel_binding: bytes, sni: str) -> list[Command]:
        """TLS is up on ``side``."""
        if self.failed:
            return []
        if side is Side.SERVER:
            return self._usable(now)
        self._open = True
        return []

    def connect_failed(self, reason: str, now: float) -> list[Command]:
        """The upstream connection could not be made."""
        if self.failed:
            return []
        self._up.clear()
        self._end(reason, now, problem.refused(502, f"the target cannot be reached: {reason}", "Try again later."), "error")
        return self._taken()

    # -- the client ------------------------------------------------------------------------------------------------------

    def _opening(self, now: float) -> None:
        """Look at the ClientHello before TLS begins."""
        if self._buffer[:1] not in (b"", bytes([RECORD_HANDSHAKE])):
            raise RemoteWireError(f"target {self._target.name} is reached over TLS (https) only", "400")
        raw = bytes(self._buffer)
        hello = read_client_hello(raw)
        if hello is None:
            return
        reason, number = objection(hello, self._target)
        if reason:
            self._desk.refusal(reason, now, self._out)
            self._out.append(Forward(Side.CLIENT, alert(number)))
            self._leave(reason, now)
            return
        self._name = hello.server_name
        self._reader = Reader(self._target, self._scheme, self._name)
        self._buffer.clear()
        self._out.append(StartTLS(Side.CLIENT, ALPN, initial=raw))

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
        exchange = self._exchange = Exchange(request, request_body(request.head), Echo(self._secrets))
        self._judge(exchange, now)

    def _judge(self, exchange: Exchange, now: float) -> None:
        request = exchange.request
        ruling = exchange.ruling = self._rule(exchange)
        if wrong := request.elsewhere or request.refusal:
            exchange.closing = True  # whoever asks for that means something else by what follows
            status = 421 if request.elsewhere else 403
            refused = problem.refused(status, wrong, "Ask this target for what it is declared for.")
            self._deny(exchange, ruling, refused, now)
        elif self._credential is None:
            reason = f"the credential of target {self._target.name} cannot be used"
            self._deny(exchange, ruling, problem.refused(502, reason, "Tell whoever keeps the targets."), now)
        elif (denied := self._policy_objection(ruling)) is not None:
            self._deny(exchange, ruling, denied, now)
        elif ruling.verdict.decision is Decision.HOLD:
            self._collect(exchange, ruling, now)
        elif (denied := self._connect_denied()) is not None:
            self._deny(exchange, ruling, denied, now)
        else:
            self._send(exchange, ruling, now)

    def _rule(self, exchange: Exchange) -> Ruling:
        subject = exchange.request.subject
        return self._desk.rule(subject, subject.operations[0].parameters)

    @staticmethod
    def _policy_objection(ruling: Ruling) -> Problem | None:
        verdict = ruling.verdict
        if verdict.decision is Decision.DENY:
            return problem.denied(verdict)
        columns = {each.rule for each in verdict.obligations if not isinstance(each, MaskContent)}
        if columns:
            masks = ", ".join(sorted(columns))
            reason = f"rule {masks} masks columns of tables, which no HTTP response shows as such"
            return problem.refused(403, reason, "Limit that rule to other targets (where: protocol).", rule=masks)
        return None

    def _connect_denied(self) -> Problem | None:
        """A rule that denies or holds ``connect`` counts here as well, though no rule needs to allow it."""
        if self._dialled:
            return None
        verdict = self._desk.judge(Operation(PROTOCOL, "connect", frozenset({Effect.CONNECT})))
        if verdict.decision is Decision.ALLOW or not verdict.rules:
            return None
        return problem.denied(verdict)

    def _record(self, exchange: Exchange, ruling: Ruling, now: float, decision: str = "", reason: str = "") -> None:
        request = exchange.request
        exact = [request.exact, bytes(exchange.held)] if exchange.held else [request.exact]
        traces = self._desk.open(
            ruling, exact, recorded(request.location.query), now, self._out,
            decision=decision, ticket=exchange.ticket, reason=reason,
        )  # fmt: skip
        exchange.trace = traces[0]

    def _deny(self, exchange: Exchange, ruling: Ruling, refused: Problem, now: float) -> None:
        """Answer a request here. Its body, if it has one, is still to come and is forgotten."""
        if exchange.trace is None:
            by_policy = ruling.verdict.decision is Decision.DENY
            self._record(exchange, ruling, now, "deny", "" if by_policy else str(refused[1]["reason"]))
        exchange.dropped = True
        if exchange.waits_to_send:
            exchange.closing = True  # whether the body still comes, only the client knows (RFC 9110 §10.1.1)
            exchange.body = SizedBody(0)
        self._reply(exchange, refused, "denied", now)

    def _reply(self, exchange: Exchange, refused: Problem, outcome: str, now: float) -> None:
        self._down.append(problem.build(refused, exchange.head.method, close=exchange.closing))
        exchange.answered = True
        self._shut(exchange, Outcome(outcome, str(refused[0]), "", self._desk.scrub(str(refused[1]["reason"]))), now)

    def _shut(self, exchange: Exchange, outcome: Outcome, now: float) -> None:
        if exchange.trace is not None:
            self._desk.shut(exchange.trace, outcome, now, self._out)
            exchange.trace = None

    def _send(self, exchange: Exchange, ruling: Ruling, now: float) -> None:
        """Record the request and have it go to the target."""
        if exchange.trace is None:
            self._record(exchange, ruling, now)
        exchange.sent = True
        exchange.masking = ruling.masking
        target = exchange.request.location.target
        self._up.append(build_request(exchange.head.method, target, self._upstream_fields(exchange)))
        if exchange.held is not None:
            self._up.append(bytes(exchange.held))
            exchange.held = None
        if not self._dialled:
            self._dialled = True
            self._out.append(Connect())

    def _upstream_fields(self, exchange: Exchange) -> Listed:
        request = exchange.request
        own = request.own if exchange.masking is None else for_masking(request.own)
        own = for_looking(own) if self._secrets and exchange.masking is None else own
        fields = [("Host", request.location.authority.written(self._scheme)), *own]
        if exchange.held is not None:
            fields = [each for each in fields if each[0].lower() != "expect"]
            fields.append(("Content-Length", str(len(exchange.held))))
        elif isinstance(exchange.body, ChunkedBody):
            fields.append(("Transfer-Encoding", "chunked"))
        elif isinstance(exchange.body, SizedBody) and exchange.head.values("content-length"):
            fields.append(("Content-Length", str(exchange.body.size)))
        if exchange.closing:
            fields.append(("Connection", "close"))
        return [*fields, *(self._credential or ())]

    def _body(self, exchange: Exchange, now: float) -> bool:
        """Pass on, keep or forget what there is of a request's body; False: nothing more can be done now."""
        body = exchange.body
        if body.done or (exchange.sent and not self._ready):
            return False
        content = body.read(self._buffer)
        if exchange.held is not None:
            self._keep(exchange, exchange.held, content, now)
        elif exchange.sent:
            self._up.append(_chunked(content, body) if isinstance(body, ChunkedBody) else content)
        return body.done

    # -- the target ------------------------------------------------------------------------------------------------------

    def _answer(self, data: bytes, now: float) -> None:
        exchange = self._exchange
        self._down.append(self._responses.read(exchange, data))
        if exchange is not None and exchange.answered:
            self._completed(exchange, now)

    def _completed(self, exchange: Exchange, now: float) -> None:
        response = exchange.response
        assert response is not None
        exchange.echo.count(exchange.trace)
        self._shut(exchange, Outcome("ok" if response.status < 400 else "error", str(response.status)), now)

    # -- holds -----------------------------------------------------------------------------------------------------------

    def _collect(self, exchange: Exchange, ruling: Ruling, now: float) -> None:
        """Begin to keep the body of a request that a person is to be asked about."""
        exchange.held = bytearray()
        if exchange.body.done:
            self._ask(exchange, ruling, now)
        elif exchange.request.expects:
            exchange.continued = True
            self._down.append(build_response(100, "Continue", []))

    def _keep(self, exchange: Exchange, held: bytearray, content: bytes, now: float) -> None:
        held += content
        ruling = exchange.ruling
        assert ruling is not None
        if len(held) > _MAX_HELD:
            exchange.held = None
            reason = f"a request with more than {_MAX_HELD} bytes cannot be held: nobody could look at all of it"
            self._deny(exchange, ruling, problem.refused(403, reason, "Send less at once."), now)
        elif exchange.body.done:
            self._ask(exchange, ruling, now)

    def _ask(self, exchange: Exchange, ruling: Ruling, now: float) -> None:
        """Put the whole request before a person."""
        judged = exchange.request.subject.operations[0]
        text, beside = shown(judged, exchange.request.own, bytes(exchange.held or b""))
        whole = replace(judged, text=text, parameters=(*judged.parameters, *beside))
        earlier = self._desk.earlier(ruling, (whole,), now)
        exchange.ticket = self._desk.ticket() if earlier is None else earlier.ticket.ticket_id
        self._record(exchange, ruling, now, "hold")
        assert exchange.trace is not None
        if earlier is None:
            trace = exchange.trace.statement
            self._desk.hold(exchange.ticket, ruling, (whole,), trace, now, self._out, notice_s=self._park_s)
        elif earlier.answer is None:
            self._refuse_held(exchange, problem.waiting(earlier.ticket, self._wall(now)), "denied", now)
        elif not earlier.answer.granted:
            self._refuse_held(exchange, problem.was_refused(earlier.ticket, earlier.answer), "denied", now)
        elif (refused := self._connect_denied()) is not None:
            self._refuse_held(exchange, refused, "denied", now)
        else:
            self._send(exchange, ruling, now)

    def _wall(self, now: float) -> float:
        return now + self._wall_offset_s

    def release(self, denial: Denial | None, now: float) -> list[Command]:
        """The held request was answered: send it (None), or refuse it."""
        exchange = self._exchange
        if self.failed or exchange is None or exchange.held is None or exchange.ruling is None:
            return []
        if denial is not None:
            rule = exchange.ruling.verdict.rules[0]
            self._refuse_held(exchange, problem.answered(denial, rule, exchange.ticket), denial.outcome, now)
        else:
            ruling, terms = self._rule(exchange), exchange.ruling.verdict.hold
            refused = self._policy_objection(ruling) or self._connect_denied()
            if refused is None and ruling.verdict.decision is Decision.HOLD and ruling.verdict.hold != terms:
                reason = "the policy changed while it waited: now another rule holds it, which needs an approval of its own"
                refused = problem.refused(403, reason, "Send it again.", rule=ruling.verdict.rules[0])
            if refused is not None:  # policy has changed while it waited
                self._refuse_held(exchange, refused, "denied", now)
            else:
                self._send(exchange, ruling, now)
        return self.feed(Side.CLIENT, b"", now)

    def _refuse_held(self, exchange: Exchange, refused: Problem, outcome: str, now: float) -> None:
        exchange.held = None
        exchange.dropped = True
        self._reply(exchange, refused, outcome, now)

    def cancel_wanted(self) -> bool:
        """Return False: HTTP/1.1 has no way to take back a request but to close the connection."""
        return False

    @property
    def items(self) -> int:
        """One request at a time."""
        return 1

    def weigh(self) -> int:
        """Return about how many bytes wait to be understood, judged, masked or sent, and what is remembered."""
        exchange = self._exchange
        whole = 0 if exchange is None else len(exchange.held or b"") + len(exchange.kept)
        waiting = sum(map(len, self._up)) + sum(map(len, self._down)) + self._responses.size
        return 3 * len(self._buffer) + 2 * whole + waiting + self._reader.size

    def analysed(self, analysis: Analysis, now: float) -> list[Command]:
        """Nothing is handed out to be analysed here."""
        return []

    def notice(self, text: str, now: float) -> list[Command]:
        """A held request was parked long enough: tell the client its ticket, and keep that for when it comes again."""
        exchange = self._exchange
        if self.failed or exchange is None or exchange.held is None or exchange.ticket == "":
            return []
        ticket = self._desk.keep(now, self._out)
        if ticket is None:
            refused = problem.refused(403, "too many requests of this program wait for an answer", "Wait for those answers.")
        else:
            refused = problem.waiting(ticket, self._wall(now))
        self._refuse_held(exchange, refused, "denied", now)
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
        self._completed(exchange, now)
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
        if side is Side.SERVER:
            self._end(reason, now, problem.refused(502, f"the target's response is refused: {error}"), "error")
        elif self._exchange is None and (self._open or self._buffer[:1] != bytes([RECORD_HANDSHAKE])):
            step = "The connection was closed; send requests as RFC 9112 writes them."
            self._down.append(problem.build(problem.refused(_status(error), str(error), step), "GET", close=True))
            self._leave(reason, now)
        else:
            self._end(reason, now, problem.refused(_status(error), str(error)), "denied")

    def _end(self, reason: str, now: float, refused: Problem, outcome: str) -> None:
        """End the session; a request that waits for its response is told why."""
        exchange = self._exchange
        begun = exchange is not None and exchange.response is not None and exchange.masking is None
        if exchange is not None and not exchange.answered and not begun:
            exchange.closing = True
            self._withdraw(exchange, reason, now)
            self._reply(exchange, refused, outcome, now)
        self._leave(reason, now)

    def _withdraw(self, exchange: Exchange, reason: str, now: float) -> bool:
        waits = exchange.held is not None and exchange.ticket != ""
        if waits:
            self._desk.withdraw(reason, now, self._out)
        return waits

    def _leave(self, reason: str, now: float) -> None:
        if self.failed:
            return
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            withdrawn = self._withdraw(exchange, reason, now)
            self._shut(exchange, Outcome("withdrawn" if withdrawn else "aborted"), now)
        self._flush()
        self.failed = True
        self._out.append(Close(reason))


def _status(error: RemoteWireError) -> int:
    status = int(error.code) if error.code.isdigit() else 0
    return status if status in problem.REASONS else 400


def _chunked(content: bytes, body: ChunkedBody) -> bytes:
    """Without trailers (RFC 9110 §6.5.1): servers are known to read them as header fields, and nobody judged them."""
    return (build_chunk(content) if content else b"") + (build_last_chunk(()) if body.done else b"")
