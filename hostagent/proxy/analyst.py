"""The other process: analyses statements that take too long for the event loop, one at a time, until its input ends.

Run by ``analysts`` as ``python -m hostagent.proxy.analyst``. It reads lengths (4 bytes, big-endian) and texts (UTF-8) from standard
input and answers each with a byte that is 1 if this was its last one, a length, and the ``Analysis`` as MessagePack. It holds nothing: no key, no socket;
whatever a text does to it, it is the one to end.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import BinaryIO

import msgspec

from hostagent.sql import analyse

MEMORY = 1 << 30
"""Bytes of address space: a text of 1 MiB takes some 600 MiB at worst."""
CPU_S = 15
"""Seconds of processor time for one text; a text of 1 MiB takes 6 at worst."""
_RECYCLED = 128 * 1024
"""Once this process has used so much (KiB), it ends after its answer, and the next text gets a new one."""


def main() -> None:
    """Serve until standard input ends."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    encode = msgspec.msgpack.Encoder().encode
    while text := _next(source):
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        answer = encode(analyse(text.decode()))
        last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _RECYCLED
        sink.write(bytes([last]) + len(answer).to_bytes(4, "big") + answer)
        sink.flush()
        if last:
            return


def _next(source: BinaryIO) -> bytes:
    head = source.read(4)
    return source.read(int.from_bytes(head, "big")) if len(head) == 4 else b""


if __name__ == "__main__":
    main()
