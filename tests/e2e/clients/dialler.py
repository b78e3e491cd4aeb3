"""Dials the database again and again and prints how each attempt ended: one JSON line per change of outcome, and a sum at the end.

Arguments: seconds, host, port. Outcomes: "refused", "reset", "accepted" (the PostgreSQL server answered our SSLRequest) and
"slow" (nothing happened within two seconds: what must never be).
"""

from __future__ import annotations

import collections
import json
import socket
import sys
import time


def attempt(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), 2) as connection:
            connection.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
            return "accepted" if connection.recv(1) in (b"S", b"N") else "reset"
    except ConnectionRefusedError:
        return "refused"
    except ConnectionError:
        return "reset"
    except TimeoutError:
        return "slow"


def main() -> None:
    until = time.monotonic() + float(sys.argv[1])
    counts: collections.Counter[str] = collections.Counter()
    last = ""
    slowest = 0.0
    while time.monotonic() < until:
        started = time.monotonic()
        outcome = attempt(sys.argv[2], int(sys.argv[3]))
        slowest = max(slowest, time.monotonic() - started)
        counts[outcome] += 1
        if outcome != last:
            print(json.dumps({"now": outcome}), flush=True)
            last = outcome
    print(json.dumps({"counts": counts, "slowest": slowest}), flush=True)


main()
