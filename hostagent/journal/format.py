"""The journal's lines: layout, payload shapes, and their hashes (README.md beside this file draws the layout)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated

import msgspec

from hostagent.model.rows import Row

FORMAT_VERSION = 2

FORMATS = (1, 2)
"""What a reader understands. Format 1 has no ``B`` lines."""

GENESIS = bytes(32)
"""What stands before the first line of the first segment."""

EVENT_TAG = b"\x00"
HEADER_TAG = b"\x01"
CHECKPOINT_TAG = b"\x02"
BATCH_TAG = b"\x03"

HASH_END = 66  # "E " and 64 hex digits
PAYLOAD_START = 67

MAX_LINE = 64 * 1024 * 1024
"""Bytes. A longer line is no line; the writer refuses to produce one."""


Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class EventLine(msgspec.Struct, frozen=True, gc=False):
    """The payload of an ``E`` line. ``fields`` is left as raw JSON: most readers pass it on."""

    seq: Count
    kind: str
    at: Count
    flow: str
    workload: str
    fields: msgspec.Raw


class NewLine(msgspec.Struct, gc=False):
    """The same on its way out: ``fields`` is anything that can be JSON."""

    seq: int
    kind: str
    at: int
    flow: str
    workload: str
    fields: object


class BatchLine(msgspec.Struct, frozen=True, gc=False):
    """The payload of a ``B`` line: several events, the first of which has number ``seq``. Each is left as raw JSON."""

    seq: Count
    events: list[msgspec.Raw]


class NewBatch(msgspec.Struct, gc=False):
    """The same on its way out."""

    seq: int
    events: Sequence[Row]


class SegmentHeader(msgspec.Struct, frozen=True):
    """The payload of an ``H`` line. ``seq`` is the number of the last event before this segment."""

    format: int
    writer: str
    host: str
    segment: Count
    seq: Count
    previous: str
    key: str
    at: Count


class CheckpointLine(msgspec.Struct, frozen=True):
    """The payload of a ``C`` line. ``signature`` is hex, empty when the writer has no key."""

    count: Count
    head: str
    at: Count
    closed: bool
    signature: str


def link(tag: bytes, previous: bytes, payload: bytes) -> bytes:
    """Return the 32-byte hash of a line."""
    return sha256(tag + previous + payload).digest()


def signed_text(writer: str, host: str, checkpoint: CheckpointLine) -> bytes:
    """Return the bytes that a checkpoint's signature covers."""
    closed = "true" if checkpoint.closed else "false"
    return (
        f"hostagent journal checkpoint 1\n{writer}\n{host}\n"
        f"{checkpoint.count}\n{checkpoint.head}\n{checkpoint.at}\n{closed}\n"
    ).encode()
