"""The table of attempts, and the plainest ways of making a connection or a system call."""

from __future__ import annotations

import ctypes
import errno
import socket
import sys
from collections.abc import Callable

SECRET = b"exfiltrated-0123456789"
SINK_4, SINK_6 = sys.argv[1:3]
LIBC = ctypes.CDLL(None, use_errno=True)
ATTEMPTS: dict[str, Callable[[], str]] = {}


def attempt(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def register(body: Callable[[], str]) -> Callable[[], str]:
        ATTEMPTS[name] = body
        return body

    return register


def name_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno or 0, str(error))


def syscall(number: int, *arguments: int) -> str:
    result = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in arguments])
    return f"ok {result}" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def exchange(dial: socket.socket) -> str:
    """Push the secret through a connection; ``closed`` when the other end hung up without a byte."""
    try:
        dial.sendall(SECRET)
        data = dial.recv(100)
    except ConnectionError:
        return "closed"
    return f"ok {data!r}" if data else "closed"


def dial_to(family: int, address: str, port: int, *, options: Callable[[socket.socket], None] = lambda _: None) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as dial:
        dial.settimeout(4)
        options(dial)
        dial.connect((address, port))
        return exchange(dial)
