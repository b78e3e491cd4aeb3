"""The server's half of a PostgreSQL session after start-up: whose answer it is, and what of it the client may see.

Every message is matched with the oldest outstanding request; one that does not fit ends the session, because from then on
nobody could say which rows belong to which statement. Handlers return ``None`` (pass untouched) or the bytes to send instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hostagent.inspectors.judged import Trace
from hostagent.inspectors.ports import CopyPlan, Detected, Masking, Outcome, RowPlan, Shape
from hostagent.inspectors.postgres import refusals
from hostagent.inspectors.postgres.conversation import READY_KINDS, Conversation, Entry, Kind, joined
from hostagent.inspectors.postgres.copying import begun, masked, settled
from hostagent.inspectors.postgres.results import shape_of
from hostagent.inspectors.postgres.rounds import Rounds, learn
from hostagent.model.command import Again, Command, Forward
from hostagent.model.errors import RemoteWireError
from hostagent.model.flow import Side
from hostagent.model.operation import Effect
from hostagent.model.transfer import Direction
from hostagent.wire.buffer import ReceiveBuffer
from hostagent.wire.postgres.backend import (
    Notification,
    build_error,
    build_notice,
    build_notification,
    build_status,
    parse_command_complete,
    parse_fields,
    parse_notification,
    parse_parameter_description,
    parse_status,
)
from hostagent.wire.postgres.copydata import payload_run
from hostagent.wire.postgres.frontend import build_copy_data
from hostagent.wire.postgres.messages import HEADER, HEADER_SIZE, SERVER_CAPS, Server, refuse_frame, run_end

# Settings that our understanding of statements rests on, and the value each must keep.
_PINNED: Final = {b"client_encoding": b"UTF8", b"standard_conforming_strings": b"on"}
# Error classes by which a statement itself fails. With another (a constraint checked at the end, a conflict, a cancel), the
# last statement of a Query may have done its work before its transaction could not be committed; PREPARE is then not undone.
_OWN_FAILURES: Final = frozenset({"22", "25", "26", "34", "42"})
_STATES: Final = frozenset({b"I", b"T", b"E"})
_CLIENT: Final = Side.CLIENT
_ROW: Final = Server.DATA_ROW
_DATA: Final = Server.COPY_DATA
_RUNS: Final = frozenset({_ROW, _DATA})
# Bytes of messages that are looked at closely in one go. Rows that pass without that do not count.
_CLOSELY: Final = 8192


class ServerHalf:
    """Walks the server's stream."""

    def __init__(self, conversation: Conversation) -> None:
        """Start with nothing received."""
        self._talk = conversation
        self._desk = conversation.desk
        self._buffer = ReceiveBuffer()
        self._out: list[Command] = []
        self._rounds = Rounds(conversation)
        self._missed: object = None
        self._left = b""
        self._left_at = 0
        self._handlers: Mapping[int, Callable[[bytes, int, int, float], bytes | None]] = {
            Server.ROW_DESCRIPTION: self._row_description,
            Server.PARAMETER_DESCRIPTION: self._parameter_description,
            Server.NO_DATA: self._no_data,
            Server.COMMAND_COMPLETE: self._command_complete,
            Server.EMPTY_QUERY: self._empty_query,
            Server.ERROR: self._error,
            Server.NOTICE: self._notice,
            Server.NOTIFICATION: self._notification,
            Server.PARAMETER_STATUS: self._parameter_status,
            Server.PARSE_COMPLETE: self._parse_complete,
            Server.BIND_COMPLETE: self._bind_complete,
            Server.CLOSE_COMPLETE: self._close_complete,
            Server.PORTAL_SUSPENDED: self._portal_suspended,
            Server.READY: self._ready,
            Server.FUNCTION_RESULT: self._function_result,
            Server.COPY_IN: self._copy_in,
            Server.COPY_OUT: self._copy_out,
            Server.COPY_DONE: self._copy_done,
            Server.COPY_BOTH: self._takeover,
            Server.AUTHENTICATION: self._takeover,
            Server.BACKEND_KEY: self._takeover,
            Server.NEGOTIATE: self._takeover,
        }

    # -- the walk --------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes, now: float, out: list[Command]) -> None:
        """Match, mask and count what arrived; append what must be done to ``out``.

        Raises:
            RemoteWireError: the server broke the protocol or our hold on it; what came before is already in ``out``.
        """
        talk = self._talk
        if talk.partial:
            data = self._pass_on(data, out)
            if not data:
                return
        if self._left:
            whole, at = self._left, self._left_at
            self._left = b""
            if data:
                whole, at = whole[at:] + data, 0
            self._walk(whole, at, now, out)
            return
        pushed = self._buffer.push(data)
        if pushed is not None:
            self._walk(pushed, 0, now, out)

    @property
    def buffered(self) -> int:
        """How many bytes are held back."""
        return len(self._buffer) + len(self._left)

    def forget(self) -> None:
        """Let go of what is held back: the session is over."""
        self._buffer.keep(b"", 0)
        self._left = b""

    def _pass_on(self, data: bytes, out: list[Command]) -> bytes:
        """Send on the rest of a message that is already on its way; return what comes after it."""
        talk = self._talk
        taken = min(talk.partial, len(data))
        if talk.queue and (meter := talk.queue[0].meter) is not None:  # what is half sent is copy data
            meter.take(data[:taken])
        talk.partial -= taken
        out.append(Forward(Side.CLIENT, data[:taken]))
        if not talk.partial and talk.asides:
            out.append(Forward(Side.CLIENT, b"".join(talk.asides)))
            talk.asides.clear()
        return data[taken:]

    def _walk(self, buffer: bytes, start: int, now: float, out: list[Command]) -> None:
        """Take the messages from ``start`` on, until enough of them was looked at closely."""
        self._out = out
        end = len(buffer)
        offset = start
        enough = start + _CLOSELY
        parts: list[bytes] = []
        handlers = self._handlers
        try:
            offset = self._rounds.answers(buffer, start, end, enough, now, out)
            while end - offset >= HEADER_SIZE and offset < enough:
                kind, length = HEADER(buffer, offset)
                if length < 4 or length - 4 > SERVER_CAPS.get(kind, -1):
                    raise refuse_frame(kind, length, SERVER_CAPS)
                if kind in _RUNS:
                    stop, replaced = self._run(buffer, offset, end, kind)
                    if stop == offset:
                        break
                    if replaced is None:
                        enough += stop - offset
                else:
                    stop = offset + length + 1
                    if stop > end:
                        break
                    replaced = handlers[kind](buffer, offset + HEADER_SIZE, stop, now)
                if replaced is not None:
                    if offset > start:
                        parts.append(buffer[start:offset])
                    parts.append(replaced)
                    start = stop
                offset = stop
        finally:
            whole = joined(parts, buffer, start, offset)
            if whole:
                out.append(Forward(_CLIENT, whole))
        if offset < end:
            self._keep(buffer, offset, enough, out)

    def _keep(self, buffer: bytes, offset: int, enough: int, out: list[Command]) -> None:
        """Hold back what comes from ``offset`` on: it is not complete, or was not looked at because that was ``enough``."""
        if offset >= enough:
            self._left, self._left_at = buffer, offset
            out.append(Again(Side.SERVER))
            return
        rest = buffer[offset:]
        self._buffer.keep(rest, HEADER(rest, 0)[1] + 1 if len(rest) >= HEADER_SIZE else HEADER_SIZE)

    # -- rows and copy data ----------------------------------------------------------------------------------------------

    def _run(self, buffer: bytes, offset: int, end: int, kind: int) -> tuple[int, bytes | None]:
        """Take consecutive rows or copy messages at once: (offset after them, replacement or None).

        The first message that is not complete is taken too where nothing of it needs judgement; then the offset is beyond
        ``end`` and the missing bytes are passed on as they come.
        """
        entry = self._head()
        trace = self._trace(entry)
        if kind == _ROW:
            rows = self._row_plan(entry)
            if rows is not None:
                return self._masked_rows(rows, trace, buffer, offset, end)
        else:
            copy = self._copy_plan(entry)
            if copy is not None:
                stop, _ = _piece(buffer, offset, end, _DATA)
                return stop, masked(copy, entry, trace, buffer, offset, stop)
        cap = SERVER_CAPS[kind]
        meter = entry.meter
        if meter is None:
            stop, count = run_end(buffer, offset, end, kind, cap)
        else:
            stop, count, content = payload_run(buffer, offset, end, kind, cap)
            meter.take(content)
        if end - stop >= HEADER_SIZE:
            found, length = HEADER(buffer, stop)
            if found == kind and 4 <= length <= cap + 4:
                if meter is not None:
                    meter.take(buffer[stop + HEADER_SIZE :])
                stop += length + 1
                count += 1
        if stop > end:
            self._talk.partial = stop - end
        if trace is not None:
            trace.size += stop - offset
            if kind == _ROW:
                trace.rows += count
        return stop, None

    def _row_plan(self, entry: Entry) -> RowPlan | None:
        """Return how rows of ``entry`` are masked, None: not at all."""
        if entry.kind is not Kind.QUERY and entry.kind is not Kind.EXECUTE:
            raise RemoteWireError("rows that nothing asked for")
        ruling = entry.ruling
        if entry.denial is not None:
            raise RemoteWireError("rows for a refused statement")
        if ruling is None or ruling.masking is None:
            self._note_columns(entry)
            return None
        shape = entry.shape
        if shape is None:
            shape = self._describe_rows(entry, ruling.masking, ruling.exposed)
        return shape.plan

    def _masked_rows(
        self, plan: RowPlan, trace: Trace | None, buffer: bytes, offset: int, end: int
    ) -> tuple[int, bytes | None]:
        """Take all rows up to the first that needs a closer look, or that one and some that follow it."""
        found: Detected | None = None
        replaced: bytes | None = None
        stop, count = run_end(buffer, offset, min(end, plan.clear(buffer, offset)), _ROW, SERVER_CAPS[_ROW])
        if stop == offset:
            stop, count = _piece(buffer, offset, end, _ROW)
            if stop > offset:
                replaced, found = plan.apply(buffer[offset:stop])
        if trace is not None:
            trace.size += stop - offset
            trace.rows += count
            if found is not None:
                trace.count(found)
        return stop, replaced

    def _note_columns(self, entry: Entry) -> None:
        """Take the columns for the record from whatever description the client happened to ask for."""
        portal, ruling = entry.portal, entry.ruling
        if entry.shape is not None or portal is None or ruling is None:
            return
        if portal.description is not None:
            self._shaped(entry, shape_of(portal.description, ruling.masking, ruling.exposed))
        elif portal.prepared.shape is not None and ruling.masking is None:
            self._shaped(entry, portal.prepared.shape)

    def _describe_rows(self, entry: Entry, masking: Masking, exposed: int) -> Shape:
        """Return the shape of a portal's rows under the ruling that this Execute got."""
        portal = entry.portal
        if portal is None or portal.description is None:
            raise RemoteWireError("rows without a description cannot be masked")
        shape = shape_of(portal.description, masking, exposed)
        self._shaped(entry, shape)
        return shape

    def _shaped(self, entry: Entry, shape: Shape) -> None:
        entry.shape = shape
        trace = self._trace(entry)
        if trace is not None:
            trace.columns = shape.columns
        if shape.unknown and shape.columns is not self._missed:
            self._missed = shape.columns  # once per compiled shape: a table may stay unknown to us for ever
            self._desk.changed(self._out)

    def _copy_plan(self, entry: Entry) -> CopyPlan | None:
        """Return how copy data of ``entry`` is masked, None: not at all."""
        if not entry.streaming:
            raise RemoteWireError("copy data that nothing asked for")
        if entry.ruling is None or entry.ruling.masking is None:
            return None
        if entry.copy is None:
            raise RemoteWireError("copy data without a description cannot be masked")
        return entry.copy

    # -- matching --------------------------------------------------------------------------------------------------------

    def _head(self) -> Entry:
        queue = self._talk.queue
        while queue and queue[0].kind is Kind.COPY_END:
            queue.popleft()  # the server ignored it
        if not queue:
            raise RemoteWireError("an answer that nothing asked for")
        if queue[0].kind is Kind.ROUND:
            self._talk.expand()
        return queue[0]

    def _expect(self, *kinds: Kind) -> Entry:
        entry = self._head()
        if entry.kind not in kinds or entry.denial is not None:
            raise RemoteWireError(f"an answer that does not belong to {entry.kind.name}")
        return entry

    @staticmethod
    def _trace(entry: Entry) -> Trace | None:
        return entry.traces[entry.done] if entry.done < len(entry.traces) else None

    def _settle(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """Record the result of the statement of ``entry`` that is running."""
        trace = self._trace(entry)
        if trace is not None:
            self._desk.shut(trace, outcome, now, self._out)
            entry.done += 1
        ruling = entry.ruling
        if ruling is not None and ruling.exposed:
            self._talk.exposed = max(self._talk.exposed, ruling.exposed)
            self._talk.masking = ruling.masking
        if entry.meter is not None:
            settled(self._desk, entry, outcome, now, self._out)
        entry.shape = None
        entry.copy = None
        entry.streaming = False

    def _masking(self) -> tuple[Masking | None, int]:
        """Return the obligations for what has no statement of its own: the oldest outstanding one's, or the last one's.

        The end of a transaction, and an immediate check in it, can speak of whatever ran in it.
        """
        talk = self._talk
        for entry in talk.queue:
            ruling = entry.ruling
            if ruling is not None:
                talk.masking = ruling.masking
                ends = any(Effect.TRANSACTION in each.effects for each in ruling.operations)
                return ruling.masking, max(ruling.exposed, talk.exposed) if ends else ruling.exposed
            if entry.kind is Kind.SYNC:
                break
        return talk.masking, talk.exposed

    # -- descriptions ----------------------------------------------------------------------------------------------------

    def _row_description(self, buffer: bytes, start: int, stop: int, _now: float) -> bytes | None:
        entry = self._expect(Kind.QUERY, Kind.DESCRIBE_PORTAL, Kind.DESCRIBE_STATEMENT)
        body = buffer[start:stop]
        ruling = entry.ruling
        shape = shape_of(body, None, 0) if ruling is None else shape_of(body, ruling.masking, ruling.exposed)
        learn(ruling, buffer[start - HEADER_SIZE : stop], shape)
        if entry.kind is Kind.QUERY:
            self._shaped(entry, shape)
            return shape.message
        if entry.portal is not None:
            entry.portal.description = body
        elif entry.prepared is not None:
            entry.prepared.shape = shape
        self._talk.queue.popleft()
        return b"" if entry.silent else shape.message

    def _no_data(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        entry = self._expect(Kind.DESCRIBE_PORTAL, Kind.DESCRIBE_STATEMENT)
        self._talk.queue.popleft()
        return b"" if entry.silent else None

    def _parameter_description(self, buffer: bytes, start: int, stop: int, _now: float) -> bytes | None:
        entry = self._expect(Kind.DESCRIBE_STATEMENT)
        if entry.prepared is not None:
            entry.prepared.types = parse_parameter_description(buffer[start:stop])
        return None

    # -- completions -----------------------------------------------------------------------------------------------------

    def _command_complete(self, buffer: bytes, start: int, stop: int, now: float) -> bytes | None:
        entry = self._expect(Kind.QUERY, Kind.EXECUTE)
        if buffer.find(b"\0", start, stop) != stop - 1:
            raise RemoteWireError("invalid CommandComplete message")
        tag = parse_command_complete(buffer[start:stop])
        self._note_columns(entry)
        self._settle(entry, Outcome("ok", tag), now)
        if entry.ruling is not None and entry.ruling.defines:
            self._talk.redefined = True
        if entry.kind is Kind.EXECUTE:
            self._talk.queue.popleft()
        return None

    def _empty_query(self, _buffer: bytes, _start: int, _stop: int, now: float) -> bytes | None:
        entry = self._expect(Kind.QUERY, Kind.EXECUTE)
        self._settle(entry, Outcome("ok", "EMPTY"), now)
        if entry.kind is Kind.EXECUTE:
            self._talk.queue.popleft()
        return None

    def _portal_suspended(self, _buffer: bytes, _start: int, _stop: int, now: float) -> bytes | None:
        entry = self._expect(Kind.EXECUTE)
        self._settle(entry, Outcome("ok", "SUSPENDED"), now)
        self._talk.queue.popleft()
        return None

    def _parse_complete(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        self._expect(Kind.PARSE)
        self._talk.queue.popleft()
        return None

    def _bind_complete(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        self._expect(Kind.BIND)
        self._talk.queue.popleft()
        return None

    def _close_complete(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        self._expect(Kind.CLOSE)
        self._talk.queue.popleft()
        return None

    def _function_result(self, _buffer: bytes, start: int, stop: int, now: float) -> bytes | None:
        entry = self._expect(Kind.CALL)
        trace = self._trace(entry)
        if trace is not None:
            trace.size = stop - start
        self._settle(entry, Outcome("ok", "FUNCTION CALL"), now)
        return None

    def _ready(self, buffer: bytes, start: int, stop: int, now: float) -> bytes | None:
        entry = self._head()
        talk = self._talk
        if entry.kind not in READY_KINDS:
            raise RemoteWireError("ReadyForQuery before everything was answered")
        talk.queue.popleft()
        talk.copying_in = False
        if entry.done < len(entry.traces):
            talk.abort(entry, now, self._out)
        talk.status = buffer[start:stop]
        if talk.status not in _STATES:
            raise RemoteWireError("invalid ReadyForQuery message")
        if talk.status == b"I":
            talk.exposed = 0
            talk.names.transaction_ended(entry.segment)
            if talk.redefined:
                talk.redefined = False
                self._desk.changed(self._out)
        if entry.ruling is not None:
            talk.masking = entry.ruling.masking
        return None

    # -- errors and asynchronous messages --------------------------------------------------------------------------------

    def _error(self, buffer: bytes, start: int, stop: int, now: float) -> bytes | None:
        fields = parse_fields(buffer[start:stop])
        masking, exposed = self._masking()
        shown: Mapping[str, str] = fields if masking is None else masking.message(fields, exposed)
        if refusals.is_fatal(fields):
            return None if masking is None else build_error(shown)
        entry = self._head()
        if entry.denial is not None:
            denial = entry.denial
            outcome = Outcome(denial.outcome, "", denial.sqlstate, denial.message)
            self._fail(entry, outcome, now)
            return refusals.error(denial)
        outcome = Outcome("error", "", shown.get("C", ""), self._desk.scrub(refusals.recordable(shown)))
        if fields.get("C") == refusals.QUERY_CANCELED:
            outcome = outcome._replace(outcome="cancelled")
        self._fail(entry, outcome, now)
        return None if shown is fields else build_error(shown)

    def _fail(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """The server failed in ``entry``: record it, take back what did not happen, follow the server's skipping."""
        talk = self._talk
        talk.expand()
        queue = talk.queue
        done = entry.done
        self._settle(entry, outcome, now)
        talk.abort(entry, now, self._out, "denied" if outcome.outcome == "denied" else "aborted")
        talk.copying_in = False
        skipped: list[Entry] = []
        if entry.kind not in READY_KINDS:
            queue.popleft()
            if entry.silent and queue:  # the client sees the error as that of the Execute which we asked this for
                self._settle(queue[0], outcome, now)
            while queue and queue[0].kind is not Kind.SYNC:
                skipped.append(queue.popleft())
            if not queue:
                talk.discarding = True
        talk.rewind(entry, done, skipped, certain=outcome.sqlstate[:2] in _OWN_FAILURES)
        for each in (entry, *skipped):
            if each.portal is not None and each.portal.description is None:
                each.portal.described = False
            talk.abort(each, now, self._out)

    def _notice(self, buffer: bytes, start: int, stop: int, _now: float) -> bytes | None:
        masking, exposed = self._masking()
        fields = parse_fields(buffer[start:stop])
        if masking is None:
            return None
        return build_notice(masking.message(fields, exposed))

    def _notification(self, buffer: bytes, start: int, stop: int, _now: float) -> bytes | None:
        message = parse_notification(buffer[start:stop])
        masking, _ = self._masking()
        if masking is None:
            return None
        channel, payload = (
            masking.text(part.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            for part in (message.channel, message.payload)
        )
        return build_notification(Notification(message.pid, channel, payload))

    def _parameter_status(self, buffer: bytes, start: int, stop: int, _now: float) -> bytes | None:
        name, value = parse_status(buffer[start:stop])
        pinned = _PINNED.get(name)
        if pinned is not None and value != pinned:
            raise RemoteWireError(f"the server changed {name.decode()}, which must stay {pinned.decode()}")
        masking, exposed = self._masking()
        if masking is None or pinned is not None:
            return None
        if exposed:
            return build_status(name, b"[masked]")
        shown = masking.text(value.decode("utf-8", "surrogateescape"))
        return build_status(name, shown.encode("utf-8", "surrogateescape"))

    def _takeover(self, buffer: bytes, start: int, _stop: int, _now: float) -> bytes | None:
        kind = chr(buffer[start - HEADER_SIZE])
        raise RemoteWireError(f"message {kind!r} of the server would take the connection out of our control")

    # -- COPY ------------------------------------------------------------------------------------------------------------

    def _copy_in(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        """The server reads copy data from now on, so everything sent since is copy data to it, and Sync means nothing."""
        entry = self._expect(Kind.QUERY, Kind.EXECUTE)
        queue = self._talk.queue
        queue.popleft()
        ended = False
        while queue and queue[0].kind in (Kind.SYNC, Kind.COPY_END):
            ended = queue.popleft().kind is Kind.COPY_END
            if ended:
                break
        if queue and not ended:
            raise RemoteWireError("a request was sent where the server expects copy data")
        queue.appendleft(entry)
        self._talk.copying_in = not ended
        begun(entry, Direction.UPLOAD)
        return None

    def _copy_out(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        entry = self._expect(Kind.QUERY, Kind.EXECUTE)
        entry.streaming = True
        begun(entry, Direction.DOWNLOAD)
        ruling = entry.ruling
        if ruling is None or ruling.masking is None:
            return None
        if entry.done < len(ruling.statements):
            entry.copy = ruling.masking.copy_out(ruling.statements[entry.done])
        if entry.copy is None:
            raise RemoteWireError("this copy stream cannot be masked")
        return None

    def _copy_done(self, _buffer: bytes, _start: int, _stop: int, _now: float) -> bytes | None:
        entry = self._expect(Kind.QUERY, Kind.EXECUTE)
        entry.streaming = False
        if entry.copy is None:
            return None
        rest = entry.copy.finish()
        trace = self._trace(entry)
        if trace is not None:
            trace.count(entry.copy.counts)
        begun(entry, Direction.DOWNLOAD).take(rest)
        entry.copy = None
        return (build_copy_data(rest) if rest else b"") + b"c\0\0\0\x04"


def _piece(buffer: bytes, offset: int, end: int, kind: int) -> tuple[int, int]:
    """Return (offset after, count of) about as many complete messages of ``kind`` as are looked at in one go: one, if it is long."""
    stop, count = run_end(buffer, offset, min(end, offset + _CLOSELY), kind, SERVER_CAPS[kind])
    if stop == offset and end - offset > _CLOSELY:
        behind = offset + HEADER(buffer, offset)[1] + 1
        if behind <= end:
            return behind, 1
    return stop, count
