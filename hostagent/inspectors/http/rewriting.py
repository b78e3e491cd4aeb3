"""A response on its way to the client, whatever the version of HTTP: nothing of our credential, nothing that a rule masks.

What is masked is kept until all of it was seen, so that no value can hide between two pieces (of an event stream: until an event
is whole); anything else passes as it comes.
"""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.http import download
from hostagent.inspectors.http.events import Events, is_events
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed, back, masked
from hostagent.inspectors.http.lines import Lines
from hostagent.inspectors.ports import Masking
from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.head import Fields, ResponseHead

MAX_INTERIM: Final = 32
"""Most responses before the response."""

CONTINUE: Final = 100
_PARTIAL: Final = 206


def interim(exchange: Exchange, head: ResponseHead) -> Listed | None:
    """Return the fields of a response before the response (1xx) that the client gets; None if it gets nothing.

    Raises:
        RemoteWireError: there are too many.
    """
    exchange.interim += 1
    if exchange.interim > MAX_INTERIM:
        raise RemoteWireError("the target sent too many interim responses", "502")
    if head.status == CONTINUE:
        if exchange.continued:
            return None  # the client was told before
        exchange.continued = True
        return []  # that is all there is to say, but a client may wait for it
    return None if exchange.masking is not None else exchange.echo.fields(back(head.fields))


def begin(exchange: Exchange, head: ResponseHead, *, empty: bool) -> Listed | None:
    """Take in the head of the response; return its fields, without what frames the body, or None: they come with the masked body.

    Raises:
        RemoteWireError: it cannot be looked through or masked.
    """
    download.begin(exchange, head, empty=empty)
    exchange.response = head
    if not empty:
        exchange.echo.begin(head)
    if exchange.masking is None:
        return exchange.echo.fields(back(head.fields))
    if empty:
        return None
    if exchange.request.by_line and _comes_by_line(head, exchange.masking):
        exchange.events = Lines(exchange.masking, head.values("content-type")[0])
        return masked(exchange.echo.fields(back(head.fields)), exchange.masking.text)
    if _is_endless(head):
        exchange.events = Events(exchange.masking)
        return masked(exchange.echo.fields(back(head.fields)), exchange.masking.text)
    _check_maskable(head, exchange.masking)
    return None


def piece(exchange: Exchange, content: bytes, *, last: bool) -> bytes:
    """Return what may pass of ``content`` and of what was kept back; of a masked body nothing, see ``whole``.

    Raises:
        RemoteWireError: the body is too long to be masked, or shows our credential.
    """
    if exchange.trace is not None:
        exchange.trace.size += len(content)
    content = exchange.echo.body(content, last=last)
    if exchange.events is not None:
        return exchange.events.feed(content, exchange.trace, last=last)
    if exchange.masking is None:
        if exchange.download is not None:
            exchange.download.take(content)
        return content
    exchange.whole += content
    if len(exchange.whole) > exchange.request.most_masked:
        raise RemoteWireError(f"a response of more than {exchange.request.most_masked} bytes cannot be masked", "502")
    return b""


def whole(exchange: Exchange, masking: Masking) -> tuple[Listed, bytes]:
    """Return fields and body of a response that is masked; all of it was seen.

    Raises:
        RemoteWireError: the body is not what its type says.
    """
    head = exchange.response
    assert head is not None
    body = bytes(exchange.whole)
    exchange.whole = bytearray()
    if body:
        found = masking.document(head.values("content-type")[0], body)
        if found is None:
            raise RemoteWireError("the body is not what its type says, so it cannot be masked", "502")
        body, counts = found
        if exchange.trace is not None:
            exchange.trace.count(counts)
        if exchange.download is not None:
            exchange.download.take(body)
    fields = masked(exchange.echo.fields(back(head.fields)), masking.text)
    if exchange.head.method != "HEAD" and head.status not in (204, 304):
        fields.append(("Content-Length", str(len(body))))
    return fields, body


def trailer(exchange: Exchange, fields: Fields) -> Listed:
    """Return what the client gets of the fields behind a body."""
    kept = exchange.echo.fields(back(fields))
    return kept if exchange.masking is None else masked(kept, exchange.masking.text)


def _comes_by_line(head: ResponseHead, masking: Masking) -> bool:
    kinds = head.values("content-type")
    plain = head.status == 200 and not head.values("content-length") and not head.values("content-encoding")
    return plain and len(kinds) == 1 and masking.maskable(kinds[0])


def _is_endless(head: ResponseHead) -> bool:
    """Return whether the body is an event stream that can be masked as it comes."""
    kinds = head.values("content-type")
    plain = head.status != _PARTIAL and not head.values("content-length") and not head.values("content-encoding")
    return plain and len(kinds) == 1 and is_events(kinds[0])


def _check_maskable(head: ResponseHead, masking: Masking) -> None:
    """Refuse a response that could not be masked before any of it is kept."""
    kinds = head.values("content-type")
    if head.status == _PARTIAL or any(each.lower() != "identity" for each in head.values("content-encoding")):
        raise RemoteWireError("a part of a body, or a coded one, cannot be masked", "502")
    if len(kinds) != 1 or not masking.maskable(kinds[0]):
        raise RemoteWireError(f"a body of type {', '.join(kinds) or 'unknown'} cannot be masked", "502")
