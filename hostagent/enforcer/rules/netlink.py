"""What the kernel's netfilter messages have in common: attributes (``struct nlattr``, linux/netlink.h)."""

from __future__ import annotations

import struct

_ATTRIBUTE_MASK = 0x3FFF
"""A type without the bits that say nested and network byte order."""


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in ``data`` by type; of one that stands twice the first, and none behind one that is too short."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4:
            break
        found.setdefault(kind & _ATTRIBUTE_MASK, data[position + 4 : position + length])
        position += (length + 3) & ~3
    return found
