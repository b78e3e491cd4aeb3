"""One request and its response, as far as both have come."""

from __future__ import annotations

from hostagent.inspectors.http.echo import Echo
from hostagent.inspectors.http.reading import Request
from hostagent.inspectors.ports import Masking, Ruling, Trace
from hostagent.wire.http1.body import Body
from hostagent.wire.http1.head import RequestHead, ResponseHead


class Exchange:
    """``request`` is what its head says, ``body`` reads what follows.

    ``dropped``: the request goes nowhere, its body is read and forgotten. ``held`` is the body of a request that waits for a
    person, None if it does not. ``closing``: the connection ends with this exchange. ``continued``: the client was told to
    send its body. ``answered``: the client has had a whole response. ``masking``: what the response must not show, None if it
    passes as it is; ``kept`` is its body until all of it was seen. ``echo`` looks for our credential in it.
    """

    __slots__ = (
        *("answered", "body", "closing", "continued", "dropped", "echo", "held", "interim", "kept", "masking", "request"),
        *("response", "response_body", "ruling", "sent", "ticket", "trace"),
    )

    def __init__(self, request: Request, body: Body, echo: Echo) -> None:
        """Begin unjudged."""
        self.request = request
        self.body = body
        self.echo = echo
        self.ruling: Ruling | None = None
        self.trace: Trace | None = None
        self.held: bytearray | None = None
        self.ticket = ""
        self.dropped = False
        self.sent = False
        self.closing = request.last
        self.continued = False
        self.answered = False
        self.interim = 0
        self.masking: Masking | None = None
        self.kept = bytearray()
        self.response: ResponseHead | None = None
        self.response_body: Body | None = None

    @property
    def head(self) -> RequestHead:
        """The request's head."""
        return self.request.head

    @property
    def waits_to_send(self) -> bool:
        """Whether the client may not send the rest of its body, so that nobody but the client knows what comes next."""
        return self.request.expects and not self.continued and not self.body.done

    @property
    def over(self) -> bool:
        """Whether nothing of it is still to come, in either direction."""
        return self.answered and self.body.done
