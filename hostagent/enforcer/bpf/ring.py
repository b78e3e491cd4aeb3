"""Reads a BPF ring buffer by memory map, from its pinned map's descriptor.

Layout (kernel/bpf/ringbuf.c; the positions are part of the user API): page 0 holds the reader's position (ours to write), page
1 the writer's, then the data, mapped twice in a row so that no record is ever split. Each record has eight bytes before it: its
length with two flag bits, and an offset that is the kernel's; records begin at multiples of eight.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER = 8


class Ring:
    """One ring. Readable for a selector (``fileno``) when something is waiting."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map it. The descriptor stays the caller's, and open.

        Args:
            descriptor: of the map.
            size: its ``max_entries``: bytes of data, a power of two.

        Raises:
            OSError: it cannot be mapped.
        """
        page = mmap.PAGESIZE
        self._descriptor = descriptor
        self._mask = size - 1
        self._ours = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._theirs = mmap.mmap(descriptor, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._page = page

    def fileno(self) -> int:
        """The map's descriptor."""
        return self._descriptor

    def read(self, limit: int = 4096) -> Iterator[bytes]:
        """Yield what is waiting, at most ``limit`` records; each is given back to the kernel before the next is read."""
        (position,) = struct.unpack_from("=Q", self._ours, 0)
        for _ in range(limit):
            (end,) = struct.unpack_from("=Q", self._theirs, 0)
            if position >= end:
                return
            place = self._page + (position & self._mask)
            (length,) = struct.unpack_from("=I", self._theirs, place)
            if length & _BUSY:  # being written at this moment; the next wake-up is its own
                return
            size = length & ~(_BUSY | _DISCARDED)
            data = None if length & _DISCARDED else self._theirs[place + _HEADER : place + _HEADER + size]
            position += (size + _HEADER + 7) & ~7
            struct.pack_into("=Q", self._ours, 0, position)
            if data is not None:
                yield data

    def close(self) -> None:
        """Give the memory back."""
        self._ours.close()
        self._theirs.close()
