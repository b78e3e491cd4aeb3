"""The plain good case as one step: what drivers send for nearly every statement, and what servers nearly always answer.

The two halves walk message by message and can follow anything. Most of what they meet is one of two conversations::

    Query                                       RowDescription DataRow* CommandComplete ReadyForQuery
    Bind Describe Execute Sync (all unnamed)    BindComplete RowDescription DataRow* CommandComplete ReadyForQuery

each in one piece, allowed by a ruling that is still good, with rows that pass as they are. Here they are taken whole, with
the records and the state that the halves would have left. Whatever is not exactly that is not touched: the methods then say
so before anything has changed, and the halves do their work (``Conversation.expand``).
"""

from __future__ import annotations

from typing import Final, final

from hostagent.inspectors.judged import Ruling
from hostagent.inspectors.ports import Outcome, Shape
from hostagent.inspectors.postgres.conversation import Conversation, Entry, Kind
from hostagent.inspectors.postgres.names import Portal, key_of
from hostagent.inspectors.postgres.parameters import decode_all
from hostagent.model.command import Command
from hostagent.model.errors import RemoteWireError
from hostagent.model.verdict import Decision
from hostagent.wire.postgres.backend import BIND_COMPLETE, parse_command_complete
from hostagent.wire.postgres.frontend import SYNC, Execute, Named, build_describe, build_execute, parse_bound
from hostagent.wire.postgres.messages import COMPILED, HEADER_SIZE, SERVER_CAPS, Server, header, run_end

TAIL: Final = build_describe(Named(b"P", b"")) + build_execute(Execute(b"", 0)) + SYNC
"""What follows the Bind of a round."""

_ALLOW: Final = Decision.ALLOW
_ROUND: Final = Kind.ROUND
_QUERY: Final = Kind.QUERY
_ROW: Final = Server.DATA_ROW
_ROW_CAP: Final = SERVER_CAPS[_ROW]
_COMPLETE: Final = Server.COMMAND_COMPLETE
_COMPLETE_CAP: Final = SERVER_CAPS[_COMPLETE]
_READY: Final = {b"Z\0\0\0\x05" + status: status for status in (b"I", b"T", b"E")}
_READY_SIZE: Final = 6
_BOUND_SIZE: Final = len(BIND_COMPLETE)
_OUTCOMES: Final = 256
_SHORT_END: Final = 64
_UNNAMED: Final = b""
_NULL: Final = b"\xff\xff\xff\xff"


@final
class Answer:
    """What answers under one ruling begin with: a RowDescription (``message``, its ``body``) that passes, as do its rows."""

    __slots__ = ("body", "message", "shape")

    def __init__(self, message: bytes, shape: Shape) -> None:
        """Keep the parts."""
        self.message = message
        self.body = message[HEADER_SIZE:]
        self.shape = shape


@final
class _Ended:
    """What CommandComplete and ReadyForQuery say, in ``size`` bytes."""

    __slots__ = ("outcome", "size", "status")

    def __init__(self, outcome: Outcome, status: bytes, size: int) -> None:
        self.outcome = outcome
        self.status = status
        self.size = size


def learn(ruling: Ruling | None, message: bytes, shape: Shape) -> None:
    """Remember that ``message`` is the RowDescription under ``ruling``, if nothing has to be done to its rows."""
    if ruling is None or ruling.defines or shape.message is not None or shape.plan is not None or shape.unknown:
        return
    ruling.answer = Answer(message, shape)


def name_end(body: bytes, start: int) -> int:
    """Return where the string that begins at ``start`` has its NUL, -1: nowhere."""
    if not COMPILED:
        return body.find(b"\0", start)
    for at in range(start, len(body)):
        if not body[at]:
            return at
    return -1


def exact(text: bytes, values: tuple[bytes | None, ...]) -> list[bytes]:
    """Return everything that fixes what running ``text`` with ``values`` does, for the keyed digest."""
    parts = [text]
    parts += [_NULL if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return parts


class Rounds:
    """Takes the plain good case of one session."""

    __slots__ = ("_desk", "_ended", "_talk")

    def __init__(self, talk: Conversation) -> None:
        """Share the state of the two halves."""
        self._talk = talk
        self._desk = talk.desk
        self._ended: dict[bytes, _Ended] = {}

    def ask(self, body: bytes, epoch: object, now: float, out: list[Command]) -> bool:
        """Take a Bind of ``body`` with ``TAIL`` behind it. False: it is not the plain case, nothing has changed.

        Raises:
            RemoteWireError: the Bind is malformed.
        """
        talk = self._talk
        names = talk.names
        if not body or body[0] or talk.copying_in or talk.discarding:
            return False
        stop = name_end(body, 1)
        if stop < 0:
            return False
        prepared = names.statements.get(key_of(body[1:stop]))
        if prepared is None:
            return False
        subject = prepared.subject
        ruling = subject.ruling
        if ruling is None or ruling.epoch is not epoch or ruling.verdict.decision is not _ALLOW:
            return False
        if not subject.plain or subject.refusal:
            return False
        bound = parse_bound(body, stop + 1)
        entry = Entry(_ROUND, talk.segment, ruling)
        portal = Portal(prepared, talk.segment, bound.values, bound.formats)
        portal.described = True
        shown = decode_all(bound.values, prepared.types, bound.formats)
        # What ``exact`` would make of the values is just what came.
        entry.traces = self._desk.open(ruling, (subject.text, bound.raw), shown, now, out)
        entry.portal = portal
        entry.replaced = names.portals.get(_UNNAMED)
        names.portals[_UNNAMED] = portal
        talk.segment += 1
        talk.queue.append(entry)
        return True

    def answers(self, buffer: bytes, offset: int, end: int, enough: int, now: float, out: list[Command]) -> int:
        """Take whole answers from ``offset`` while they are the plain case and begin before ``enough``; return the offset after them."""
        queue = self._talk.queue
        while queue and offset < end and offset < enough:
            stop = self._answer(queue[0], buffer, offset, end, now, out)
            if not stop:
                break
            offset = stop
        return offset

    def _answer(self, entry: Entry, buffer: bytes, offset: int, end: int, now: float, out: list[Command]) -> int:
        """Take the answer to ``entry`` that begins at ``offset``; return the offset after it, 0: it is not the plain case."""
        ruling = entry.ruling
        if entry.kind is _ROUND:
            if buffer[offset : offset + _BOUND_SIZE] != BIND_COMPLETE:  # quicker compiled than startswith
                return 0
            offset += _BOUND_SIZE
        elif entry.kind is not _QUERY or entry.denial is not None or entry.done or entry.shape is not None or entry.streaming:
            return 0
        if ruling is None or len(entry.traces) != 1 or self._talk.redefined:
            return 0
        known = ruling.answer
        if not isinstance(known, Answer):
            return 0
        rows = offset + len(known.message)
        if buffer[offset:rows] != known.message:
            return 0
        try:
            stop, count = run_end(buffer, rows, end, _ROW, _ROW_CAP)
        except RemoteWireError:
            return 0
        ended = self._ended.get(buffer[stop:end]) if end - stop <= _SHORT_END else None
        if ended is None:
            ended = self._end(buffer, stop, end)
            if ended is None:
                return 0
        trace = entry.traces[0]
        trace.rows = count
        trace.size = stop - rows
        trace.columns = known.shape.columns
        self._finish(entry, ruling, known, ended.status)
        self._desk.shut(trace, ended.outcome, now, out)
        entry.done = 1
        return stop + ended.size

    def _end(self, buffer: bytes, offset: int, end: int) -> _Ended | None:
        """Return what CommandComplete and ReadyForQuery at ``offset`` say, None if they are not there. What is short is remembered."""
        outcome, ready = self._completed(buffer, offset, end)
        stop = ready + _READY_SIZE
        status = _READY.get(buffer[ready:stop])
        if outcome is None or status is None or stop > end:
            return None
        ended = _Ended(outcome, status, stop - offset)
        if stop - offset <= _SHORT_END:
            if len(self._ended) >= _OUTCOMES:
                self._ended.clear()
            self._ended[buffer[offset:stop]] = ended
        return ended

    def _completed(self, buffer: bytes, offset: int, end: int) -> tuple[Outcome | None, int]:
        """Return what the CommandComplete at ``offset`` says, None if it is not one, and the offset after it."""
        if end - offset < HEADER_SIZE:
            return None, offset
        kind, length = header(buffer, offset)
        stop = offset + length + 1
        if kind != _COMPLETE or length - 4 > _COMPLETE_CAP or stop > end:
            return None, offset
        body = buffer[offset + HEADER_SIZE : stop]
        if body.find(b"\0") != len(body) - 1:
            return None, offset
        return Outcome("ok", parse_command_complete(body)), stop

    def _finish(self, entry: Entry, ruling: Ruling, known: Answer, status: bytes) -> None:
        """Leave the session as the halves would after this answer."""
        talk = self._talk
        talk.queue.popleft()
        talk.copying_in = False
        talk.status = status
        if entry.portal is not None:
            entry.portal.description = known.body
        else:
            talk.masking = ruling.masking
        if status == b"I":
            talk.exposed = 0
            talk.names.transaction_ended(entry.segment)
        elif ruling.exposed:
            talk.exposed = max(talk.exposed, ruling.exposed)
        if ruling.exposed:
            talk.masking = ruling.masking
