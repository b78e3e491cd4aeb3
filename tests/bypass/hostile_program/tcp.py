"""TCP: every way of making a connection."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

from attempts import SECRET, SINK_4, SINK_6, attempt, dial_to, exchange, name_of

for _port in (1, 22, 80, 443, 6379, 5433, 8888, 65535):
    attempt(f"tcp4-{_port}")(lambda port=_port: dial_to(socket.AF_INET, SINK_4, port))  # type: ignore[misc]
attempt("tcp6-443")(lambda: dial_to(socket.AF_INET6, SINK_6, 443))
attempt("tcp-mapped-443")(lambda: dial_to(socket.AF_INET6, f"::ffff:{SINK_4}", 443))
attempt("tcp-compatible-443")(lambda: dial_to(socket.AF_INET6, f"::{SINK_4}", 443))
attempt("tcp-bindtodevice-lo")(
    lambda: dial_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(socket.SOL_SOCKET, 25, b"lo\0"))
)
attempt("tcp-bindtodevice-host")(
    lambda: dial_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(socket.SOL_SOCKET, 25, b"stage0\0"))
)
attempt("tcp-mark")(lambda: dial_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(socket.SOL_SOCKET, 36, 0x2000)))
attempt("tcp-transparent")(lambda: dial_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(0, 19, 1)))
attempt("tcp-repair")(lambda: dial_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(6, 19, 1)))
attempt("tcp-ulp-smc")(lambda: dial_to(socket.AF_INET, SINK_4, 443, options=lambda s: s.setsockopt(6, 31, b"smc\0")))
attempt("tcp-source-route")(
    lambda: dial_to(
        socket.AF_INET,
        SINK_4,
        443,
        options=lambda s: s.setsockopt(0, 4, bytes([131, 7, 4]) + socket.inet_aton(SINK_4) + b"\x00"),
    )
)
attempt("tcp-routing-header")(
    lambda: dial_to(
        socket.AF_INET6,
        SINK_6,
        443,
        options=lambda s: s.setsockopt(41, 57, bytes([0, 2, 2, 1]) + bytes(4) + socket.inet_pton(socket.AF_INET6, SINK_6)),
    )
)


@attempt("tcp-foreign-source")
def _foreign_source() -> str:
    def bind(dial: socket.socket) -> None:
        dial.setsockopt(0, 15, 1)  # IP_FREEBIND
        dial.bind(("10.77.0.1", 0))

    return dial_to(socket.AF_INET, SINK_4, 443, options=bind)


@attempt("tcp-fastopen")
def _fastopen() -> str:
    with socket.socket() as dial:
        dial.settimeout(4)
        dial.sendto(SECRET, socket.MSG_FASTOPEN, (SINK_4, 443))
        return exchange(dial)


@attempt("tcp-nonblocking")
def _nonblocking() -> str:
    with socket.socket() as dial:
        dial.setblocking(False)
        dial.connect_ex((SINK_4, 443))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            try:
                dial.send(SECRET)
                break
            except BlockingIOError:
                time.sleep(0.005)
        dial.setblocking(True)
        dial.settimeout(4)
        return exchange(dial)


@attempt("tcp-threads")
def _threads() -> str:
    outcomes: set[str] = set()

    def one() -> None:
        try:
            outcomes.add(dial_to(socket.AF_INET, SINK_4, 9999))
        except OSError as error:
            outcomes.add(name_of(error))

    threads = [threading.Thread(target=one) for _ in range(50)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return " ".join(sorted(outcomes))


@attempt("tcp-listener-direct")
def _direct() -> str:
    found = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "127.9.9.9"), (socket.AF_INET, "192.0.0.8")):
        for port in (700, 701, 702, 703, 901, 902):
            try:
                found.append(dial_to(family, host, port))
            except OSError as error:
                found.append(name_of(error))
    return " ".join(sorted(set(found)))


@attempt("other-listeners")
def _others() -> str:
    found = set()
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for port in map(int, os.environ["HOSTILE_PORTS"].split()):
            try:
                found.add(dial_to(family, host, port))
            except OSError as error:
                found.add(name_of(error))
    return " ".join(sorted(found))


@attempt("tcp-own-relay")
def _own_relay() -> str:
    """Two processes of ours and a server of our own: the relay may be had, what it dials is governed."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname(), 4) as inner:
            outer, _ = server.accept()
            inner.sendall(SECRET)
            outer.recv(100)
            outer.close()
    return dial_to(socket.AF_INET, SINK_4, 443)


@attempt("memfd-exec")
def _memfd() -> str:
    """A program that never was a file: what it dials is governed all the same."""
    descriptor = os.memfd_create("x", 0)
    os.write(descriptor, Path("/bin/true").read_bytes())
    done = subprocess.run([f"/proc/self/fd/{descriptor}"], pass_fds=[descriptor], check=False)
    return f"status {done.returncode} {dial_to(socket.AF_INET, SINK_4, 443)}"
