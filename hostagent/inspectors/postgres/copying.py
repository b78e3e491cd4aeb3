"""COPY as a file's transfer: which one it is, and what of it has passed (PostgreSQL 17 §53.2.6).

What is counted and hashed is the stream itself, without the frames of its messages: what a client writes to, or reads from, a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from hostagent.inspectors.judged import Ruling, Trace
from hostagent.inspectors.ports import CopyPlan, Denial, Desk, Outcome
from hostagent.inspectors.postgres.conversation import Conversation, Entry, Kind
from hostagent.inspectors.transfers import LimitPassedError, Meter
from hostagent.model.command import Command
from hostagent.model.errors import RemoteWireError
from hostagent.model.transfer import Direction, Transfer
from hostagent.wire.postgres.frontend import build_copy_data, build_copy_fail
from hostagent.wire.postgres.messages import HEADER, HEADER_SIZE

_MOST_BETWEEN: Final = 100
"""Most messages without an answer between a request and copy data for it: clients send a Sync or a Flush."""
_REQUESTS: Final = frozenset({Kind.QUERY, Kind.EXECUTE, Kind.ROUND})


def begun(entry: Entry, direction: Direction) -> Meter:
    """Return what counts the COPY of ``entry`` that is running; one that nobody could foresee is one without a name."""
    if entry.meter is None:
        ruling, transfer = entry.ruling, None
        if ruling is not None and entry.done < len(ruling.operations):
            transfer = ruling.operations[entry.done].transfer
        entry.meter = _meter(ruling, transfer or Transfer(direction))
        entry.meter.masked = direction is Direction.DOWNLOAD and ruling is not None and ruling.masking is not None
        if entry.done < len(entry.traces):
            entry.meter.statement = entry.traces[entry.done].statement
    return entry.meter


def _meter(ruling: Ruling | None, transfer: Transfer) -> Meter:
    if ruling is None:
        return Meter(transfer, rules=(), policy="")
    verdict = ruling.verdict
    return Meter(transfer, rules=verdict.rules, policy=verdict.policy, limit=verdict.limit)


def denied(desk: Desk, ruling: Ruling, traces: Sequence[Trace], denial: Denial, now: float, out: list[Command]) -> None:
    """Record the transfers that ``ruling`` does not let begin."""
    for operation, trace in zip(ruling.operations, traces, strict=False):
        if operation.transfer is not None:
            meter = _meter(ruling, operation.transfer)
            meter.statement = trace.statement
            desk.moved(meter, "denied", now, out, reason=denial.message)


def settled(desk: Desk, entry: Entry, outcome: Outcome, now: float, out: list[Command]) -> None:
    """The statement of ``entry`` that was running is over, and with it its COPY."""
    meter, entry.meter, entry.failed = entry.meter, None, False
    if meter is not None and outcome.outcome == "ok":
        desk.moved(meter, "finished", now, out)
    elif meter is not None:
        desk.moved(meter, "cut", now, out, reason=outcome.message)


def masked(plan: CopyPlan, entry: Entry, trace: Trace | None, buffer: bytes, offset: int, stop: int) -> bytes:
    """Return the masked form of the messages of copy data from ``offset`` to ``stop``, counted as the client gets it."""
    meter = begun(entry, Direction.DOWNLOAD)
    if trace is not None:
        trace.size += stop - offset
    parts = []
    while offset < stop:
        length = HEADER(buffer, offset)[1]
        found = plan.feed(buffer[offset + HEADER_SIZE : offset + 1 + length])
        if found:
            meter.take(found)
            parts.append(build_copy_data(found))
        offset += length + 1
    return b"".join(parts)


class Uploads:
    """What the client sends to a COPY FROM STDIN, on the way to the server."""

    def __init__(self, conversation: Conversation) -> None:
        """Nothing is copied yet."""
        self._talk = conversation

    def content(self, buffer: bytes, start: int, stop: int) -> bytes | None:
        """Count a message of copy data; return what to send instead of it, None for itself.

        One that belongs to no COPY is dropped, as the server would. Beyond what a rule lets pass the server gets, instead of the rest,
        word that the copy failed, so that it takes back what it had read.
        """
        entry = self._entry()
        if entry is None or entry.failed:
            return b""
        try:
            begun(entry, Direction.UPLOAD).take(buffer[start:stop])
        except LimitPassedError as error:
            entry.failed = True
            return build_copy_fail(f"hostagent: {error}".encode())
        return None

    def end(self) -> bytes | None:
        """The client says that it has sent all, or that it gives up: return what to send instead of that, None for itself."""
        entry = self._entry()
        return b"" if entry is not None and entry.failed else None

    def _entry(self) -> Entry | None:
        """Return the request that copy data sent now belongs to: the one that the server reads it for, or is about to.

        Raises:
            RemoteWireError: so much was asked since then that nobody means it.
        """
        talk = self._talk
        if talk.copying_in:
            return talk.queue[0] if talk.queue else None
        for entry in islice(reversed(talk.queue), _MOST_BETWEEN):
            if entry.kind in _REQUESTS:
                return entry if _takes(entry) else None
        if len(talk.queue) > _MOST_BETWEEN:  # each message of copy data would be looked at with all of them
            raise RemoteWireError(f"copy data behind more than {_MOST_BETWEEN} messages that the server has not answered and that copy nothing")
        return None


def _takes(entry: Entry) -> bool:
    if entry.denial is not None or entry.ruling is None:
        return False
    return any(each.copy is not None and each.copy.direction == "in" for each in entry.ruling.statements[entry.done :])
