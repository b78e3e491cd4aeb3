"""The governed load: connects as fast as it is told, to the sink's addresses, and says what each attempt met.

Run inside a workload, as the text of this file: ``python3 -I -c TEXT OPTIONS-JSON`` with ``rate`` (attempts a second),
``targets`` ([family, address] each), ``token`` (what only the proxy says; empty: it closes without a word) and optionally ``ports`` and ``cgroup`` (one to enter first, for a process
that nobody launched). Ends with its input. Each 100 ms one JSON line: everything so far, times by CLOCK_MONOTONIC.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time

STALLED_S = 0.5
"""An attempt with no answer after so long is given up as ``stalled``."""

REPORT_S = 0.1
PORTS = range(5432, 5496)
"""The destination ports, in turn, so that no pair of addresses runs out of source ports."""

UDP_EVERY = 8
_RESET = struct.pack("ii", 1, 0)
_MAXIMUM_PENDING = 900


class Load:
    def __init__(self, options: dict[str, object]) -> None:
        self.rate = float(str(options["rate"]))
        self.token = str(options["token"]).encode()
        self.targets = [(socket.AddressFamily(family), address) for family, address in options["targets"]]  # type: ignore[attr-defined]
        self.ports = list(options.get("ports") or PORTS)  # type: ignore[call-overload]
        self.poll = select.epoll()
        self.pending: dict[int, tuple[socket.socket, float]] = {}
        self.met: dict[str, int] = {}
        self.attempts = 0
        self.began = time.monotonic()
        self.first = self.last = self.gap_start = self.gap = 0.0

    def count(self, what: str) -> None:
        self.met[what] = self.met.get(what, 0) + 1

    def attempt(self) -> None:
        family, address = self.targets[self.attempts % len(self.targets)]
        port = self.ports[self.attempts // len(self.targets) % len(self.ports)]
        self.attempts += 1
        datagram = self.attempts % UDP_EVERY == 0
        try:
            made = socket.socket(family, (socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM) | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.count("socket: " + errno.errorcode.get(error.errno or 0, str(error)))
            return
        if datagram:
            with made:
                try:
                    made.sendto(b"stolen", (address, 443))
                    self.count("udp: sent")
                except OSError as error:
                    self.count("udp: " + errno.errorcode.get(error.errno or 0, str(error)))
            return
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        code = made.connect_ex((address, port))
        if code not in (0, errno.EINPROGRESS):
            self.count(errno.errorcode.get(code, str(code)))
            made.close()
            return
        self.pending[made.fileno()] = (made, time.monotonic())
        self.poll.register(made, select.EPOLLIN)

    def hear(self, wait: float) -> None:
        for number, _ in self.poll.poll(max(0.0, wait), 256):
            made, _ = self.pending.pop(number)
            try:
                said = made.recv(256)
                # Whoever was accepted by a proxy that then died is closed without a word.
                what = "proxied" if said.startswith(self.token) else f"unknown answer {said[:60]!r}" if said else "closed"
            except OSError as error:
                what = errno.errorcode.get(error.errno or 0, str(error))
            if what == "proxied":
                self.succeeded(time.monotonic())
            self.count(what)
            self.leave(made)

    def leave(self, made: socket.socket) -> None:
        # Told before it is closed: somebody who looks at our descriptors just then keeps the socket alive a moment longer (epoll(7), Q6).
        self.poll.unregister(made)
        made.close()

    def succeeded(self, now: float) -> None:
        self.first = self.first or now
        if self.last and now - self.last > self.gap:
            self.gap_start, self.gap = self.last, now - self.last
        self.last = now

    def give_up(self, now: float) -> None:
        for number, (made, started) in list(self.pending.items()):
            if now - started < STALLED_S:
                break
            self.count("stalled")
            self.leave(made)
            del self.pending[number]

    def report(self, now: float) -> None:
        line = {
            "attempts": self.attempts, "seconds": now - self.began, "met": self.met, "first": self.first, "last": self.last,
            "gap": self.gap, "gap_start": self.gap_start,
        }  # fmt: skip
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def run(self) -> None:
        due = report_at = self.began
        ended = select.poll()
        ended.register(0, select.POLLIN)
        step = 1.0 / self.rate
        while True:
            now = time.monotonic()
            # Behind, because the machine was busy: what was missed is made up in a burst of at most two seconds' worth.
            due = max(due, now - 2.0)
            while due <= now and len(self.pending) < _MAXIMUM_PENDING:
                self.attempt()
                due += step
            if now >= report_at:
                self.give_up(now)
                self.report(now)
                report_at = now + REPORT_S
                if ended.poll(0):
                    return
            self.hear(min(due - time.monotonic(), REPORT_S))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.get("cgroup"):
        with open(given["cgroup"] + "/cgroup.procs", "w") as file:
            file.write("0")
        os.setresuid(65534, 65534, 65534)
    Load(given).run()
