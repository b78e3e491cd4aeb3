"""Runs of CopyData and what they carry (PostgreSQL 17 §53.7), for a stream that is counted as it passes.

Layout::

    "d" int32 length (itself and what follows) octets
"""

from __future__ import annotations

from hostagent.wire.postgres.messages import HEADER, HEADER_SIZE, refuse_frame


def payload_run(buffer: bytes, offset: int, end: int, kind: int, cap: int) -> tuple[int, int, bytes]:
    """Return the offset behind, the number of, and what is carried by the complete messages of ``kind`` from ``offset`` on.

    Raises:
        RemoteWireError: one is longer than ``cap``, or shorter than possible.
    """
    parts: list[bytes] = []
    append = parts.append
    last = end - HEADER_SIZE
    while offset <= last:
        found, length = HEADER(buffer, offset)
        if found != kind:
            break
        if length < 4 or length - 4 > cap:
            raise refuse_frame(found, length, {kind: cap})
        stop = offset + length + 1
        if stop > end:
            break
        append(buffer[offset + HEADER_SIZE : stop])
        offset = stop
    return offset, len(parts), b"".join(parts)
