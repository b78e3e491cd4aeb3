"""A question of our own to the target, asked before a request goes on: what would come of it? Its answer is looked at here and goes no further."""

from __future__ import annotations

from typing import Final

from hostagent.model.errors import RemoteWireError
from hostagent.wire.http1.body import Body, CloseBody, response_body
from hostagent.wire.http1.head import ResponseHead, parse_response, take_head, tokens

MOST: Final = 4_194_304
"""Longest answer, in bytes."""
_SWITCHING: Final = 101


class Question:
    """One question under way. ``status`` and ``content`` are its answer once it is ``done``."""

    def __init__(self, method: str) -> None:
        """``method`` is that of the request by which it was asked."""
        self._method = method
        self._buffer = bytearray()
        self._body: Body | None = None
        self._parts = bytearray()
        self.status = 0
        self.done = False

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._buffer) + len(self._parts)

    @property
    def content(self) -> bytes:
        """The body of the answer."""
        return bytes(self._parts)

    def feed(self, data: bytes) -> None:
        """Take in what the target sends.

        Raises:
            RemoteWireError: malformed, too long, or the end of the connection with it, so that nothing could be asked any more.
        """
        self._buffer += data
        while self._body is None:
            raw = take_head(self._buffer)
            if raw is None:
                return
            self._head(parse_response(raw))
        self._parts += self._body.read(self._buffer)
        if len(self._parts) > MOST:
            raise RemoteWireError("the target's answer to a dry run is too long to be looked at", "502")
        self.done = self._body.done
        if self.done and self._buffer:
            raise RemoteWireError("the target sent more than its response", "502")

    def _head(self, head: ResponseHead) -> None:
        if head.status == _SWITCHING:
            raise RemoteWireError("the target wants to change the protocol", "502")
        if head.status < 200:
            return
        self.status = head.status
        self._body = response_body(head, self._method)
        if isinstance(self._body, CloseBody) or "close" in tokens(head.values("connection")) or not head.minor:
            raise RemoteWireError("the target ends the connection with its answer to a dry run", "502")
