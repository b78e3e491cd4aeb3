"""Records of what runs and how it ends. Nothing here ever holds an exact text, a secret or an unmasked value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from hostagent.gate.context import SessionContext
from hostagent.inspectors.judged import Ruling, Trace
from hostagent.inspectors.ports import Outcome, Parameters
from hostagent.model.command import Command, Record
from hostagent.model.event import Event, EventKind
from hostagent.model.rows import ResultRow, StatementRow

_MASKED: Final = "[masked]"
_STATEMENT: Final = EventKind.STATEMENT
_RESULT: Final = EventKind.RESULT
# Digits shorter than any detected secret need no look.
_SHORT: Final = 9
# Most characters that a record keeps: of one statement's bind values together, and of a message or reason; and most values.
# A single record must neither fill the disk nor be more than a reader of the journal can take.
_VALUES_KEPT: Final = 65_536
_VALUES_MOST: Final = 1000
_MARGIN: Final = 8192
_MESSAGE_KEPT: Final = 8192
_ALWAYS_KEPT: Final = 16
# Shapes of results that a session keeps.
_SHAPES: Final = 64


class Evidence:
    """Makes the records of one session."""

    def __init__(self, context: SessionContext, scrub: Callable[[str], str]) -> None:
        """``scrub`` replaces every secret that any detector knows."""
        self._scrub = scrub
        # Keyed BLAKE2b (RFC 7693 §2.9): a MAC at a third of the price of HMAC-SHA-256, which each statement pays.
        self._keyed = blake2b(key=context.digest_key, digest_size=32)
        self.statements = 0
        # At hand: each look through the context costs a look-up, and none of these changes.
        self._flow_id = context.flow.flow_id
        self._workload = context.flow.workload
        self._offset_ns = context.wall_offset_ns
        # By the identity of the columns, which are kept so that it stays theirs.
        self._shapes: dict[int, tuple[Sequence[Mapping[str, object]], Mapping[str, object]]] = {}

    def event(self, kind: EventKind, fields: Mapping[str, object], now: float) -> Record:
        """Return one line of this flow's history."""
        return Record(Event(kind, int(now * 1e9) + self._offset_ns, self._flow_id, self._workload, fields))

    def open(
        self,
        ruling: Ruling,
        exact: Sequence[bytes],
        parameters: Parameters | None,
        now: float,
        out: list[Command],
        *,
        decision: str = "",
        ticket: str = "",
        reason: str = "",
    ) -> list[Trace]:
        """Record the statements of ``ruling``, one event each, and return their traces."""
        keyed = self._keyed.copy()
        keyed.update(exact[0] if len(exact) == 1 else b"".join(exact))
        digest = keyed.hexdigest()
        shown: Sequence[str | None] = self._parameters(parameters, exposed=ruling.exposed) if parameters else ()
        flow_id, workload = self._flow_id, self._workload
        at = int(now * 1e9) + self._offset_ns
        traces = []
        for ordinal, line in enumerate(ruling.lines):
            self.statements += 1
            number = self.statements
            row = StatementRow(at, flow_id, number, digest, ordinal, shown)
            if ruling.recurs and not decision and not ticket:
                event = Event(_STATEMENT, at, flow_id, workload, line, row)
            else:
                fields = row.fields(line)
                fields["ticket"] = ticket
                if decision:
                    fields["decision"] = decision
                    if reason:
                        fields |= {"reason": self._scrub(reason), "rules": []}
                event = Event(_STATEMENT, at, flow_id, workload, fields)
            out.append(Record(event))
            traces.append(Trace(flow_id, now, number))
        return traces

    def _parameters(self, parameters: Parameters, *, exposed: int) -> list[str | None]:
        """Values of a statement that touches masked data are not shown at all: one of them may be that data."""
        if exposed:
            return [None if value is None else _MASKED for value in parameters]
        shown: list[str | None] = []
        left = _VALUES_KEPT
        for value in parameters[:_VALUES_MOST]:
            shown.append(self._parameter(value, max(left, _ALWAYS_KEPT)))
            left -= len(shown[-1] or "")
        if len(parameters) > _VALUES_MOST:
            shown.append(f"[… {len(parameters)} values]")
        return shown

    def _parameter(self, value: str | bytes | None, room: int) -> str | None:
        """Return a value as a record keeps it: in at most about ``room`` characters, and how long it was if that is not all."""
        if value is None:
            return None
        if isinstance(value, bytes):
            return f"[binary, {len(value)} bytes]"
        if len(value) < _SHORT and value.isdigit():
            return value
        if len(value) <= room:
            return self._scrub(value)
        if room <= _ALWAYS_KEPT:
            return _beginning("", 0, len(value))
        # A secret that the cut goes through would no longer be recognised: what stands near the cut is left out.
        scrubbed = self._scrub(value[: room + _MARGIN])
        return _beginning(scrubbed, min(room, max(0, len(scrubbed) - _MARGIN)), len(value))

    def shut(self, trace: Trace, outcome: Outcome, now: float, out: list[Command]) -> None:
        """Record how a statement ended."""
        flow_id, workload = self._flow_id, self._workload
        at = int(now * 1e9) + self._offset_ns
        found = trace.detections
        masked = trace.masked + sum(found.values()) if found else trace.masked
        elapsed = int((now - trace.started) * 1e6)
        row = ResultRow(at, flow_id, trace.number, outcome.tag, trace.rows, trace.size, elapsed, masked, found)
        if outcome.outcome == "ok" and not outcome.message and not outcome.sqlstate:
            shared = self._shape(trace.columns)
            event = Event(_RESULT, at, flow_id, workload, shared, row)
        else:
            fields = row.fields(
                {
                    "outcome": outcome.outcome,
                    "sqlstate": outcome.sqlstate,
                    "message": shortened(outcome.message),
                    "columns": trace.columns,
                }
            )
            event = Event(_RESULT, at, flow_id, workload, fields)
        out.append(Record(event))

    def _shape(self, columns: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
        """Return the fields that all results of one shape share: the same object for the same ``columns``."""
        kept = self._shapes.get(id(columns))
        if kept is not None:
            return kept[1]
        if len(self._shapes) >= _SHAPES:
            self._shapes.clear()
        shared: Mapping[str, object] = {"outcome": "ok", "sqlstate": "", "message": "", "columns": columns}
        self._shapes[id(columns)] = (columns, shared)
        return shared

    def scrub(self, text: str) -> str:
        """Return ``text`` as it may be recorded."""
        return self._scrub(text)


def shortened(text: str) -> str:
    """Return a message as a record keeps it: all of it, or its beginning and how long it was."""
    return text if len(text) <= _MESSAGE_KEPT else _beginning(text, _MESSAGE_KEPT, len(text))


def _beginning(text: str, kept: int, size: int) -> str:
    return f"{text[:kept]}[… {size} characters]"
