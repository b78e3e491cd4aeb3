"""One request and its response, as far as both have come; and the line on which they travel, whatever the version of HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hostagent.inspectors.http.content import Tripwire
from hostagent.inspectors.http.echo import Echo
from hostagent.inspectors.http.events import Events
from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.http.lines import Lines
from hostagent.inspectors.http.problem import Problem
from hostagent.inspectors.http.reading import Request
from hostagent.inspectors.http.transfers import Upload
from hostagent.inspectors.judged import Ruling, Trace
from hostagent.inspectors.ports import Desk, Masking
from hostagent.inspectors.transfers import Meter
from hostagent.model.operation import Operation
from hostagent.wire.http1.body import Body
from hostagent.wire.http1.head import RequestHead, ResponseHead


class Incoming(Protocol):
    """A request's body that is being read: as far as a judgement needs to know of it."""

    @property
    def done(self) -> bool:
        """Whether all of it was read."""


class Line(Protocol):
    """What a version of HTTP does for a judgement. Every method appends to what is sent."""

    def reply(self, exchange: Exchange, refused: Problem) -> None:
        """Answer here, instead of the target."""

    def invite(self, exchange: Exchange) -> None:
        """Tell a client that waits for it to send the body (100 Continue)."""

    def forward(self, exchange: Exchange, fields: Listed, kept: bytes | None) -> None:
        """Have the request go to the target; ``kept`` is what was kept of its body, None if nothing was."""

    def content(self, exchange: Exchange, content: bytes) -> None:
        """Have a piece of the body go to the target; the last one if the body is done."""

    def ask(self, exchange: Exchange, target: str, fields: Listed, content: bytes) -> bool:
        """Ask the target for ``target`` with the exchange's method and have the judgement told the answer; False: not in this version."""

    def forget(self, exchange: Exchange) -> None:
        """The body of a request that goes nowhere is still to come, or never will."""


class Exchange:
    """``request`` is what its head says, ``body`` reads what follows.

    ``dropped``: the request goes nowhere, its body is read and forgotten. ``kept`` is the body of a request that is judged by
    it or waits for a person, None if it is not kept; ``rebuilt``: it is written anew from
    what was understood of it; ``tripwire`` watches one that passes unkept. ``closing``: the connection ends with
    this exchange. ``continued``: the client was told to send its body. ``answered``: the client has had a whole response.
    ``switched``: the response is the beginning of a WebSocket. ``sent_at``:
    when it went on, in unix seconds. ``asked``: the target was asked what would come of it, and nothing was recorded yet.
    ``masking``: what the response must not show, None if it passes as it is; ``whole`` is its body until all of it was seen,
    ``events`` masks one that is an event stream, or lines without end, instead.
    ``upload`` and ``download`` count what passes of a file; ``asks`` asks a person whether one may, None if no rule is about files; ``now`` is when
    something last came of the response. ``echo`` looks for our credential in it. ``desk`` judges, records and holds for this exchange alone.
    """

    __slots__ = (
        *("answered", "asked", "asks", "body", "closing", "continued", "desk", "download", "dropped", "echo", "events", "interim", "kept", "line", "masking", "now", "rebuilt"),
        *("request", "response", "response_body", "ruling", "sent", "sent_at", "switched", "ticket", "trace", "tripwire", "upload", "whole"),
    )

    def __init__(self, request: Request, body: Incoming, echo: Echo, line: Line, desk: Desk) -> None:
        """Begin unjudged."""
        self.request = request
        self.body = body
        self.echo = echo
        self.line = line
        self.desk = desk
        self.ruling: Ruling | None = None
        self.trace: Trace | None = None
        self.kept: bytearray | None = None
        self.rebuilt = False
        self.tripwire: Tripwire | None = None
        self.ticket = ""
        self.dropped = False
        self.sent = False
        self.closing = request.last
        self.continued = False
        self.answered = False
        self.switched = False
        self.sent_at = 0.0
        self.interim = 0
        self.upload: Upload | None = None
        self.asked = False
        self.asks: Callable[[Ruling, Operation], Problem | None] | None = None
        self.now = 0.0
        self.download: Meter | None = None
        self.masking: Masking | None = None
        self.whole = bytearray()
        self.events: Events | Lines | None = None
        self.response: ResponseHead | None = None
        self.response_body: Body | None = None

    @property
    def head(self) -> RequestHead:
        """The request's head."""
        return self.request.head

    @property
    def held(self) -> bool:
        """Whether a person was asked about it and has not answered."""
        return self.kept is not None and self.ticket != ""

    @property
    def masked_whole(self) -> bool:
        """Whether nothing of the response passes before all of it was seen."""
        return self.masking is not None and self.events is None

    @property
    def size(self) -> int:
        """How many bytes of bodies are kept."""
        moved = (0 if self.upload is None else self.upload.size) + (0 if self.download is None else 1000)
        return len(self.kept or b"") + len(self.whole) + (0 if self.events is None else self.events.size) + moved

    @property
    def waits_to_send(self) -> bool:
        """Whether the client may not send the rest of its body, so that nobody but the client knows what comes next."""
        return self.request.expects and not self.continued and not self.body.done

    @property
    def over(self) -> bool:
        """Whether nothing of it is still to come, in either direction."""
        return self.answered and self.body.done
