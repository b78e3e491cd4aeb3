"""The far end of the host's only wire: serves the ungoverned, and counts and keeps every frame that is not theirs.

``python -m tests.lifecycle.wire DEVICE LOG`` in its network namespace. Ungoverned connections go to ``CONTROL_PORT`` and nothing
governed ever does, so any other frame is a leak (left out: ARP, and ICMPv6 of neighbours and groups, the kernel's own). Every 100 ms
one JSON line: frames that leaked, the first hundred of them in hex, how many of all were bare TCP resets (no socket sends those
and they carry nothing: the kernel's own answer to a listener's packet that nothing translated), control connections served, and
how many frames the kernel had to drop before we read them (they would be unseen, so there must be none).
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import struct
import sys
import time

from tests.netns.sink import ours

CONTROL_PORT = 7777
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_KEPT = 100
_REPORT_S = 0.1


class Wire:
    def __init__(self, device: str) -> None:
        self.capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.capture.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.capture.bind((device, 0))
        self.capture.setblocking(False)
        self.server = socket.create_server(("::", CONTROL_PORT), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
        self.server.setblocking(False)
        # Whatever the governed get out to must be answered by somebody, so that a leak is a whole connection.
        self.trap = socket.create_server(("::", 5432), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
        self.leaked = self.resets = self.served = self.frames = self.dropped = 0
        self.kept: list[str] = []

    def look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(500):
                frame, address = self.capture.recvfrom(65536)
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                self.frames += 1
                if bare_reset(frame) and not controls(frame):
                    self.resets += 1
                elif not (ours(frame) or controls(frame)):
                    self.leaked += 1
                    if len(self.kept) < _KEPT:
                        self.kept.append(frame[:200].hex())

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.server.accept()
            with connection:
                connection.sendall(b"here\n")
            self.served += 1

    def answer_leak(self) -> None:
        with contextlib.suppress(OSError):
            self.trap.accept()[0].close()

    def line(self) -> str:
        _, dropped = struct.unpack("=II", self.capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self.dropped += dropped
        return json.dumps(
            {"leaked": self.leaked, "resets": self.resets, "frames": self.frames, "dropped": self.dropped, "served": self.served, "kept": self.kept}
        )


def tcp(frame: bytes) -> tuple[bytes, int]:
    """Return the TCP segment in a frame and the length of its payload; empty when it is something else."""
    (kind,) = struct.unpack_from(">H", frame, 12)
    if kind == 0x0800 and frame[23] == 6:
        length, start = struct.unpack_from(">H", frame, 16)[0], 14 + (frame[14] & 0xF) * 4
        segment = frame[start : 14 + length]
    elif kind == 0x86DD and frame[20] == 6:
        segment = frame[54 : 54 + struct.unpack_from(">H", frame, 18)[0]]
    else:
        return b"", 0
    return segment, len(segment) - (segment[12] >> 4) * 4


def controls(frame: bytes) -> bool:
    """Whether a frame is TCP of an ungoverned connection to or from the control port."""
    segment, _ = tcp(frame)
    return bool(segment) and CONTROL_PORT in struct.unpack_from(">HH", segment)


def bare_reset(frame: bytes) -> bool:
    """Whether a frame is a TCP reset without SYN and without payload."""
    segment, payload = tcp(frame)
    return bool(segment) and segment[13] & 0x06 == 0x04 and payload == 0


def main(device: str, log_path: str) -> None:
    wire = Wire(device)
    selector = selectors.DefaultSelector()
    selector.register(wire.capture, selectors.EVENT_READ, wire.look)
    selector.register(wire.server, selectors.EVENT_READ, wire.serve)
    selector.register(wire.trap, selectors.EVENT_READ, wire.answer_leak)
    due = 0.0
    with open(log_path, "a", buffering=1) as log:
        while True:
            for key, _ in selector.select(_REPORT_S):
                key.data()
            if time.monotonic() >= due:
                log.write(wire.line() + "\n")
                due = time.monotonic() + _REPORT_S


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
