"""What the two halves of a session share: requests that wait for an answer, names, and where the two streams stand."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from hostagent.inspectors.ports import CopyPlan, Denial, Desk, Masking, Outcome, Ruling, Shape, Trace
from hostagent.inspectors.postgres.names import Names, Portal, Prepared, Undo
from hostagent.inspectors.postgres.subjects import Subjects
from hostagent.model.command import Command, Forward
from hostagent.model.flow import Side


class Kind(IntEnum):
    """What was sent and waits for the server's answer."""

    QUERY = 1
    PARSE = 2
    BIND = 3
    DESCRIBE_STATEMENT = 4
    DESCRIBE_PORTAL = 5
    EXECUTE = 6
    CLOSE = 7
    SYNC = 8
    CALL = 9
    COPY_END = 10  # CopyDone or CopyFail sent before the server said that it wants the data; has no answer of its own


# Kinds that end with ReadyForQuery. The others belong to the extended protocol: after an error the server skips to Sync.
READY_KINDS: Final = frozenset({Kind.QUERY, Kind.SYNC, Kind.CALL})


class Entry:
    """One outstanding request.

    ``traces`` are the recorded statements still without a result, in order; ``done`` counts those that have one.
    ``denial`` marks a request that we replaced by one the server rejects; ``silent`` one that the client did not send; ``streaming`` that copy data
    is coming.
    """

    __slots__ = (
        "copy",
        "denial",
        "done",
        "kind",
        "portal",
        "prepared",
        "ruling",
        "segment",
        "shape",
        "silent",
        "streaming",
        "traces",
        "undo",
    )

    def __init__(self, kind: Kind, segment: int = 0, ruling: Ruling | None = None) -> None:
        """Start unanswered."""
        self.kind = kind
        self.segment = segment
        self.ruling = ruling
        self.traces: Sequence[Trace] = ()
        self.done = 0
        self.denial: Denial | None = None
        self.silent = False
        self.streaming = False
        self.undo: Undo | None = None
        self.portal: Portal | None = None
        self.prepared: Prepared | None = None
        self.shape: Shape | None = None
        self.copy: CopyPlan | None = None


class Conversation:
    """The shared state of one session after start-up.

    ``discarding``: the server has failed (or is sure to) and skips everything up to the next Sync. ``copying_in``: the
    server reads copy data. ``segment`` counts Syncs, Queries and FunctionCalls sent before now. ``partial`` is how many bytes of a
    message that is already on its way to the client are still to come, so that nothing may be put in between.
    """

    __slots__ = (
        "asides",
        "copying_in",
        "desk",
        "discarding",
        "masking",
        "names",
        "over",
        "partial",
        "queue",
        "segment",
        "status",
        "subjects",
    )

    def __init__(self, desk: Desk, subjects: Subjects) -> None:
        """Start idle."""
        self.desk = desk
        self.subjects = subjects
        self.names = Names()
        self.queue: deque[Entry] = deque()
        self.asides: list[bytes] = []
        self.masking: Masking | None = None
        self.copying_in = False
        self.discarding = False
        self.over = False
        self.partial = 0
        self.segment = 0
        self.status = b"I"

    def aside(self, message: bytes, out: list[Command]) -> None:
        """Send ``message`` to the client as soon as no other message is half sent."""
        if self.partial:
            self.asides.append(message)
        else:
            out.append(Forward(Side.CLIENT, message))

    def drop(self, entry: Entry, now: float, out: list[Command]) -> None:
        """The server skips ``entry``: nothing of it happened."""
        self.take_back(entry)
        self.abort(entry, now, out)

    def take_back(self, entry: Entry, done: int = 0) -> None:
        """Take back the changes of names by the statements of ``entry`` from position ``done`` on."""
        if entry.undo:
            self.names.take_back(entry.undo, done)

    def abort(self, entry: Entry, now: float, out: list[Command], outcome: str = "aborted") -> None:
        """Record that the statements of ``entry`` that have no result will not get one."""
        for trace in entry.traces[entry.done :]:
            self.desk.shut(trace, Outcome(outcome), now, out)
        entry.done = len(entry.traces)

    def finish(self, now: float, out: list[Command]) -> None:
        """The session is over: give every open statement its end."""
        self.over = True
        while self.queue:
            self.abort(self.queue.popleft(), now, out)
