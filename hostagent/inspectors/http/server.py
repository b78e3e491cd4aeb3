"""The target's half: its responses, one for each request that was forwarded, rebuilt for the client."""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed, back, masked
from hostagent.inspectors.ports import Masking
from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.body import Body, ChunkedBody, CloseBody, build_chunk, build_last_chunk, response_body
from hostagent.wire.http1.head import ResponseHead, build_response, parse_response, take_head, tokens

_MAX_INTERIM: Final = 32
_SWITCHING: Final = 101
_CONTINUE: Final = 100
_PARTIAL: Final = 206

MAX_MASKED: Final = 1_048_576
"""Longest body that can be masked: it is kept until all of it was seen, so that no value can hide between two pieces."""


class Responses:
    """Reads what the target sends. It answers one request at a time, because it is asked only one at a time."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """How many bytes are kept that could not be read yet."""
        return len(self._buffer)

    def read(self, exchange: Exchange | None, data: bytes) -> bytes:
        """Return what the client gets for ``data``; ``exchange.answered`` when that completes its response.

        Raises:
            RemoteWireError: malformed, unasked, or a change of protocol.
        """
        self._buffer += data
        if exchange is None or not exchange.sent or exchange.answered:
            raise RemoteWireError("the target sent something that nobody asked for", "502")
        parts: list[bytes] = []
        while exchange.response is None:
            raw = take_head(self._buffer)
            if raw is None:
                return b"".join(parts)
            parts.append(self._head(exchange, parse_response(raw)))
        parts.append(self._content(exchange))
        return b"".join(parts)

    def _head(self, exchange: Exchange, head: ResponseHead) -> bytes:
        if head.status == _SWITCHING:
            raise RemoteWireError("the target wants to change the protocol", "502")
        body = response_body(head, exchange.head.method)
        if head.status < 200:
            exchange.interim += 1
            if exchange.interim > _MAX_INTERIM:
                raise RemoteWireError("the target sent too many interim responses", "502")
            if head.status == _CONTINUE:
                exchange.continued = True
            if not exchange.head.minor or (exchange.masking is not None and head.status != _CONTINUE):
                return b""  # HTTP/1.0 has none; and nothing in them is worth masking
            if head.status == _CONTINUE:
                return build_response(_CONTINUE, "Continue", [])  # that is all there is to say, but a client may wait for it
            return build_response(head.status, exchange.echo.text(head.reason), exchange.echo.fields(back(head.fields)))
        exchange.response, exchange.response_body = head, body
        said = tokens(head.values("connection"))
        if "close" in said or (not head.minor and "keep-alive" not in said) or isinstance(body, CloseBody):
            exchange.closing = True
        if exchange.waits_to_send:
            exchange.closing = True  # whether the body still comes, only the client knows (RFC 9110 §10.1.1)
        if not body.done:
            exchange.echo.begin(head)
        if exchange.masking is not None:
            _check_maskable(head, body, exchange.masking)
            return b""  # it is sent with the masked body, whose length it names
        return build_response(head.status, exchange.echo.text(head.reason), self._fields(exchange, head))

    @staticmethod
    def _fields(exchange: Exchange, head: ResponseHead) -> Listed:
        fields = exchange.echo.fields(back(head.fields))
        lengths = head.values("content-length")
        if isinstance(exchange.response_body, ChunkedBody):
            if exchange.head.minor:
                fields.append(("Transfer-Encoding", "chunked"))
        elif lengths and head.status != 204:
            fields.append(("Content-Length", lengths[0]))
        if exchange.closing:
            fields.append(("Connection", "close"))
        return fields

    def _content(self, exchange: Exchange) -> bytes:
        body = exchange.response_body
        assert body is not None
        content = body.read(self._buffer)
        if exchange.trace is not None:
            exchange.trace.size += len(content)
        content = exchange.echo.body(content, last=body.done)
        if exchange.masking is not None:
            content = self._masked(exchange, exchange.masking, content)
        elif isinstance(body, ChunkedBody) and exchange.head.minor:
            content = build_chunk(content) if content else b""
            if body.done:
                content += build_last_chunk(tuple(exchange.echo.fields(back(body.trailers))))
        if body.done:
            exchange.answered = True
            if self._buffer:
                raise RemoteWireError("the target sent more than its response", "502")
        return content

    @staticmethod
    def _masked(exchange: Exchange, masking: Masking, content: bytes) -> bytes:
        """Keep ``content``; return head and masked body once all of it is there."""
        exchange.whole += content
        if len(exchange.whole) > MAX_MASKED:
            raise RemoteWireError(f"a response of more than {MAX_MASKED} bytes cannot be masked", "502")
        assert exchange.response_body is not None
        return _masked_response(exchange, masking) if exchange.response_body.done else b""

    @staticmethod
    def ended(exchange: Exchange | None) -> bytes | None:
        """Return what the client still gets when the target's connection ends; None if that cuts a response short.

        Raises:
            RemoteWireError: it cannot be masked.
        """
        if exchange is None or exchange.answered or not isinstance(exchange.response_body, CloseBody):
            return None
        rest = exchange.echo.body(b"", last=True)
        if exchange.masking is None:
            return rest
        exchange.whole += rest
        return _masked_response(exchange, exchange.masking)


def _check_maskable(head: ResponseHead, body: Body, masking: Masking) -> None:
    """Refuse a response that could not be masked before any of it is kept.

    Raises:
        RemoteWireError: part of a body, a coded one, or of a type that nothing can be found in.
    """
    if body.done:
        return
    kinds = head.values("content-type")
    if head.status == _PARTIAL or any(each.lower() != "identity" for each in head.values("content-encoding")):
        raise RemoteWireError("a part of a body, or a coded one, cannot be masked", "502")
    if len(kinds) != 1 or not masking.maskable(kinds[0]):
        raise RemoteWireError(f"a body of type {', '.join(kinds) or 'unknown'} cannot be masked", "502")


def _masked_response(exchange: Exchange, masking: Masking) -> bytes:
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
    fields = masked(exchange.echo.fields(back(head.fields)), masking.text)
    if exchange.head.method != "HEAD" and head.status not in (204, 304):
        fields.append(("Content-Length", str(len(body))))
    if exchange.closing:
        fields.append(("Connection", "close"))
    return build_response(head.status, masking.text(exchange.echo.text(head.reason)), fields) + body
