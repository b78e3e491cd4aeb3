"""What the two halves of a session share: requests that wait for an answer, names, and where the two streams stand."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from hostagent.inspectors.judged import Ruling, Trace
from hostagent.inspectors.ports import CopyPlan, Denial, Desk, Masking, Outcome, Shape
from hostagent.inspectors.postgres.names import Change, Names, Portal, Prepared, Undo
from hostagent.inspectors.postgres.subjects import Subjects
from hostagent.inspectors.transfers import Meter
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
    ROUND = 11  # Bind, Describe, Execute of the unnamed portal and Sync, as one: see ``Conversation.expand``


# Kinds that end with ReadyForQuery. The others belong to the extended protocol: after an error the server skips to Sync.
READY_KINDS: Final = frozenset({Kind.QUERY, Kind.SYNC, Kind.CALL})


def joined(parts: list[bytes], buffer: bytes, start: int, stop: int) -> bytes:
    """Return ``parts`` and what follows them as it came: ``buffer`` from ``start`` to ``stop``, all of it without a copy."""
    if not parts:
        return buffer if not start and stop >= len(buffer) else buffer[start:stop]
    if stop > start:
        parts.append(buffer[start:stop])
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Entry:
    """One outstanding request.

    ``traces`` are the recorded statements still without a result, in order; ``done`` counts those that have one.
    ``denial`` marks a request that we replaced by one the server rejects; ``silent`` one that the client did not send; ``streaming`` that copy data
    is coming, and ``meter`` counts it in either direction; ``failed``: no more of it may pass. ``replaced`` is the unnamed portal that a ROUND's own took the place of.
    """

    # Class attributes stand in until one is set: most entries set three, and one is made per message.
    traces: Sequence[Trace] = ()
    done = 0
    denial: Denial | None = None
    silent = False
    streaming = False
    undo: Undo | None = None
    portal: Portal | None = None
    replaced: Portal | None = None
    prepared: Prepared | None = None
    shape: Shape | None = None
    copy: CopyPlan | None = None
    meter: Meter | None = None
    failed = False

    def __init__(self, kind: Kind, segment: int = 0, ruling: Ruling | None = None) -> None:
        """Start unanswered."""
        self.kind = kind
        self.segment = segment
        self.ruling = ruling


class Conversation:
    """The shared state of one session after start-up.

    ``discarding``: the server has failed (or is sure to) and skips everything up to the next Sync. ``copying_in``: the
    server reads copy data. ``segment`` counts Syncs, Queries and FunctionCalls sent before now. ``partial`` is how many bytes of a
    message that is already on its way to the client are still to come, so that nothing may be put in between. ``exposed`` is
    how far any statement of the open transaction can show masked data: what its end says may be about any of them.
    ``redefined``: a statement of it may have changed the schema.
    """

    __slots__ = (
        "asides",
        "copying_in",
        "desk",
        "discarding",
        "exposed",
        "masking",
        "names",
        "over",
        "partial",
        "queue",
        "redefined",
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
        self.exposed = 0
        self.over = False
        self.partial = 0
        self.redefined = False
        self.segment = 0
        self.status = b"I"

    def aside(self, message: bytes, out: list[Command]) -> None:
        """Send ``message`` to the client as soon as no other message is half sent."""
        if self.partial:
            self.asides.append(message)
        else:
            out.append(Forward(Side.CLIENT, message))

    def expand(self) -> None:
        """Put the four requests that each ROUND stands for in its place.

        A ROUND is what drivers send for every prepared statement. While all goes well it is judged, answered and recorded
        as one; whatever is not the plain good case is left to the requests themselves, of which it is only a short form.
        """
        if not any(entry.kind is Kind.ROUND for entry in self.queue):
            return
        entries = list(self.queue)
        self.queue.clear()
        for entry in entries:
            self.queue.extend(self._four(entry) if entry.kind is Kind.ROUND else (entry,))

    def _four(self, entry: Entry) -> tuple[Entry, Entry, Entry, Entry]:
        bind = Entry(Kind.BIND, entry.segment, entry.ruling)
        bind.undo = [Change(self.names.portals, b"", entry.portal, previous=entry.replaced)]
        describe = Entry(Kind.DESCRIBE_PORTAL, entry.segment, entry.ruling)
        execute = Entry(Kind.EXECUTE, entry.segment, entry.ruling)
        execute.traces = entry.traces
        execute.meter, execute.failed = entry.meter, entry.failed  # copy data that did not wait for the server's word
        describe.portal = execute.portal = entry.portal
        return bind, describe, execute, Entry(Kind.SYNC, entry.segment)

    def rewind(self, failed: Entry, done: int, skipped: Sequence[Entry], *, certain: bool) -> None:
        """Take back what ``failed`` changed of names from statement ``done`` on, and all that ``skipped`` changed.

        ``failed`` and ``skipped`` have left the queue or are its head; what waits there was sent later and still stands, so
        it is undone first and made anew last. ``certain`` is False when statement ``done`` may have happened all the same.
        """
        gone = [change for entry in skipped for change in entry.undo or ()]
        own = failed.undo or ()
        waiting = [change.lifted() for change in self._next(failed, {change.key: change for change in (*own, *gone)})]
        for change in reversed(gone):
            change.take_back()
        for change in reversed(own):
            if change.position > done or (change.position == done and certain):
                change.take_back()
            elif change.position == done:
                change.doubt()
        for change, value in waiting:
            change.put_back(value)

    def _next(self, failed: Entry, last: dict[tuple[int, bytes], Change]) -> list[Change]:
        """Return for each name whose ``last`` change is to be taken back the first change that was sent later and still stands, if there is one.

        Between changes of different names there is no order, and what follows the first one of a name does not depend on what was before it.
        """
        sought = {key for key, change in last.items() if not change.stands}
        found: list[Change] = []
        for entry in self.queue if sought else ():
            if entry is failed:
                continue
            for change in entry.undo or ():
                if change.key in sought:
                    sought.remove(change.key)
                    found.append(change)
            if not sought:
                break
        return found

    def abort(self, entry: Entry, now: float, out: list[Command], outcome: str = "aborted") -> None:
        """Record that the statements of ``entry`` that have no result will not get one."""
        if entry.meter is not None:
            self.desk.moved(entry.meter, "cut", now, out, reason="it was not carried to its end")
        for trace in entry.traces[entry.done :]:
            self.desk.shut(trace, Outcome(outcome), now, out)
        entry.done = len(entry.traces)

    def finish(self, now: float, out: list[Command]) -> None:
        """The session is over: give every open statement its end."""
        self.over = True
        while self.queue:
            self.abort(self.queue.popleft(), now, out)
        self.names.statements.clear()
        self.names.portals.clear()
        self.subjects.forget()
