"""The reader's half: bytes of a segment in, verified lines and precise faults out.

A fault never stops the reading: the line's own hash is adopted as the new head, so that one break is one fault and
everything after it is checked again.
"""

from __future__ import annotations

import enum
from binascii import hexlify
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple

import msgspec

from hostagent.journal.chain import ChainState
from hostagent.journal.format import (
    BATCH_TAG,
    CHECKPOINT_TAG,
    EVENT_TAG,
    FORMAT_VERSION,
    FORMATS,
    HASH_END,
    HEADER_TAG,
    MAX_LINE,
    PAYLOAD_START,
    BatchLine,
    CheckpointLine,
    EventLine,
    SegmentHeader,
    link,
    signed_text,
)

_TAGS = {b"E": EVENT_TAG, b"B": BATCH_TAG, b"H": HEADER_TAG, b"C": CHECKPOINT_TAG}


_NOTHING = msgspec.Raw(b"{}")


class FaultKind(enum.StrEnum):
    """What is wrong; README.md beside this file says what each means."""

    EDITED = "edited"
    MISSING = "missing"
    BACKWARDS = "backwards"
    SYNTAX = "syntax"
    HEADER = "header"
    CHECKPOINT = "checkpoint"
    SIGNATURE = "signature"
    KEY = "key"
    TRUNCATED = "truncated"
    TORN = "torn"


class Fault(NamedTuple):
    """One break: byte ``offset`` of the line in its segment, the event number where it shows, and a sentence."""

    kind: FaultKind
    segment: int
    offset: int
    seq: int
    detail: str


class Accepted(NamedTuple):
    """One event line: parsed, with its raw payload and hash.

    ``rows``: how many events a batch line holds, the first of which has the line's ``seq`` (the rest of ``line`` is empty); 0: it
    is no batch but one event.
    """

    line: EventLine
    payload: bytes
    head: bytes
    rows: int = 0

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self.line.seq + self.rows - 1 if self.rows else self.line.seq


class Scan(NamedTuple):
    """What one call of ``Verifier.scan`` found. ``consumed`` is the length of the complete lines."""

    events: list[Accepted]
    faults: list[Fault]
    checkpoints: list[CheckpointLine]
    consumed: int


def counted(lines: Iterable[Accepted]) -> int:
    """Return how many events ``lines`` hold."""
    return sum([accepted.rows or 1 for accepted in lines])


def events_in(line: bytes) -> int:
    """Return how many events a whole line of ours holds."""
    if line.startswith(b"B"):
        return len(msgspec.json.decode(line[PAYLOAD_START:], type=BatchLine).events)
    return int(line.startswith(b"E"))


class Verifier:
    """Follows one writer's chain across its segments.

    ``state`` is where the chain stands; ``key`` the public key (raw bytes) that is trusted: the first one seen unless
    given. ``verify(key, signature, text)`` answers whether the signature is good; None leaves signatures unchecked.
    """

    def __init__(
        self,
        writer: str,
        state: ChainState | None = None,
        *,
        key: bytes = b"",
        host: str = "",
        verify: Callable[[bytes, bytes, bytes], bool] | None = None,
    ) -> None:
        """Start at ``state`` (default: before the first line of the first segment)."""
        self.writer = writer
        self.state = state or ChainState()
        self.key = key
        self.host = host
        # Of the segment that is being read, once its header was.
        self.format = FORMAT_VERSION
        self._verify = verify
        self._decode_event = msgspec.json.Decoder(EventLine).decode
        self._decode_batch = msgspec.json.Decoder(BatchLine).decode
        self._decode_header = msgspec.json.Decoder(SegmentHeader).decode
        self._decode_checkpoint = msgspec.json.Decoder(CheckpointLine).decode

    def scan(self, data: bytes, segment: int, offset: int, limit: int = 1_000_000) -> Scan:
        """Read the complete lines of ``data``, which starts at ``offset`` of ``segment``; at most ``limit`` lines.

        An incomplete last line is left alone (``consumed`` ends before it).
        """
        found = Scan([], [], [], 0)
        start = 0
        last = limit
        while True:
            start, last = self._sound_events(data, start, last, found.events)
            end = data.find(b"\n", start)
            if end < 0 or not last:
                break
            self._line(data[start:end], segment, offset + start, found)
            start, last = end + 1, last - 1
        return found._replace(consumed=start)

    def _sound_events(self, data: bytes, start: int, limit: int, events: list[Accepted]) -> tuple[int, int]:
        """Take event lines as long as each follows from the one before; anything else is left to ``_line``, which names it.

        Returns where it stopped, and what is left of ``limit``.
        """
        seq, head = self.state
        find, decode, append, stands = data.find, self._decode_event, events.append, data.startswith
        while limit:
            end = find(b"\n", start)
            if end < 0 or end - start > MAX_LINE:
                break
            payload = data[start + PAYLOAD_START : end]
            batch = stands(b"B", start)
            follows = sha256((b"\x03" if batch else b"\x00") + head + payload).digest()
            if not stands((b"B %b " if batch else b"E %b ") % hexlify(follows), start):
                break
            try:
                accepted = self._batch(payload, follows) if batch else Accepted(decode(payload), payload, follows)
            except ValueError:
                break
            if accepted.line.seq != seq + 1:
                break
            seq, head = seq + (accepted.rows or 1), follows
            append(accepted)
            start, limit = end + 1, limit - 1
        self.state = ChainState(seq, head)
        return start, limit

    def _batch(self, payload: bytes, head: bytes) -> Accepted:
        """Return a batch line.

        Raises:
            ValueError: it is none.
        """
        line = self._decode_batch(payload)
        if not line.events:
            raise ValueError("a batch without an event")
        return Accepted(EventLine(line.seq, "", 0, "", "", _NOTHING), payload, head, len(line.events))

    def torn(self, data: bytes, segment: int, offset: int) -> Fault | None:
        """Judge what stands after the last complete line of a segment that will get no more lines."""
        if not data:
            return None
        return Fault(FaultKind.TORN, segment, offset, self.state.seq + 1, f"{len(data)} bytes without a line's end")

    def _line(self, line: bytes, segment: int, offset: int, found: Scan) -> None:
        tag = _TAGS.get(line[:1])
        try:
            if tag is None or line[1:2] != b" " or line[HASH_END:PAYLOAD_START] != b" " or len(line) > MAX_LINE:
                raise ValueError("not a journal line")
            stated = bytes.fromhex(line[2:HASH_END].decode("ascii"))
            payload = line[PAYLOAD_START:]
            if tag is EVENT_TAG:
                self._event(Accepted(self._decode_event(payload), payload, stated), tag, (segment, offset), found)
            elif tag is BATCH_TAG:
                self._event(self._batch(payload, stated), tag, (segment, offset), found)
            elif tag is HEADER_TAG:
                self._header(self._decode_header(payload), payload, stated, (segment, offset), found)
            else:
                self._checkpoint(self._decode_checkpoint(payload), payload, stated, (segment, offset), found)
        except ValueError as error:  # msgspec's and Unicode's errors are ValueErrors
            found.faults.append(Fault(FaultKind.SYNTAX, segment, offset, self.state.seq + 1, str(error)))

    def _event(self, accepted: Accepted, tag: bytes, place: tuple[int, int], found: Scan) -> None:
        expected, seq = self.state.seq + 1, accepted.line.seq
        if seq > expected:
            detail = f"events {expected} to {seq - 1} are missing"
            found.faults.append(Fault(FaultKind.MISSING, *place, expected, detail))
        elif seq < expected:
            detail = f"event {seq} stands after event {expected - 1}"
            found.faults.append(Fault(FaultKind.BACKWARDS, *place, seq, detail))
        elif link(tag, self.state.head, accepted.payload) != accepted.head:
            detail = f"the hash of event {seq} does not follow from the line before and its own bytes"
            found.faults.append(Fault(FaultKind.EDITED, *place, seq, detail))
        self.state = ChainState(accepted.last, accepted.head)
        found.events.append(accepted)

    def _header(
        self, header: SegmentHeader, payload: bytes, stated: bytes, place: tuple[int, int], found: Scan
    ) -> None:
        problems = [
            problem
            for wrong, problem in (
                (header.format not in FORMATS, f"format {header.format} is not {FORMAT_VERSION}"),
                (header.writer != self.writer, f"it is of writer {header.writer!r}"),
                (bool(self.host) and header.host != self.host, f"it is of host {header.host!r}"),
                (header.segment != place[0], f"it says segment {header.segment}"),
                (place[1] != 0, "it is not at the segment's start"),
            )
            if wrong
        ]
        if header.seq > self.state.seq:
            detail = f"events {self.state.seq + 1} to {header.seq} are missing"
            found.faults.append(Fault(FaultKind.MISSING, *place, self.state.seq + 1, detail))
        elif header.seq < self.state.seq:
            detail = f"the segment continues from event {header.seq}, but event {self.state.seq} exists"
            found.faults.append(Fault(FaultKind.BACKWARDS, *place, header.seq + 1, detail))
        elif header.previous != self.state.head.hex():
            problems.append("it does not continue the segment before")
        if link(HEADER_TAG, bytes.fromhex(header.previous), payload) != stated:
            problems.append("its hash does not follow from its bytes")
        if problems:
            detail = "segment header: " + "; ".join(problems)
            found.faults.append(Fault(FaultKind.HEADER, *place, header.seq + 1, detail))
        self._trust(header, place, found)
        self.format = header.format
        self.host = self.host or header.host
        self.state = ChainState(header.seq, stated)

    def _trust(self, header: SegmentHeader, place: tuple[int, int], found: Scan) -> None:
        key = bytes.fromhex(header.key)
        if self.key and key != self.key:
            detail = "the segment names another signing key than the one trusted"
            found.faults.append(Fault(FaultKind.KEY, *place, header.seq + 1, detail))
        self.key = self.key or key

    def _checkpoint(
        self, checkpoint: CheckpointLine, payload: bytes, stated: bytes, place: tuple[int, int], found: Scan
    ) -> None:
        seq, head = self.state
        if checkpoint.count != seq or checkpoint.head != head.hex():
            detail = f"a checkpoint over {checkpoint.count} events does not match the {seq} events before it"
            found.faults.append(Fault(FaultKind.CHECKPOINT, *place, seq, detail))
        elif link(CHECKPOINT_TAG, head, payload) != stated:
            found.faults.append(
                Fault(FaultKind.EDITED, *place, seq, "the checkpoint's hash does not follow from its bytes")
            )
        elif self.key and self._verify is not None:
            text = signed_text(self.writer, self.host, checkpoint)
            if not self._verify(self.key, bytes.fromhex(checkpoint.signature), text):
                found.faults.append(
                    Fault(FaultKind.SIGNATURE, *place, seq, f"the checkpoint at event {seq} is not signed by the key")
                )
        self.state = ChainState(seq, stated)
        found.checkpoints.append(checkpoint)
