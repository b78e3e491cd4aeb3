"""An ungoverned program of the host: connects all the time, outwards (IPv4, IPv6) and on loopback, and must never fail.

``python -m tests.lifecycle.control RATE ADDRESS4 ADDRESS6``. Ends with its input. Each 100 ms one JSON line: everything so far.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

from tests.lifecycle.wire import CONTROL_PORT

_PATIENCE_S = 5.0
_RESET = struct.pack("ii", 1, 0)


def main(rate: float, four: str, six: str) -> None:
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    ways = [(socket.AF_INET, four, CONTROL_PORT), (socket.AF_INET6, six, CONTROL_PORT), (socket.AF_INET, *server.getsockname())]
    failed: dict[str, int] = {}
    attempts, gap, reported = 0, 0.0, 0.0
    last = due = time.monotonic()
    ended = select.poll()
    ended.register(0, select.POLLIN)
    while True:
        family, address, port = ways[attempts % 3]
        attempts += 1
        try:
            with socket.socket(family) as made:
                made.settimeout(_PATIENCE_S)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                made.connect((address, port))
                if attempts % 3 == 0:
                    there = server.accept()[0]
                    there.sendall(b"here\n")
                    there.close()
                if made.recv(16) != b"here\n":
                    raise OSError("no answer")
            now = time.monotonic()
            gap, last = max(gap, now - last), now
        except OSError as error:
            failed[str(error)] = failed.get(str(error), 0) + 1
            now = time.monotonic()
        if now - reported > 0.1:
            print(json.dumps({"attempts": attempts, "failed": failed, "gap": gap, "last": last}), flush=True)
            reported = now
            if ended.poll(0):
                return
        due = max(due + 1 / rate, now - 0.05)
        time.sleep(max(0.0, due - now))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3])
