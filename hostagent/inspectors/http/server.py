"""The target's half of HTTP/1.1: its responses, one for each request that was forwarded, rebuilt for the client."""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.http import rewriting
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed
from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.body import ChunkedBody, CloseBody, build_chunk, build_last_chunk, response_body
from hostagent.wire.http1.head import ResponseHead, build_response, parse_response, take_head, tokens

_SWITCHING: Final = 101


class Responses:
    """Reads what the target sends. It answers one request at a time, because it is asked only one at a time."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """How many bytes are kept that could not be read yet."""
        return len(self._buffer)

    def ahead(self, exchange: Exchange | None) -> int:
        """Return how many bytes come next that are content of a body and pass without a mask, whatever stands in them."""
        if exchange is None or exchange.response_body is None or exchange.masking is not None or exchange.echo.decodes:
            return 0
        return exchange.response_body.left - len(self._buffer)

    def rest(self) -> bytes:
        """Return what came behind the response that changed the protocol."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

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
        if exchange.switched:
            return b"".join(parts)
        parts.append(self._content(exchange))
        return b"".join(parts)

    def _head(self, exchange: Exchange, head: ResponseHead) -> bytes:
        if head.status == _SWITCHING and exchange.request.websocket:
            exchange.response = head
            exchange.switched = True
            return b""
        if head.status == _SWITCHING:
            raise RemoteWireError("the target wants to change the protocol", "502")
        body = response_body(head, exchange.head.method)
        if head.status < 200:
            fields = rewriting.interim(exchange, head)
            if fields is None or not exchange.head.minor:
                return b""  # HTTP/1.0 has none
            reason = "Continue" if head.status == rewriting.CONTINUE else exchange.echo.text(head.reason)
            return build_response(head.status, reason, fields)
        exchange.response_body = body
        said = tokens(head.values("connection"))
        if "close" in said or (not head.minor and "keep-alive" not in said) or isinstance(body, CloseBody):
            exchange.closing = True
        if exchange.waits_to_send:
            exchange.closing = True  # whether the body still comes, only the client knows (RFC 9110 §10.1.1)
        fields = rewriting.begin(exchange, head, empty=body.done)
        if fields is None:
            return b""
        return build_response(head.status, exchange.echo.text(head.reason), self._framed(exchange, head, fields))

    @staticmethod
    def _framed(exchange: Exchange, head: ResponseHead, fields: Listed) -> Listed:
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
        content = rewriting.piece(exchange, body.read(self._buffer), last=body.done)
        if exchange.masked_whole:
            content = _masked(exchange) if body.done else b""
        elif isinstance(body, ChunkedBody) and exchange.head.minor:
            content = build_chunk(content) if content else b""
            if body.done:
                content += build_last_chunk(tuple(rewriting.trailer(exchange, body.trailers)))
        if body.done:
            exchange.answered = True
            if self._buffer:
                raise RemoteWireError("the target sent more than its response", "502")
        return content

    @staticmethod
    def ended(exchange: Exchange | None) -> bytes | None:
        """Return what the client still gets when the target's connection ends; None if that cuts a response short.

        Raises:
            RemoteWireError: it cannot be masked.
        """
        if exchange is None or exchange.answered or not isinstance(exchange.response_body, CloseBody):
            return None
        rest = rewriting.piece(exchange, b"", last=True)
        return _masked(exchange) if exchange.masked_whole else rest


def _masked(exchange: Exchange) -> bytes:
    assert exchange.masking is not None
    assert exchange.response is not None
    fields, body = rewriting.whole(exchange, exchange.masking)
    if exchange.closing:
        fields.append(("Connection", "close"))
    reason = exchange.masking.text(exchange.echo.text(exchange.response.reason))
    return build_response(exchange.response.status, reason, fields) + body
