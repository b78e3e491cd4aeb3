"""The writer's half: events in, lines out, each carrying the hash of everything before it."""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from hostagent.journal.format import (
    CHECKPOINT_TAG,
    FORMAT_VERSION,
    GENESIS,
    HEADER_TAG,
    MAX_LINE,
    CheckpointLine,
    NewLine,
    SegmentHeader,
    link,
    signed_text,
)
from hostagent.model.errors import UnwritableEventError
from hostagent.model.event import Event

_LONGEST = MAX_LINE - 128
_DEEPEST = 100


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


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


class Chain:
    """Numbers, frames and links events. Changes only when a method returns; ``state`` may be saved and set back."""

    __slots__ = ("host", "state", "writer")

    def __init__(self, writer: str, host: str, state: ChainState | None = None) -> None:
        """``writer`` and ``host`` name the chain; ``state`` is where it continues."""
        self.writer = writer
        self.host = host
        self.state = state or ChainState()

    def frame(self, events: Sequence[Event]) -> bytes:
        """Return the lines of ``events``, to be appended with one write.

        Raises:
            UnwritableEventError: an event cannot be expressed as JSON, or is too long; the chain has not moved.
        """
        seq, head = self.state
        parts: list[bytes] = []
        for kind, at, flow, workload, fields in events:
            seq += 1
            try:
                payload = _encode(NewLine(seq, kind, at, flow, workload, fields))
            except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
                payload = _encode_carefully(seq, kind, at, flow, workload, fields)
            if len(payload) > _LONGEST:
                raise UnwritableEventError(f"an event of {len(payload)} bytes is too long for the journal")
            head = sha256(b"\x00" + head + payload).digest()
            parts.append(b"E %b %b\n" % (hexlify(head), payload))
        self.state = ChainState(seq, head)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def header(self, segment: int, at: int, key: bytes = b"") -> bytes:
        """Return the first line of segment number ``segment``; ``key`` is the raw Ed25519 public key."""
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


def _encode_carefully(seq: int, kind: str, at: int, flow: str, workload: str, fields: Mapping[str, object]) -> bytes:
    try:
        return _encode(
            NewLine(seq, kind, at, str(_printable(flow)), str(_printable(workload)), _printable(fields)),
        )
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnwritableEventError(f"a {kind} event cannot be written as JSON: {error}") from error
