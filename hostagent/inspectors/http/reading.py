"""A request's head, understood: all of it that follows from its bytes alone, so that the same bytes need no second look."""

from __future__ import annotations

from typing import Final, NamedTuple

from hostagent.inspectors.http.content import NOTHING, carries_form, carries_json
from hostagent.inspectors.http.dialect import PLAIN, Dialect
from hostagent.inspectors.http.fields import Listed, workloads_own
from hostagent.inspectors.http.request import called, check, operation
from hostagent.inspectors.http.sigv4 import SCHEME, Scope, action_of, scope_of
from hostagent.inspectors.http.transfers import length_of
from hostagent.inspectors.http.websocket import VERB, asks
from hostagent.inspectors.judged import Subject
from hostagent.model.target import Target
from hostagent.wire.http1.head import RequestHead, build_request, parse_request, tokens
from hostagent.wire.http1.location import Location, locate

_REMEMBERED: Final = 64
_SHORT: Final = 2048
_UNDERSTOOD: Final = 24
"""How much larger a head is once it is understood: it is kept as bytes, fields, attributes, resources and the exact form."""


class Request(NamedTuple):
    """One request as far as its head says.

    ``own`` is what of its fields is the workload's to say, which is what is judged. ``exact`` is the canonical head, for the
    keyed digest. ``refusal`` says why no policy can let it pass, ``elsewhere`` why it is not for this connection; both empty
    for an ordinary one. ``expects``: the client waits for a word before it sends the body. ``last``: it sends no other request.
    ``form`` and ``json``: a server may find another method in its body. ``websocket``: it asks for a WebSocket.
    ``scope``: what the workload signed it for, if the target wants an AWS signature. ``looked_at``: what it means depends on its body.
    ``by_line``: its response may be lines without end, each of which is whole. ``status``: of a refusal. ``most_masked``: longest response
    that can be masked, in bytes. ``stream``: the WebSocket carries this API's own streams.
    """

    head: RequestHead
    location: Location
    own: Listed
    subject: Subject
    exact: bytes
    refusal: str
    elsewhere: str
    expects: bool
    last: bool
    form: bool
    json: bool
    websocket: bool
    scope: Scope | None
    looked_at: bool = False
    by_line: bool = False
    status: int = 403
    most_masked: int = 1_048_576
    stream: str = ""

    @property
    def signs_body(self) -> bool:
        """Whether it cannot go on before its whole body is known, because that is signed."""
        return self.scope is not None and self.scope.needs_body


class Reader:
    """Reads the heads of one connection, and remembers short ones: programs ask the same thing again and again."""

    def __init__(self, target: Target, scheme: str, name: str, dialect: Dialect = PLAIN) -> None:
        """``name`` is the one that TLS was opened for, empty without TLS."""
        self._dialect = dialect
        self._target = target
        self._scheme = scheme
        self._name = name
        self._remembered: dict[bytes, Request] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """About how many bytes are remembered."""
        return self._size

    def read(self, raw: bytes) -> Request:
        """Return the request that ``raw`` (from ``take_head``) begins.

        Raises:
            RemoteWireError: it can be understood in two ways, or in none.
        """
        found = self._remembered.get(raw)
        if found is None:
            found = self.understood(parse_request(raw))
            if len(raw) <= _SHORT:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                    self._size = 0
                self._remembered[raw] = found
                self._size += _UNDERSTOOD * len(raw)
        return found

    def understood(self, head: RequestHead, *, empty: bool | None = None) -> Request:
        """Return the request that begins with ``head``; ``empty``: whether no body follows, None if the head says so.

        Raises:
            RemoteWireError: it can be understood in two ways, or in none.
        """
        refusal = check(head)
        asked = head.target if head.method != "CONNECT" else "/"
        location = locate(head.method, asked, head.values("host")[0], self._scheme)
        own = workloads_own(head.fields, self._target.login)
        if empty is None:
            empty = not head.values("transfer-encoding") and head.values("content-length") in ([], ["0"])
        verb = VERB if asks(head) else head.method
        meant = operation(verb, location, own, NOTHING if empty else None, length_of(head))
        scope = scope_of(head.values("authorization")) if self._target.login.scheme == SCHEME else None
        if scope is not None:
            meant = called(meant, scope.service, action_of(own))
        request = Request(
            head=head,
            location=location,
            own=own,
            subject=Subject(b"", (), (meant,)),
            exact=build_request(head.method, location.url, own),
            refusal=refusal,
            elsewhere=self._elsewhere(location),
            expects=bool(head.values("expect")),
            last="close" in tokens(head.values("connection")) or not head.minor,
            form=carries_form(head.method, own),
            json=carries_json(head.method, own),
            websocket=asks(head),
            scope=scope,
        )
        return self._dialect.understood(request, empty=empty)

    def _elsewhere(self, location: Location) -> str:
        host, port = location.authority
        if port == self._target.port and host in self._target.hosts and host == (self._name or host):
            return ""
        written = location.authority.written(self._scheme)
        if self._name:
            return f"the Host {written} is not the name {self._name} that TLS was opened for"
        return f"the Host {written} is not one of target {self._target.name}"
