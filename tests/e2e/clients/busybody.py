"""Works and leaks as hard as it can while the service around it is killed: what it could acknowledge is printed, line by line.

Arguments: first number, an address with sinks. Each number is inserted in a transaction of its own (parameter and all) and
printed once the server has acknowledged it; masked columns are read in between, and anything that looks unmasked is printed;
other ports are tried all the time.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading

import psycopg

SECRETS = ("@example", "4111 1111", "+44 20 7946")


def leak(address: str) -> None:
    for port in itertools.cycle((5433, 9999, 443, 53)):
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1) as connection:
            connection.sendall(b"leak")
            connection.recv(1)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"leak", (address, port))


def work(number: int) -> int:
    with psycopg.connect(autocommit=True, connect_timeout=5) as connection:
        while True:
            print(f"try {number}", flush=True)
            connection.execute("insert into killed values (%s::text::int)", (str(number),))
            print(f"done {number}", flush=True)
            number += 1
            row = connection.execute("select email, card_number, phone from customers where id = 1").fetchone()
            if row is None or any(secret in str(row) for secret in SECRETS):
                print(f"unmasked {row}", flush=True)


def main() -> None:
    number = int(sys.argv[1])
    threading.Thread(target=leak, args=(sys.argv[2],), daemon=True).start()
    while True:
        try:
            work(number)
        except psycopg.Error:
            number += 1000  # whatever happened to the number before: it is not used again


main()
