"""The judgement of requests, whatever the version of HTTP that brings them: allow, deny, hold; and the body if a rule looks at it.

An ``Exchange`` comes with its head read. It is refused here, or sent to the target with our credential, or kept: until its body
is whole, because a rule looks at it or a person will; and then until that person has answered, or the client's patience ends.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from hostagent.inspectors.http import problem, sigv4
from hostagent.inspectors.http.content import MAX_LOOKED_AT, OVERRIDE, UNREADABLE, Tripwire, rebuilt
from hostagent.inspectors.http.dialect import PLAIN, Dialect
from hostagent.inspectors.http.echo import forms
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed, credential, for_looking, for_masking, for_rebuilding
from hostagent.inspectors.http.grpc import is_grpc, patience
from hostagent.inspectors.http.problem import Problem
from hostagent.inspectors.http.reading import Request
from hostagent.inspectors.http.request import recorded, shown
from hostagent.inspectors.http.transfers import LEAST, Upload
from hostagent.inspectors.judged import Ruling, Subject
from hostagent.inspectors.ports import Denial, Outcome, Surroundings
from hostagent.inspectors.transfers import Meter
from hostagent.model.command import Command
from hostagent.model.errors import RemoteWireError
from hostagent.model.operation import Content, Effect, Operation
from hostagent.model.transfer import Direction
from hostagent.model.verdict import Decision, MaskColumn

_TOO_LONG: Final = f"a request with more than {MAX_LOOKED_AT} bytes cannot be held: nobody could look at all of it"


class Judge:
    """Judges the requests of one connection.

    ``credential`` are the fields by which the target knows us, ``secrets`` what no response may show. ``dialled``: a request was let
    through, so that the target was to be dialled.
    """

    def __init__(self, surroundings: Surroundings, out: list[Command], dialect: Dialect = PLAIN) -> None:
        """Append commands to ``out``, which stays the same list."""
        self._dialect = dialect
        self._target = surroundings.target
        self._secret = surroundings.secret
        self.credential = credential(surroundings.target.login, surroundings.secret)
        self.secrets = forms(surroundings.target.login, surroundings.secret)
        self._park_s = surroundings.park_s
        self._wall_offset_s = surroundings.wall_offset_ns / 1e9
        self._out = out
        self.dialled = False

    # -- a request comes -------------------------------------------------------------------------------------------------

    def begin(self, exchange: Exchange, now: float) -> None:
        """Judge a request by its head, as far as that goes."""
        request = exchange.request
        ruling = self._rule(exchange)
        if wrong := request.elsewhere or self._dialect.refusal(request, ruling.verdict):
            exchange.closing = True  # whoever asks for that means something else by what follows
            status = 421 if request.elsewhere else request.status
            refused = problem.refused(status, wrong, "Ask this target for what it is declared for.")
            self._deny(exchange, ruling, refused, now)
        elif self.credential is None:
            reason = f"the credential of target {self._target.name} cannot be used"
            self._deny(exchange, ruling, problem.refused(502, reason, "Tell whoever keeps the targets."), now)
        elif self._target.login.scheme == sigv4.SCHEME and (wrong := _unsignable(request)):
            self._deny(exchange, ruling, problem.refused(403, wrong, "Let an AWS SDK sign it, with any credentials."), now)
        elif (_reads_body(ruling) or request.form or request.looked_at or request.signs_body) and not exchange.body.done:
            self._collect(exchange)
        else:
            self._decide(exchange, ruling, now)

    def content(self, exchange: Exchange, content: bytes, now: float) -> None:
        """Take in a piece of a request's body: keep it, pass it on, or forget it."""
        if exchange.kept is not None:
            self._keep(exchange, exchange.kept, content, now)
        elif exchange.sent:
            if exchange.tripwire is not None and exchange.tripwire.touched(content):
                raise RemoteWireError(f"a JSON body that names another method ({OVERRIDE}), after rules judged this one", "403")
            self._count(exchange, content, now)
            exchange.line.content(exchange, content)

    def _decide(self, exchange: Exchange, ruling: Ruling, now: float) -> None:
        """Do what ``ruling`` says, which knows of the body what it needs to know."""
        if (denied := self._objection(exchange.request, ruling)) is not None:
            self._deny(exchange, ruling, denied, now)
        elif ruling.verdict.decision is Decision.HOLD:
            if exchange.kept is None:
                self._collect(exchange)
            if len(exchange.kept or b"") > MAX_LOOKED_AT:
                self._deny(exchange, ruling, problem.refused(403, _TOO_LONG, "Send less at once."), now)
            elif exchange.body.done:
                self._ask(exchange, ruling, now)
        elif exchange.request.signs_body and not (exchange.body.done and len(exchange.kept or b"") <= MAX_LOOKED_AT):
            reason = f"a request with more than {MAX_LOOKED_AT} bytes cannot be signed"
            self._deny(exchange, ruling, problem.refused(403, reason, "Send less at once."), now)
        elif (denied := self._connect_denied(exchange)) is not None:
            self._deny(exchange, ruling, denied, now)
        else:
            self._send(exchange, ruling, now)

    def _rule(self, exchange: Exchange, subject: Subject | None = None) -> Ruling:
        subject = subject or exchange.request.subject
        exchange.ruling = exchange.desk.rule(subject, subject.operations[0].parameters)
        return exchange.ruling

    def _objection(self, request: Request, ruling: Ruling) -> Problem | None:
        verdict = ruling.verdict
        if verdict.decision is Decision.DENY:
            return problem.denied(verdict)
        columns = {each.rule for each in verdict.obligations if isinstance(each, MaskColumn)}
        if columns:
            masks = ", ".join(sorted(columns))
            reason = f"rule {masks} masks columns of tables, which no HTTP response shows as such"
            return problem.refused(403, reason, "Limit that rule to other targets (where: protocol).", rule=masks)
        return self._dialect.objection(request, ruling.operations[0], verdict)

    def _connect_denied(self, exchange: Exchange) -> Problem | None:
        """A rule that denies or holds ``connect`` counts here as well, though no rule needs to allow it."""
        if self.dialled:
            return None
        verdict = exchange.desk.judge(Operation(self._target.protocol, "connect", frozenset({Effect.CONNECT})))
        if verdict.decision is Decision.ALLOW or not verdict.rules:
            return None
        return problem.denied(verdict)

    # -- its end here, or its way on -------------------------------------------------------------------------------------

    def _record(self, exchange: Exchange, ruling: Ruling, now: float, decision: str = "", reason: str = "") -> None:
        request = exchange.request
        exact = [request.exact, bytes(exchange.kept)] if exchange.kept else [request.exact]
        traces = exchange.desk.open(
            ruling, exact, recorded(request.location.query), now, self._out,
            decision=decision, ticket=exchange.ticket, reason=reason,
        )  # fmt: skip
        exchange.trace, exchange.asked = traces[0], False

    def _deny(self, exchange: Exchange, ruling: Ruling, refused: Problem, now: float) -> None:
        """Answer a request here. Its body, if it has one, is still to come and is forgotten."""
        if exchange.trace is None:
            by_policy = ruling.verdict.decision is Decision.DENY
            self._record(exchange, ruling, now, "deny", "" if by_policy else str(refused[1]["reason"]))
        self._refuse(exchange, refused, "denied", now)

    def _refuse(self, exchange: Exchange, refused: Problem, outcome: str, now: float) -> None:
        if exchange.upload is None and (meter := _upload(exchange)) is not None and meter.least < 0 and exchange.trace is not None:
            meter.statement = exchange.trace.statement
            exchange.desk.moved(meter, "denied", now, self._out, reason=str(refused[1]["reason"]))
        exchange.kept = None
        exchange.dropped = True
        exchange.line.forget(exchange)
        self.reply(exchange, refused, outcome, now)

    def reply(self, exchange: Exchange, refused: Problem, outcome: str, now: float) -> None:
        """Have the client told ``refused`` instead of a response."""
        exchange.line.reply(exchange, refused)
        exchange.answered = True
        self.shut(exchange, Outcome(outcome, str(refused[0]), "", exchange.desk.scrub(str(refused[1]["reason"]))), now)

    def shut(self, exchange: Exchange, outcome: Outcome, now: float) -> None:
        """Record how it ended, once. A body that still goes on behind its response is not over."""
        if exchange.asked and exchange.ruling is not None:  # the target has seen it, though in a dry run only
            self._record(exchange, exchange.ruling, now, "deny", outcome.message or "it ended before the target had answered its dry run")
        if exchange.download is not None:
            by_policy = outcome.outcome == "denied" and not exchange.download.size
            exchange.desk.moved(exchange.download, "denied" if by_policy else "cut", now, self._out, reason=outcome.message)
        if outcome.outcome != "ok":
            self.cut_upload(exchange, outcome.message, now)
        if exchange.trace is not None:
            exchange.desk.shut(exchange.trace, outcome, now, self._out)
            exchange.trace = None

    def completed(self, exchange: Exchange, now: float) -> None:
        """The target's response is complete."""
        assert exchange.response is not None
        exchange.echo.count(exchange.trace)
        if exchange.download is not None:
            exchange.desk.moved(exchange.download, "finished", now, self._out)
        status = exchange.response.status
        self.shut(exchange, Outcome("ok" if status < 400 else "error", str(status)), now)

    def _send(self, exchange: Exchange, ruling: Ruling, now: float) -> None:
        """Record the request and have it go to the target."""
        if exchange.trace is None:
            self._record(exchange, ruling, now)
        exchange.sent = True
        if exchange.request.json and exchange.kept is None:
            exchange.tripwire = Tripwire()
        exchange.masking = ruling.masking
        kept, exchange.kept = exchange.kept, None
        if (meter := _upload(exchange)) is not None and exchange.trace is not None:
            exchange.upload = Upload(meter, exchange.trace, [value for name, value in exchange.request.own if name.lower() == "content-type"])
            self._count(exchange, bytes(kept or b""), now)
        if ruling.verdict.reads_transfer:
            exchange.asks = partial(self._ask_about, exchange)
        self.dialled = True
        exchange.sent_at = self._wall(now)
        exchange.line.forward(exchange, self._upstream_fields(exchange), None if kept is None else bytes(kept))

    def _count(self, exchange: Exchange, content: bytes, now: float) -> None:
        """Count what goes on of an upload.

        Raises:
            LimitPassedError: it is more than a rule lets pass.
        """
        if exchange.upload is not None:
            exchange.upload.take(content)
            if exchange.body.done:
                exchange.upload.over(exchange.desk, "finished", "", now, self._out)

    def cut_upload(self, exchange: Exchange, reason: str, now: float) -> None:
        """Nothing more of its body goes on."""
        if exchange.upload is not None:
            exchange.upload.over(exchange.desk, "cut", reason, now, self._out)

    def _upstream_fields(self, exchange: Exchange) -> Listed:
        """Return what of the workload's own fields goes on: neither Host nor what frames the body, nor the credential."""
        own = exchange.request.own
        if exchange.masking is not None:
            own = for_masking(own)
        elif self.secrets:
            own = for_looking(own)
        if exchange.rebuilt:
            own = for_rebuilding(own)
        return self._dialect.upstream(exchange.request, own)

    def presented(self, exchange: Exchange, fields: Listed, kept: bytes | None) -> Listed:
        """Return the ``fields`` of a request that goes on, with our credential; ``kept`` is its body if that is known."""
        request, scope = exchange.request, exchange.request.scope
        if scope is None:
            return [*fields, *(self.credential or ())]
        location = request.location
        host = location.authority.written(location.scheme)
        body = (kept or b"") if scope.needs_body else None
        asked = sigv4.Request(request.head.method, host, location.path, location.query or "", fields, body)
        stamp = datetime.fromtimestamp(exchange.sent_at, UTC).strftime("%Y%m%dT%H%M%SZ")
        return sigv4.signed(asked, scope, self._target.login.user, self._secret or "", stamp)

    # -- bodies that are looked at ---------------------------------------------------------------------------------------

    @staticmethod
    def _collect(exchange: Exchange) -> None:
        """Begin to keep the body of a request: a rule looks at it, or a person will."""
        exchange.kept = bytearray()
        if exchange.request.expects and not exchange.body.done and not exchange.continued:
            exchange.continued = True
            exchange.line.invite(exchange)

    def _keep(self, exchange: Exchange, kept: bytearray, content: bytes, now: float) -> None:
        kept += content
        if len(kept) > MAX_LOOKED_AT:
            self._judged(exchange, UNREADABLE, now)
        elif exchange.body.done:
            self._judged(exchange, self._dialect.read(exchange.request, bytes(kept)), now, len(kept))

    def _judged(self, exchange: Exchange, content: Content, now: float, size: int | None = None) -> None:
        """Judge a request by its whole body, or without it because it is too long to be looked at."""
        asked = exchange.request.subject.operations[0]
        ruling = self._rule(exchange, Subject(b"", (), (self._dialect.with_content(asked, content, size),)))
        if (better := rebuilt(content)) is not None:
            exchange.kept, exchange.rebuilt = bytearray(better), True
        if not self._asks(exchange, ruling):
            self._decide(exchange, ruling, now)

    def _asks(self, exchange: Exchange, ruling: Ruling) -> bool:
        """Ask the target what would come of a request, if that may decide; return whether it was asked."""
        question = self._dialect.question(exchange.request, ruling.operations[0])
        if question is None:
            return False
        harmless, target = question
        if exchange.desk.rule(Subject(b"", (), (harmless,))).verdict.decision is ruling.verdict.decision:
            return False
        if self._connect_denied(exchange) is not None:
            return False
        plain = [each for each in for_masking(exchange.request.own) if each[0].lower() not in ("accept", "expect")]
        fields = self.presented(exchange, [*plain, ("Accept", "application/json")], None)
        if not exchange.line.ask(exchange, target, fields, bytes(exchange.kept or b"")):
            return False
        exchange.asked = True
        self.dialled = True
        return True

    def found(self, exchange: Exchange, status: int, body: bytes, now: float) -> None:
        """The target has answered what would come of a request: judge it by that."""
        assert exchange.ruling is not None
        meant = self._dialect.found(exchange.ruling.operations[0], status, body)
        self._decide(exchange, self._rule(exchange, Subject(b"", (), (meant,))), now)

    # -- holds -----------------------------------------------------------------------------------------------------------

    def _ask(self, exchange: Exchange, ruling: Ruling, now: float) -> None:
        """Put the whole request before a person."""
        judged = ruling.operations[0]
        text, beside = shown(judged, exchange.request.own, bytes(exchange.kept or b""))
        whole = replace(judged, text=text, parameters=(*judged.parameters, *beside))
        desk = exchange.desk
        earlier = desk.earlier(ruling, (whole,), now)
        exchange.ticket = desk.ticket() if earlier is None else earlier.ticket.ticket_id
        self._record(exchange, ruling, now, "hold")
        assert exchange.trace is not None
        if earlier is None:
            trace = exchange.trace.statement
            patient = patience(exchange.request.own)
            park_s = self._park_s if patient is None else min(self._park_s, patient / 2)
            desk.hold(exchange.ticket, ruling, (whole,), trace, now, self._out, notice_s=park_s)
        elif earlier.answer is None:
            self._refuse(exchange, problem.waiting(earlier.ticket, self._wall(now)), "denied", now)
        elif not earlier.answer.granted:
            self._refuse(exchange, problem.was_refused(earlier.ticket, earlier.answer), "denied", now)
        elif (refused := self._connect_denied(exchange)) is not None:
            self._refuse(exchange, refused, "denied", now)
        else:
            self._send(exchange, ruling, now)

    def _ask_about(self, exchange: Exchange, ruling: Ruling, whole: Operation) -> Problem | None:
        """Put an answer before a person, which cannot wait; return what the client is told instead, None if it was approved before."""
        desk, now = exchange.desk, exchange.now
        earlier = desk.earlier(ruling, (whole,), now)
        if earlier is not None and earlier.answer is not None:
            return None if earlier.answer.granted else problem.was_refused(earlier.ticket, earlier.answer)
        if earlier is not None:
            return problem.waiting(earlier.ticket, self._wall(now))
        trace = "" if exchange.trace is None else exchange.trace.statement
        desk.hold(desk.ticket(), ruling, (whole,), trace, now, self._out)
        ticket = desk.keep(now, self._out)
        if ticket is None:
            return problem.refused(403, "too many requests of this program wait for an answer", "Wait for those answers.")
        return problem.waiting(ticket, self._wall(now))

    def _wall(self, now: float) -> float:
        return now + self._wall_offset_s

    def release(self, exchange: Exchange, denial: Denial | None, now: float) -> None:
        """The held request was answered: send it (None), or refuse it."""
        if exchange.kept is None or exchange.ruling is None:
            return
        before = exchange.ruling
        if denial is not None:
            self._refuse(exchange, problem.answered(denial, before.verdict.rules[0], exchange.ticket), denial.outcome, now)
            return
        ruling, terms = self._rule(exchange, Subject(b"", (), before.operations)), before.verdict.hold
        refused = self._objection(exchange.request, ruling) or self._connect_denied(exchange)
        if refused is None and ruling.verdict.decision is Decision.HOLD and ruling.verdict.hold != terms:
            reason = "the policy changed while it waited: now another rule holds it, which needs an approval of its own"
            refused = problem.refused(403, reason, "Send it again.", rule=ruling.verdict.rules[0])
        if refused is not None:  # policy has changed while it waited
            self._refuse(exchange, refused, "denied", now)
        else:
            self._send(exchange, ruling, now)

    def parked(self, exchange: Exchange, now: float) -> None:
        """A held request was parked long enough: tell the client its ticket, and keep that for when it comes again."""
        if not exchange.held:
            return
        ticket = exchange.desk.keep(now, self._out)
        if ticket is None:
            refused = problem.refused(403, "too many requests of this program wait for an answer", "Wait for those answers.")
        else:
            refused = problem.waiting(ticket, self._wall(now))
        self._refuse(exchange, refused, "denied", now)

    def withdraw(self, exchange: Exchange, reason: str, now: float) -> bool:
        """Void the ticket of a request that waits for a person; return whether it does."""
        if exchange.held:
            exchange.desk.withdraw(reason, now, self._out)
        return exchange.held

    def abandon(self, exchange: Exchange, reason: str, now: float) -> None:
        """Nobody waits for its response any more."""
        withdrawn = self.withdraw(exchange, reason, now)
        if exchange.download is not None:
            exchange.desk.moved(exchange.download, "cut", now, self._out, reason=reason)
        self.cut_upload(exchange, reason, now)
        self.shut(exchange, Outcome("withdrawn" if withdrawn else "aborted"), now)


def _reads_body(ruling: Ruling) -> bool:
    """Return whether a rule looks at the body: at what it says, or whether it is a file."""
    transfer = ruling.operations[0].transfer
    unsure = transfer is not None and transfer.direction is Direction.UPLOAD and not transfer.certain
    return ruling.verdict.reads_content or (unsure and ruling.verdict.reads_transfer)


def _upload(exchange: Exchange) -> Meter | None:
    """Return what counts the body of a request that goes on, None if it is none that could be a file."""
    ruling = exchange.ruling
    transfer = None if ruling is None else ruling.operations[0].transfer
    if ruling is None or transfer is None or transfer.direction is Direction.DOWNLOAD:
        return None
    message = not transfer.certain or is_grpc(exchange.request.own)
    if message and transfer.size is not None and transfer.size <= LEAST:
        return None
    coding = ", ".join(value for name, value in exchange.request.own if name.lower() == "content-encoding")
    verdict = ruling.verdict
    return Meter(transfer, rules=verdict.rules, policy=verdict.policy, limit=verdict.limit, coding=coding, least=LEAST if message else -1)


def _unsignable(request: Request) -> str:
    """Return why a request to a target that wants an AWS signature cannot be signed, empty if it can."""
    if request.scope is None:
        return "a request to this target must be signed (AWS Signature Version 4): region and service are taken from the signature"
    return sigv4.objection(request.own, request.location.query or "")
