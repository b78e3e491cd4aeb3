"""What an API that is spoken over HTTP adds to HTTP: what its requests mean, and how it says no. HTTP itself is one of them, and adds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hostagent.inspectors.http import problem
from hostagent.inspectors.http.content import read_content
from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.http.request import with_content
from hostagent.model.command import Command
from hostagent.model.operation import Content, Operation
from hostagent.model.verdict import Verdict

if TYPE_CHECKING:
    from hostagent.inspectors.http.exchange import Exchange
    from hostagent.inspectors.http.problem import Problem
    from hostagent.inspectors.http.reading import Request
    from hostagent.inspectors.http.tunnel import Tunnel


class Dialect:
    """An API over HTTP. What it does not say otherwise is as HTTP has it."""

    def understood(self, request: Request, *, empty: bool) -> Request:
        """Return ``request`` as this API means it; ``empty``: no body comes behind its head."""
        return request

    def read(self, request: Request, body: bytes) -> Content:
        """Return what ``body`` is to every server."""
        return read_content(request.own, body)

    def with_content(self, asked: Operation, content: Content, size: int | None = None) -> Operation:
        """Return ``asked`` with a body of ``size`` bytes (None: longer than was looked at), which was not known before."""
        return with_content(asked, content, size)

    def objection(self, request: Request, operation: Operation, verdict: Verdict) -> Problem | None:
        """Return why ``operation`` cannot pass though ``verdict`` would let it, None if it can."""
        return None

    def question(self, request: Request, operation: Operation) -> tuple[Operation, str] | None:
        """Return what ``operation`` is at its most harmless, and the request target that finds out; None if nothing is open."""
        return None

    def found(self, operation: Operation, status: int, body: bytes) -> Operation:
        """Return ``operation`` given the answer to that question."""
        return operation

    def refusal(self, request: Request, verdict: Verdict) -> str:
        """Return why no policy can let ``request`` pass, given what policy says of it all the same; empty if one could."""
        return request.refusal

    def upstream(self, request: Request, fields: Listed) -> Listed:
        """Return the workload's own ``fields`` of ``request`` as they go on."""
        return fields

    def tunnel(self, exchange: Exchange, out: list[Command]) -> Tunnel:
        """Return what judges the messages of a WebSocket that ``exchange`` opened."""
        from hostagent.inspectors.http.tunnel import Tunnel  # which knows of exchanges, and so of this

        return Tunnel(exchange, out)

    def written(self, refused: Problem, request: Request | None) -> tuple[str, bytes]:
        """Return the body that tells a client of a refusal, and its media type."""
        return problem.as_document(refused)


PLAIN = Dialect()
