"""The reader's half: bytes of a segment in, verified lines and precise faults out.

A fault never stops the reading: the line's own hash is adopted as the new head, so that one break is one fault and
everything after it is checked again.
"""

from __future__ import annotations

import enum
from binascii import hexlify
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

import msgspec

from hostagent.journal.chain import ChainState
from hostagent.journal.format import (
    CHECKPOINT_TAG,
    EVENT_TAG,
    FORMAT_VERSION,
    HASH_END,
    HEADER_TAG,
    MAX_LINE,
    PAYLOAD_START,
    CheckpointLine,
    EventLine,
    SegmentHeader,
    link,
    signed_text,
)

_TAGS = {b"E": EVENT_TAG, b"H": HEADER_TAG, b"C": CHECKPOINT_TAG}


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
    """One event line: parsed, with its raw payload and hash."""

    line: EventLine
    payload: bytes
    head: bytes


class Scan(NamedTuple):
    """What one call of ``Verifier.scan`` found. ``consumed`` is the length of the complete lines."""

    events: list[Accepted]
    faults: list[Fault]
    checkpoints: list[CheckpointLine]
    consumed: int


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
        self._verify = verify
        self._decode_event = msgspec.json.Decoder(EventLine).decode
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
            follows = sha256(b"\x00" + head + payload).digest()
            if not stands(b"E %b " % hexlify(follows), start):
                break
            try:
                event = decode(payload)
            except ValueError:
                break
            if event.seq != seq + 1:
                break
            seq, head = event.seq, follows
            append(Accepted(event, payload, head))
            start, limit = end + 1, limit - 1
        self.state = ChainState(seq, head)
        return start, limit

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
                self._event(self._decode_event(payload), payload, stated, (segment, offset), found)
            elif tag is HEADER_TAG:
                self._header(self._decode_header(payload), payload, stated, (segment, offset), found)
            else:
                self._checkpoint(self._decode_checkpoint(payload), payload, stated, (segment, offset), found)
        except ValueError as error:  # msgspec's and Unicode's errors are ValueErrors
            found.faults.append(Fault(FaultKind.SYNTAX, segment, offset, self.state.seq + 1, str(error)))

    def _event(self, event: EventLine, payload: bytes, stated: bytes, place: tuple[int, int], found: Scan) -> None:
        expected = self.state.seq + 1
        if event.seq > expected:
            detail = f"events {expected} to {event.seq - 1} are missing"
            found.faults.append(Fault(FaultKind.MISSING, *place, expected, detail))
        elif event.seq < expected:
            detail = f"event {event.seq} stands after event {expected - 1}"
            found.faults.append(Fault(FaultKind.BACKWARDS, *place, event.seq, detail))
        elif link(EVENT_TAG, self.state.head, payload) != stated:
            detail = f"the hash of event {event.seq} does not follow from the line before and its own bytes"
            found.faults.append(Fault(FaultKind.EDITED, *place, event.seq, detail))
        self.state = ChainState(event.seq, stated)
        found.events.append(Accepted(event, payload, stated))

    def _header(
        self, header: SegmentHeader, payload: bytes, stated: bytes, place: tuple[int, int], found: Scan
    ) -> None:
        problems = [
            problem
            for wrong, problem in (
                (header.format != FORMAT_VERSION, f"format {header.format} is not {FORMAT_VERSION}"),
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
