"""The client's half of a PostgreSQL session after start-up: what it asks, judged message by message (PostgreSQL 17 §53.2).

A handler is given one complete message and returns ``None`` (pass it untouched), bytes to send instead (``b""``: nothing),
or ``HELD``: stop here, nothing from this message on is interpreted until the hold is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hostagent.inspectors.judged import Ruling, Subject, Trace
from hostagent.inspectors.ports import Denial, Outcome, Parameters
from hostagent.inspectors.postgres import refusals
from hostagent.inspectors.postgres.conversation import Conversation, Entry, Kind, joined
from hostagent.inspectors.postgres.copying import Uploads, denied
from hostagent.inspectors.postgres.names import RESERVED, Portal, Prepared, Undo, key_of
from hostagent.inspectors.postgres.parameters import decode_all
from hostagent.inspectors.postgres.rounds import TAIL, Rounds, exact
from hostagent.inspectors.postgres.subjects import NOT_ASCII, UnanalysedText, with_parameters
from hostagent.model.command import Analyse, Command, Forward
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.verdict import Decision
from hostagent.sql import Analysis
from hostagent.wire.buffer import ReceiveBuffer
from hostagent.wire.postgres.frontend import (
    Named,
    build_describe,
    parse_bind,
    parse_execute,
    parse_function_call,
    parse_named,
    parse_parse,
)
from hostagent.wire.postgres.messages import CLIENT_CAPS, HEADER, HEADER_SIZE, Client, header, refuse_frame

HELD: Final = object()
_BIND: Final = Client.BIND
_TAIL_SIZE: Final = len(TAIL)
_ALLOW: Final = Decision.ALLOW
_QUERY: Final = Kind.QUERY
_SERVER: Final = Side.SERVER
_DENY: Final = Decision.DENY
_RENAMED: Final = "the statement or cursor that this portal names was made anew after the portal was bound"
# How much a client may send on while its operation is held.
HOLD_BUFFER: Final = 1024 * 1024
_COPY_MESSAGES: Final = frozenset(
    {Client.COPY_DATA, Client.COPY_DONE, Client.COPY_FAIL, Client.FLUSH, Client.SYNC, Client.TERMINATE}
)


class Waiting:
    """A held operation: its ticket, the records already made of it, and the ruling that held it."""

    __slots__ = ("denial", "released", "ruling", "ticket", "traces")

    def __init__(self, ticket: str, ruling: Ruling, traces: list[Trace]) -> None:
        """Start unanswered."""
        self.ticket = ticket
        self.ruling = ruling
        self.traces = traces
        self.released = False
        self.denial: Denial | None = None


class ClientHalf:
    """Walks the client's stream."""

    def __init__(self, conversation: Conversation) -> None:
        """Start with nothing received."""
        self._talk = conversation
        self._desk = conversation.desk
        self._names = conversation.names
        self._subjects = conversation.subjects
        self._buffer = ReceiveBuffer()
        self._out: list[Command] = []
        self._epoch: object = None
        self._scanned = 0
        self._rounds = Rounds(conversation)
        self._uploads = Uploads(conversation)
        self.waiting: Waiting | None = None
        self.terminated = False
        self._unread: bytes | None = None
        self._handlers: Mapping[int, Callable[[bytes, int, int, float], object]] = {
            Client.QUERY: self._reading(self._query),
            Client.PARSE: self._reading(self._parse),
            Client.BIND: self._bind,
            Client.DESCRIBE: self._describe,
            Client.EXECUTE: self._execute,
            Client.CLOSE: self._close,
            Client.FLUSH: self._flush,
            Client.SYNC: self._sync,
            Client.FUNCTION_CALL: self._call,
            Client.COPY_DATA: self._copy_data,
            Client.COPY_DONE: self._copy_end,
            Client.COPY_FAIL: self._copy_end,
            Client.TERMINATE: self._terminate,
        }

    # -- the walk --------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes, now: float, out: list[Command]) -> None:
        """Judge what arrived; append what must be done to ``out``.

        Raises:
            RemoteWireError: the client broke the protocol; what it sent before that is already in ``out``.
        """
        if self.waiting is not None and not self.waiting.released:
            self._hoard(data)
            return
        if self._unread is not None:  # the rim was told to wait; whatever comes all the same stands behind
            self._buffer.keep(self._buffer.peek() + data, 0)
            return
        whole = self._buffer.push(data)
        if whole is not None:
            self._walk(whole, now, out)

    @property
    def buffered(self) -> int:
        """How many bytes are held back."""
        return len(self._buffer) + len(self._unread or b"")

    def forget(self) -> None:
        """Let go of what is held back: the session is over."""
        self._buffer.keep(b"", 0)
        self._unread = None

    def go_on(self, now: float, out: list[Command]) -> None:
        """Interpret what was held back, starting with the message that was held."""
        self._scanned = 0
        held = self._buffer.peek()
        self._buffer.keep(b"", 0)
        size = HEADER(held, 0)[1] + 1
        waiting = self.waiting
        self._walk(held[:size], now, out)
        if self._unread is not None:
            self._buffer.keep(held, 0)
            return
        if waiting is not None and self.waiting is waiting:  # it never ran: skipped after an error, or its name is gone
            self.waiting = None
            for trace in waiting.traces:
                self._desk.shut(trace, Outcome("aborted"), now, out)
        if held[size:]:
            self._walk(held[size:], now, out)

    def analysed(self, analysis: Analysis, now: float, out: list[Command]) -> None:
        """Go on with the message whose text means ``analysis``."""
        text, self._unread = self._unread, None
        if text is None:
            return
        self._subjects.learn(text, analysis)
        held = self._buffer.peek()
        self._buffer.keep(b"", 0)
        self._walk(held, now, out)

    def _reading(self, handler: Callable[[bytes, int, int, float], object]) -> Callable[[bytes, int, int, float], object]:
        """Return ``handler`` so that it stops the walk at a text that somebody else has to analyse first."""

        def handle(buffer: bytes, start: int, stop: int, now: float) -> object:
            try:
                return handler(buffer, start, stop, now)
            except UnanalysedText as unread:
                self._unread = unread.text
                return HELD

        return handle

    def _walk(self, buffer: bytes, now: float, out: list[Command]) -> None:
        self._out = out
        self._epoch = self._desk.current()  # once per chunk: nothing can change while we are in here
        end = len(buffer)
        offset = start = 0
        parts: list[bytes] = []
        handlers = self._handlers
        discardable = self._talk
        try:
            while end - offset >= HEADER_SIZE:
                kind, length = header(buffer, offset)
                if length < 4 or length - 4 > CLIENT_CAPS.get(kind, -1):
                    raise refuse_frame(kind, length, CLIENT_CAPS)
                stop = offset + length + 1
                if stop > end or self.terminated:
                    break
                if kind == _BIND and buffer[stop : stop + _TAIL_SIZE] == TAIL and self._round(buffer, offset, stop, now):
                    offset = stop + _TAIL_SIZE
                    continue
                if discardable.discarding and kind != Client.SYNC and kind != Client.TERMINATE:
                    done: object = b""
                else:
                    done = handlers[kind](buffer, offset + HEADER_SIZE, stop, now)
                if done is not None:
                    if offset > start:
                        parts.append(buffer[start:offset])
                    start = offset
                    if done is HELD:
                        break
                    start = stop
                    parts.append(done)  # type: ignore[arg-type]
                offset = stop
        finally:
            whole = joined(parts, buffer, start, offset)
            if whole:
                out.append(Forward(_SERVER, whole))
        if offset < end and not self.terminated:
            self._keep(buffer, offset)

    def _round(self, buffer: bytes, offset: int, stop: int, now: float) -> bool:
        """Take the Bind at ``offset`` and what follows as one, if it is the plain good case."""
        return self.waiting is None and self._rounds.ask(
            buffer[offset + HEADER_SIZE : stop], self._epoch, now, self._out
        )

    def _keep(self, buffer: bytes, offset: int) -> None:
        rest = buffer[offset:]
        if self._unread is not None:
            self._buffer.keep(rest, 0)
            self._out.append(Analyse(self._unread))
            return
        need = HEADER_SIZE
        if len(rest) >= HEADER_SIZE:
            need = HEADER(rest, 0)[1] + 1
        self._buffer.keep(rest, need)
        if self.waiting is not None and not self.waiting.released:
            self._scan()

    def _hoard(self, data: bytes) -> None:
        """Keep ``data`` unread behind the held message, but notice a client that leaves or sends without end."""
        held = self._buffer.peek() + data
        self._buffer.keep(held, 0)
        if len(held) > HOLD_BUFFER + CLIENT_CAPS[Client.BIND]:
            raise RemoteWireError("too much was sent while an operation is held", "53400")
        self._scan()

    def _scan(self) -> None:
        held = self._buffer.peek()
        offset = self._scanned
        first = True
        while len(held) - offset >= HEADER_SIZE:
            kind, length = HEADER(held, offset)
            if length < 4 or length - 4 > CLIENT_CAPS.get(kind, -1):
                raise refuse_frame(kind, length, CLIENT_CAPS)
            if kind == Client.TERMINATE:
                self.terminated = True
                return
            if offset + length + 1 > len(held):
                break
            offset += length + 1
            if first and not self._scanned:
                self._scanned = offset  # the held message itself does not count against the cap
                first = False
        if len(held) - self._scanned > HOLD_BUFFER:
            raise RemoteWireError("too much was sent while an operation is held", "53400")

    # -- judgement -------------------------------------------------------------------------------------------------------

    def _ruling(self, subject: Subject, parameters: Parameters = ()) -> Ruling:
        ruling = subject.ruling
        if ruling is None or ruling.epoch is not self._epoch:
            ruling = self._desk.rule(subject, parameters)
        return ruling

    def _judge(
        self, subject: Subject, exact: list[bytes], values: Parameters | None, now: float, types: tuple[int, ...] = ()
    ) -> tuple[Ruling, Denial | None, list[Trace]] | None:
        """Judge something that would run now, and record it. None: it is held."""
        ruling = self._ruling(subject, values or ())
        if ruling.verdict.decision is _ALLOW and not subject.refusal and self.waiting is None:
            return ruling, None, self._desk.open(ruling, exact, values, now, self._out)
        return self._judge_slowly(subject, ruling, exact, values, types, now)

    def _judge_slowly(
        self,
        subject: Subject,
        ruling: Ruling,
        exact: list[bytes],
        values: Parameters | None,
        types: tuple[int, ...],
        now: float,
    ) -> tuple[Ruling, Denial | None, list[Trace]] | None:
        waiting, self.waiting = self.waiting, None
        denial = refusals.forbidden(subject.refusal) if subject.refusal else None
        if denial is None and ruling.verdict.decision is _DENY:
            denial = refusals.denied(ruling.verdict)
        operations = self._subjects.set_before(with_parameters(ruling.operations, values or (), types))
        if waiting is not None:
            if waiting.denial is not None:
                denial = waiting.denial
            elif denial is None and not self._desk.unchanged(operations):
                denial = refusals.forbidden("the operation is not the one that was approved")
            if denial is not None:
                denied(self._desk, ruling, waiting.traces, denial, now, self._out)
            return ruling, denial, waiting.traces
        if denial is not None:
            refused = self._desk.open(ruling, exact, values, now, self._out, decision="deny")
            denied(self._desk, ruling, refused, denial, now, self._out)
            return ruling, denial, refused
        if ruling.verdict.decision is _ALLOW:
            return ruling, None, self._desk.open(ruling, exact, values, now, self._out)
        ticket = self._desk.ticket()
        traces = self._desk.open(ruling, exact, values, now, self._out, decision="hold", ticket=ticket)
        held = self._desk.hold(ticket, ruling, operations, traces[0].statement if traces else "", now, self._out)
        self.waiting = Waiting(held.ticket, ruling, traces)
        self._talk.aside(refusals.notice(held.notice), self._out)
        return None

    def _unjudged(self, denial: Denial, now: float) -> bytes:
        """Refuse an extended message that never was an operation."""
        self._desk.refusal(self._desk.scrub(denial.message), now, self._out)
        return self._poison(denial, None, [])

    def _poison(self, denial: Denial, ruling: Ruling | None, traces: list[Trace]) -> bytes:
        """Replace an extended message by one that fails; the server then skips to the next Sync, and so do we."""
        entry = Entry(Kind.PARSE, self._talk.segment, ruling)
        entry.denial = denial
        entry.traces = traces
        self._talk.queue.append(entry)
        self._talk.discarding = True
        return refusals.POISON_PARSE

    # -- simple protocol -------------------------------------------------------------------------------------------------

    def _query(self, buffer: bytes, start: int, stop: int, now: float) -> object:
        last = stop - 1
        if buffer.find(b"\0", start, stop) != last:
            raise RemoteWireError("invalid message format: Query is not one string")
        if self._talk.copying_in:
            raise RemoteWireError("unexpected Query during COPY from the client")
        text = buffer[start:last]
        subject = self._subjects.of(text)
        if not subject.plain or self.waiting is not None:
            subject = self._subjects.settle(self._subjects.exact(text), self._names)
        ruling = self._ruling(subject)
        if ruling.verdict.decision is not _ALLOW and subject.text != text:
            subject = self._subjects.exact(text)
        judged = self._judge(subject, [text], None, now)
        if judged is None:
            return HELD
        ruling, denial, traces = judged
        talk = self._talk
        entry = Entry(_QUERY, talk.segment, ruling)
        talk.segment += 1
        entry.traces = traces
        talk.queue.append(entry)
        if denial is not None:
            entry.denial = denial
            return refusals.POISON_QUERY
        # So does the server (postgres.c, exec_simple_query).
        entry.undo = self._names.drop_unnamed(empty=not subject.statements)
        if not subject.plain:
            self._rename(subject, entry)
        return None

    def _rename(self, subject: Subject, entry: Entry) -> None:
        """Make the changes of names that running ``subject`` makes."""
        undo: Undo = entry.undo or []
        for position, statement in enumerate(subject.statements):
            inner = statement if statement.inner is None else statement.inner
            stored = self._subjects.single(subject.text, inner)
            self._names.apply(statement, stored, entry.segment, undo, position)
        entry.undo = undo

    # -- extended protocol -----------------------------------------------------------------------------------------------

    def _check_copying(self) -> None:
        if self._talk.copying_in:
            raise RemoteWireError("unexpected message during COPY from the client")

    def _parse(self, buffer: bytes, start: int, stop: int, now: float) -> object:
        self._check_copying()
        message = parse_parse(buffer[start:stop])
        name = key_of(message.name)
        if name.startswith(RESERVED):
            return self._unjudged(refusals.forbidden("names that begin with 'hostagent:' are reserved"), now)
        if self._subjects.ascii_names and not name.isascii():
            return self._unjudged(refusals.forbidden(NOT_ASCII), now)
        subject = self._subjects.of(message.text)
        if subject.text != message.text:
            subject = self._subjects.exact(message.text)
        settled = subject if subject.plain else self._subjects.settle(subject, self._names)
        ruling = self._ruling(settled)
        verdict = ruling.verdict
        if subject.refusal or (verdict.decision is _DENY and verdict.cacheable):
            denial = refusals.forbidden(subject.refusal) if subject.refusal else refusals.denied(verdict)
            traces = self._desk.open(ruling, [message.text], None, now, self._out, decision="deny")
            return self._poison(denial, ruling, traces)
        entry = Entry(Kind.PARSE, self._talk.segment, ruling)
        prepared = Prepared(subject, message.types)
        entry.undo = self._names.set_statement(name, prepared, [])
        self._talk.queue.append(entry)
        return None

    def _bind(self, buffer: bytes, start: int, stop: int, now: float) -> object:
        self._check_copying()
        message = parse_bind(buffer[start:stop])
        name = key_of(message.portal)
        prepared = self._names.statements.get(key_of(message.statement))
        if prepared is None:
            return self._unjudged(refusals.unknown("prepared statement", message.statement), now)
        if name.startswith(RESERVED):
            return self._unjudged(refusals.forbidden("names that begin with 'hostagent:' are reserved"), now)
        if self._subjects.ascii_names and not name.isascii():
            return self._unjudged(refusals.forbidden(NOT_ASCII), now)
        entry = Entry(Kind.BIND, self._talk.segment)
        portal = Portal(prepared, self._talk.segment, message.values, message.formats)
        refused = self._refuse_bind(portal, now)
        if refused is not None:
            return refused
        entry.ruling = prepared.subject.ruling
        if not prepared.subject.plain:
            portal.named = self._subjects.named(prepared.subject, self._names)
        entry.undo = self._names.set_portal(name, portal, [])
        self._talk.queue.append(entry)
        return None

    def _refuse_bind(self, portal: Portal, now: float) -> bytes | None:
        """Deny at Bind what policy denies once it sees the values; otherwise Execute judges."""
        subject = portal.prepared.subject
        if not subject.plain:
            return None
        ruling = subject.ruling
        if ruling is not None and ruling.verdict.cacheable and ruling.epoch is self._epoch:
            return None
        values = decode_all(portal.values, portal.prepared.types, portal.formats)
        ruling = self._ruling(subject, values)
        if ruling.verdict.decision is not _DENY:
            return None
        traces = self._desk.open(ruling, exact(portal.prepared.subject.text, portal.values), values, now, self._out, decision="deny")
        return self._poison(refusals.denied(ruling.verdict), ruling, traces)

    def _describe(self, buffer: bytes, start: int, stop: int, now: float) -> object:
        self._check_copying()
        message = parse_named(buffer[start:stop])
        name = key_of(message.name)
        if message.kind == b"S":
            prepared = self._names.statements.get(name)
            if prepared is None:
                return self._unjudged(refusals.unknown("prepared statement", message.name), now)
            entry = Entry(Kind.DESCRIBE_STATEMENT, self._talk.segment)
            entry.prepared = prepared
            subject = prepared.subject
        else:
            portal = self._names.portals.get(name)
            if portal is None:
                return self._unjudged(refusals.unknown("portal", message.name), now)
            entry = Entry(Kind.DESCRIBE_PORTAL, self._talk.segment)
            entry.portal = portal
            portal.described = True
            subject = portal.prepared.subject
        entry.ruling = self._ruling(subject if subject.plain else self._subjects.settle(subject, self._names))
        self._talk.queue.append(entry)
        return None

    def _execute(self, buffer: bytes, start: int, stop: int, now: float) -> object:
        self._check_copying()
        body = buffer[start:stop]
        raw_name = parse_execute(body).portal
        portal = self._names.portals.get(key_of(raw_name))
        if portal is None:
            return self._unjudged(refusals.unknown("portal", raw_name), now)
        prepared = portal.prepared
        subject = prepared.subject
        if not subject.plain:
            if portal.named != self._subjects.named(subject, self._names):
                return self._unjudged(refusals.forbidden(_RENAMED), now)
            subject = self._subjects.settle(subject, self._names)
        values = decode_all(portal.values, prepared.types, portal.formats)
        judged = self._judge(subject, exact(portal.prepared.subject.text, portal.values), values, now, prepared.types)
        if judged is None:
            return HELD
        ruling, denial, traces = judged
        if denial is not None:
            return self._poison(denial, ruling, traces)
        talk = self._talk
        entry = Entry(Kind.EXECUTE, talk.segment, ruling)
        entry.traces = traces
        entry.portal = portal
        describe = b""
        if ruling.masking is not None and not portal.described and subject.rows:
            describe = self._describe_first(raw_name, portal, ruling)
        talk.queue.append(entry)
        if not subject.plain:
            self._rename(subject, entry)
        return describe + buffer[start - HEADER_SIZE : stop] if describe else None

    def _describe_first(self, name: bytes, portal: Portal, ruling: Ruling) -> bytes:
        """Ask for the shape that the client did not ask for; the server half swallows the answer."""
        entry = Entry(Kind.DESCRIBE_PORTAL, self._talk.segment, ruling)
        entry.portal = portal
        entry.silent = True
        portal.described = True
        self._talk.queue.append(entry)
        return build_describe(Named(b"P", name))

    def _close(self, buffer: bytes, start: int, stop: int, _now: float) -> object:
        self._check_copying()
        message = parse_named(buffer[start:stop])
        entry = Entry(Kind.CLOSE, self._talk.segment)
        if message.kind == b"S":
            entry.undo = self._names.set_statement(key_of(message.name), None, [])
        else:
            entry.undo = self._names.set_portal(key_of(message.name), None, [])
        self._talk.queue.append(entry)
        return None

    def _flush(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> object:
        return None

    def _sync(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> object:
        talk = self._talk
        if talk.copying_in:
            return b""  # a server that reads copy data ignores Sync; so it never answers this one
        talk.discarding = False
        talk.queue.append(Entry(Kind.SYNC, talk.segment))
        talk.segment += 1
        return None

    # -- the rest --------------------------------------------------------------------------------------------------------

    def _call(self, buffer: bytes, start: int, stop: int, now: float) -> object:
        self._check_copying()
        raw = buffer[start:stop]
        message = parse_function_call(raw)
        subject = self._subjects.call(message.oid, raw)
        values = decode_all(message.arguments, (), message.formats)
        if self._ruling(subject, values).masking is not None:
            subject.refusal = "the result of a FunctionCall cannot be masked"
        judged = self._judge(subject, [raw], values, now)
        if judged is None:
            return HELD
        ruling, denial, traces = judged
        talk = self._talk
        entry = Entry(Kind.CALL, talk.segment, ruling)
        talk.segment += 1
        entry.traces = traces
        entry.denial = denial
        talk.queue.append(entry)
        return None if denial is None else refusals.POISON_CALL

    def _copy_data(self, buffer: bytes, start: int, stop: int, _now: float) -> object:
        return self._uploads.content(buffer, start, stop)

    def _copy_end(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> object:
        talk = self._talk
        instead = self._uploads.end()
        if talk.copying_in:
            talk.copying_in = False
        elif talk.queue:
            talk.queue.append(Entry(Kind.COPY_END, talk.segment))
        return instead

    def _terminate(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> object:
        self.terminated = True
        return None
