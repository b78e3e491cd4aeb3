"""One request and its response, as far as both have come."""

from __future__ import annotations

from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.ports import Masking, Ruling, Subject, Trace
from hostagent.model.operation import Operation
from hostagent.wire.http1.body import Body
from hostagent.wire.http1.head import RequestHead, ResponseHead
from hostagent.wire.http1.location import Location


class Exchange:
    """``own`` is what of the request's fields is the workload's to say, which is what was judged.

    ``dropped``: the request goes nowhere, its body is read and forgotten. ``held`` is the body of a request that waits for a
    person, None if it does not. ``closing``: the connection ends with this exchange. ``continued``: the client was told to
    send its body. ``answered``: the client has had a whole response. ``masking``: what the response must not show, None if it
    passes as it is; ``kept`` is its body until all of it was seen.
    """

    __slots__ = (
        *("answered", "body", "closing", "continued", "dropped", "head", "held", "interim", "kept", "location", "masking", "own"),
        *("response", "response_body", "ruling", "sent", "subject", "ticket", "trace"),
    )

    def __init__(self, head: RequestHead, location: Location, own: Listed, body: Body, operation: Operation) -> None:
        """Begin unjudged."""
        self.head = head
        self.location = location
        self.own = own
        self.body = body
        self.subject = Subject(b"", (), (operation,))
        self.ruling: Ruling | None = None
        self.trace: Trace | None = None
        self.held: bytearray | None = None
        self.ticket = ""
        self.dropped = False
        self.sent = False
        self.closing = False
        self.continued = False
        self.answered = False
        self.interim = 0
        self.masking: Masking | None = None
        self.kept = bytearray()
        self.response: ResponseHead | None = None
        self.response_body: Body | None = None

    @property
    def over(self) -> bool:
        """Whether nothing of it is still to come, in either direction."""
        return self.answered and self.body.done
