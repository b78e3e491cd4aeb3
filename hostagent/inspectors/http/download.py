"""A response that is a file: judged once more now that it is known to be one, then counted as it passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hostagent.inspectors.http import problem
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.problem import Problem
from hostagent.inspectors.http.request import shown
from hostagent.inspectors.http.transfers import LEAST, plain, received
from hostagent.inspectors.judged import Ruling, Subject
from hostagent.inspectors.transfers import Meter
from hostagent.model.errors import RemoteWireError
from hostagent.model.operation import Operation
from hostagent.model.transfer import Transfer, TransferLimit
from hostagent.model.verdict import Decision, Verdict
from hostagent.wire.http1.head import ResponseHead

_ENDLESS: Final = ("text/event-stream", "application/grpc")


class NotToComeError(RemoteWireError):
    """Policy does not let this response pass. ``problem`` is what the client is told instead."""

    def __init__(self, told: Problem) -> None:
        """Say why."""
        super().__init__(str(told[1]["reason"]), str(told[0]))
        self.problem = told


def begin(exchange: Exchange, head: ResponseHead, *, empty: bool) -> None:
    """Judge and begin to count what comes behind the ``head`` of a response.

    Raises:
        NotToComeError: it is a file that policy does not let pass.
    """
    ruling = exchange.ruling
    assert ruling is not None
    if empty:
        return
    asked = ruling.operations[0]
    if not ruling.verdict.reads_transfer and plain(asked, head, exchange.request.location):
        return
    transfer = received(asked, head, exchange.request.location)
    verdict, limit = ruling.verdict, None
    if verdict.reads_transfer:
        try:
            verdict, limit = _judged(exchange, ruling, transfer, asked, success=head.status < 300)
        except NotToComeError:
            exchange.download = _meter(exchange, head, transfer, verdict, None, least=-1) if transfer.certain else None
            raise
    if not transfer.certain and (transfer.size is not None or exchange.request.by_line or any((transfer.media_types or ("",))[0].startswith(each) for each in _ENDLESS)):
        return
    exchange.download = _meter(exchange, head, replace(transfer, certain=True), verdict, limit, least=-1 if transfer.certain else LEAST)
    if verdict.decision is Decision.DENY and transfer.certain:
        raise NotToComeError(problem.denied(verdict))


def _meter(exchange: Exchange, head: ResponseHead, transfer: Transfer, verdict: Verdict, limit: TransferLimit | None, *, least: int) -> Meter:
    coding, part = ", ".join(head.values("content-encoding")), ", ".join(head.values("content-range"))
    meter = Meter(transfer, rules=verdict.rules, policy=verdict.policy, limit=limit, coding=coding, part=part, least=least)
    meter.masked = exchange.masking is not None
    if exchange.trace is not None:
        meter.statement = exchange.trace.statement
    return meter


def _judged(
    exchange: Exchange, before: Ruling, transfer: Transfer, asked: Operation, *, success: bool
) -> tuple[Verdict, TransferLimit | None]:
    """Return the verdict on the request now that its answer is known, and how much of the answer may pass.

    An answer that may yet turn out to be a file, if it gets longer than a message, is cut there if the file is not to pass.

    Raises:
        NotToComeError: what was let through is a file's transfer, and this is none.
    """
    if transfer.certain:
        verdict = _ruled(exchange, replace(asked, transfer=transfer))
        if verdict.decision is Decision.HOLD and not (before.verdict.decision is Decision.HOLD and verdict.hold == before.verdict.hold):
            _ask(exchange, replace(asked, transfer=transfer), transfer)
        return verdict, verdict.limit
    if success and (verdict := _ruled(exchange, replace(asked, transfer=None))).decision is Decision.DENY:
        raise NotToComeError(problem.denied(verdict))
    if transfer.size is not None:
        return before.verdict, None
    verdict = _ruled(exchange, replace(asked, transfer=replace(transfer, certain=True)))
    if verdict.decision is not Decision.ALLOW:
        return before.verdict, TransferLimit(verdict.rules[0] if verdict.rules else "default", LEAST)
    limit = verdict.limit
    return verdict, None if limit is None else replace(limit, size=max(limit.size, LEAST))


def _ruled(exchange: Exchange, asked: Operation) -> Verdict:
    """Return the verdict on ``asked``, and mask by it what was not to be masked before."""
    ruling = exchange.desk.rule(Subject(b"", (), (asked,)), asked.parameters)
    if exchange.masking is None:
        exchange.masking = ruling.masking
    return ruling.verdict


def _ask(exchange: Exchange, asked: Operation, transfer: Transfer) -> None:
    """Put a file that came before a person: it cannot wait, so that whoever asks for the same again once that is approved gets it.

    Raises:
        NotToComeError: nobody has approved it yet.
    """
    text, _ = shown(asked, exchange.request.own, b"")
    size = "of unknown size" if transfer.size is None else f"of {transfer.size} bytes"
    whole = replace(asked, text=f"{text}\n\n[answered with the file {', '.join(transfer.names or ())!r}, {', '.join(transfer.media_types or ())}, {size}]")
    ruling = exchange.desk.rule(Subject(b"", (), (asked,)), asked.parameters)
    assert exchange.asks is not None
    refused = exchange.asks(ruling, whole)
    if refused is not None:
        raise NotToComeError(refused)
