"""The writer's half: events in, lines out, each carrying the hash of everything before it."""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, final

import msgspec

from hostagent.journal.format import (
    BATCH_TAG,
    CHECKPOINT_TAG,
    EVENT_TAG,
    FORMAT_VERSION,
    GENESIS,
    HEADER_TAG,
    MAX_LINE,
    CheckpointLine,
    NewBatch,
    NewLine,
    SegmentHeader,
    link,
    signed_text,
)
from hostagent.model.errors import UnwritableEventError
from hostagent.model.event import Event
from hostagent.model.rows import Row

_LONGEST: Final = MAX_LINE - 128
_DEEPEST: Final = 100
# Bytes of one line of several events.
_BATCH: Final = 256 * 1024
# Bytes of events that others in the segment may refer to, as they were written.
_REMEMBERED: Final = 8 * 1024 * 1024


class ChainState(NamedTuple):
    """Where a chain stands: the last event's number and the last line's hash (32 bytes)."""

    seq: int = 0
    head: bytes = GENESIS


def _plain(value: object) -> object:
    """Turn what msgspec does not know into JSON: read-only mappings, iterables; anything else as its text."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, Iterable):
        return list(value)
    return str(value)


def _printable(value: object, depth: int = 0) -> object:
    """Return ``value`` with characters that UTF-8 cannot carry (lone surrogates) replaced; slow, rarely needed.

    Raises:
        ValueError: it is nested too deeply. Counted here, because compiled code has no limit of recursion but the stack.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        return {str(_printable(str(key))): _printable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_printable(item, depth + 1) for item in value]
    return value


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode


@final
class _Known:
    """An event of this segment whose fields others may refer to. ``shared`` is kept: its identity is what is looked for."""

    __slots__ = ("seq", "shared", "workload")

    def __init__(self, seq: int, shared: Mapping[str, object], workload: str) -> None:
        self.seq = seq
        self.shared = shared
        self.workload = workload


class Chain:
    """Numbers, frames and links events. Changes only when a method returns; ``state`` may be saved, and set back by ``back_to``."""

    __slots__ = ("_known", "_known_size", "host", "state", "writer")

    def __init__(self, writer: str, host: str, state: ChainState | None = None) -> None:
        """``writer`` and ``host`` name the chain; ``state`` is where it continues."""
        self.writer = writer
        self.host = host
        self.state = state or ChainState()
        self._known: dict[int, _Known] = {}
        self._known_size = 0

    def back_to(self, state: ChainState) -> None:
        """Go on from ``state``: what was framed since then is not in the file, at least not all of it."""
        self.state = state
        self._forget()

    def frame(self, events: Sequence[Event]) -> bytes:
        """Return the lines of ``events``, to be appended with one write.

        An event whose shared fields stand in this segment already is written as a short row, one line for those that follow each other.

        Raises:
            UnwritableEventError: an event cannot be expressed as JSON, or is too long; the chain has not moved.
        """
        rows = self._rows(events)
        if rows is None:
            return self._frame_each(events)
        seq, head = self.state
        try:
            payload = _encode(NewBatch(seq + 1, rows))
        except UnicodeEncodeError:
            return self._frame_each(events)
        if len(payload) > _BATCH:
            return self._frame_each(events)
        head = sha256(b"\x03" + head + payload).digest()
        self.state = ChainState(seq + len(rows), head)
        return b"B %b %b\n" % (hexlify(head), payload)

    def _rows(self, events: Sequence[Event]) -> list[Row] | None:
        """Return the rows of ``events`` if each can refer to what stands in this segment already, as nearly always under load."""
        known = self._known
        rows: list[Row] = []
        for event in events:
            row = event.row
            if row is None:
                return None
            kept = known.get(id(event.shared))
            if kept is None or kept.shared is not event.shared or kept.workload != event.workload:
                return None
            row.like = kept.seq
            rows.append(row)
        return rows or None

    def _frame_each(self, events: Sequence[Event]) -> bytes:
        known = self._known
        lines = _Lines(self.state)
        rows: list[Row] = []
        try:
            for event in events:
                row = event.row
                kept = known.get(id(event.shared)) if row is not None else None
                if row is not None and kept is not None and kept.shared is event.shared and kept.workload == event.workload:
                    row.like = kept.seq
                    rows.append(row)
                    continue
                if rows:
                    lines.batch(rows)
                    rows = []
                size = lines.event(event)
                if row is not None:
                    self._remember(event, size, lines.seq)
            if rows:
                lines.batch(rows)
        except UnwritableEventError:
            self._forget()
            raise
        self.state = ChainState(lines.seq, lines.head)
        parts = lines.parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _remember(self, event: Event, size: int, seq: int) -> None:
        """Note that event number ``seq`` tells ``event.shared``, in ``size`` bytes."""
        self._known_size += size
        if self._known_size > _REMEMBERED:
            self._forget()
            self._known_size = size
        self._known[id(event.shared)] = _Known(seq, event.shared, event.workload)

    def _forget(self) -> None:
        self._known.clear()
        self._known_size = 0

    def header(self, segment: int, at: int, key: bytes = b"") -> bytes:
        """Return the first line of segment number ``segment``; ``key`` is the raw Ed25519 public key."""
        self._forget()  # each segment stands by itself
        seq, head = self.state
        header = SegmentHeader(FORMAT_VERSION, self.writer, self.host, segment, seq, head.hex(), key.hex(), at)
        return self._append(b"H", HEADER_TAG, _encode(header))

    def checkpoint(self, at: int, sign: Callable[[bytes], bytes] | None = None, *, closed: bool = False) -> bytes:
        """Return a checkpoint line over everything so far; ``sign`` returns the Ed25519 signature of its argument."""
        seq, head = self.state
        unsigned = CheckpointLine(seq, head.hex(), at, closed, "")
        signature = sign(signed_text(self.writer, self.host, unsigned)).hex() if sign is not None else ""
        return self._append(b"C", CHECKPOINT_TAG, _encode(msgspec.structs.replace(unsigned, signature=signature)))

    def _append(self, letter: bytes, tag: bytes, payload: bytes) -> bytes:
        head = link(tag, self.state.head, payload)
        self.state = ChainState(self.state.seq, head)
        return b"%b %b %b\n" % (letter, hexlify(head), payload)


class _Lines:
    """Lines under way, and where the chain stands behind them."""

    __slots__ = ("head", "parts", "seq")

    def __init__(self, state: ChainState) -> None:
        self.seq, self.head = state
        self.parts: list[bytes] = []

    def event(self, event: Event) -> int:
        """Add a line for one event with all its fields; returns the size of its payload."""
        kind, at, flow, workload = event.kind, event.at, event.flow, event.workload
        seq, fields = self.seq + 1, event.fields
        try:
            payload = _encode(NewLine(seq, kind, at, flow, workload, fields))
        except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
            payload = _encode_carefully(seq, kind, at, flow, workload, fields)
        if len(payload) > _LONGEST:
            raise UnwritableEventError(f"an event of {len(payload)} bytes is too long for the journal")
        self.seq = seq
        self.head = sha256(EVENT_TAG + self.head + payload).digest()
        self.parts.append(b"E %b %b\n" % (hexlify(self.head), payload))
        return len(payload)

    def batch(self, rows: list[Row]) -> None:
        """Add a line for ``rows``, or several: none gets longer than a reader likes."""
        try:
            payload = _encode(NewBatch(self.seq + 1, rows))
        except UnicodeEncodeError:
            payload = _encode(NewBatch(self.seq + 1, [_printable_row(row) for row in rows]))
        if len(payload) > _BATCH and len(rows) > 1:
            half = len(rows) // 2
            self.batch(rows[:half])
            self.batch(rows[half:])
            return
        if len(payload) > _LONGEST:
            raise UnwritableEventError(f"an event of {len(payload)} bytes is too long for the journal")
        self.seq += len(rows)
        self.head = sha256(BATCH_TAG + self.head + payload).digest()
        self.parts.append(b"B %b %b\n" % (hexlify(self.head), payload))


def _printable_row(row: Row) -> Row:
    return msgspec.structs.replace(row, **{name: _printable(getattr(row, name)) for name in row.__struct_fields__})


def _encode_carefully(seq: int, kind: str, at: int, flow: str, workload: str, fields: Mapping[str, object]) -> bytes:
    try:
        return _encode(
            NewLine(seq, kind, at, str(_printable(flow)), str(_printable(workload)), _printable(fields)),
        )
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnwritableEventError(f"a {kind} event cannot be written as JSON: {error}") from error
