"""Which sockets can be made at all, by every number and call gate."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from attempts import LIBC, attempt, syscall


def _families() -> Iterator[tuple[int, int]]:
    for family in range(46):
        for kind in (1, 2, 3, 4, 5, 6, 10):
            yield family, kind


@attempt("families")
def _every_family() -> str:
    """Which (family, type) can be had at all, whatever the protocol."""
    had = set()
    for family, kind in _families():
        for protocol in (0, 1, 2, 6, 16, 17, 33, 58, 115, 132, 136, 143, 255, 256, 262):
            descriptor = LIBC.socket(family, kind, protocol)
            if descriptor >= 0:
                os.close(descriptor)
                had.add(f"{family}/{kind}/{protocol}" if family != 1 else f"{family}/{kind}")
    return " ".join(sorted(had))


@attempt("families-pair")
def _every_pair() -> str:
    """The same by socketpair, which makes sockets too: families where it does anything else than a plain refusal."""
    had = set()
    pair = (ctypes.c_int * 2)()
    for family, kind in _families():
        for protocol in (0, 6, 17):
            if LIBC.socketpair(family, kind, protocol, pair) == 0:
                had.add(f"{family}/{kind}")
            elif ctypes.get_errno() not in (errno.EPERM, errno.EAFNOSUPPORT) and family != socket.AF_UNIX:
                had.add(f"{family}:{errno.errorcode[ctypes.get_errno()]}")
    return " ".join(sorted(had))


_FOREIGN = r"""
#include <stdio.h>
#include <string.h>
#include <errno.h>
int main(void) {
    int result; unsigned arguments[3] = {17, 3, 0x300};
    /* socket(AF_PACKET, SOCK_RAW) by the 32-bit call gate: socketcall is 102 there, socket 359 */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(359), "b"(17), "c"(3), "d"(0x300));
    printf("%d ", result);
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20));
    printf("%d ", result);
    long wide;
    __asm__ volatile("syscall" : "=a"(wide) : "a"(0x40000000L | 41), "D"(17L), "S"(3L), "d"(0x300L) : "rcx", "r11", "memory");
    printf("%ld\n", wide);
    return 0;
}
"""


@attempt("foreign-architectures")
def _foreign() -> str:
    Path("/tmp/foreign.c").write_text(_FOREIGN)
    subprocess.run(["gcc", "-o", "/tmp/foreign", "/tmp/foreign.c"], check=True, capture_output=True)
    done = subprocess.run(["/tmp/foreign"], capture_output=True, text=True, check=False)
    return f"{done.stdout.strip()} status {done.returncode}"


for _label, _family, _kind, _protocol in (
    ("mptcp", 2, 1, 262), ("sctp", 2, 1, 132), ("raw-icmp", 2, 3, 1), ("raw-icmp6", 10, 3, 58), ("raw-any", 2, 3, 255), ("ping", 2, 2, 1),
    ("packet", 17, 3, 0x300), ("packet-datagram", 17, 2, 0x300), ("vsock", 40, 1, 0), ("alg", 38, 5, 0), ("rds", 21, 5, 0),
    ("netfilter", 16, 3, 12), ("sock-diag", 16, 3, 4), ("xdp", 44, 3, 0), ("tipc", 30, 5, 0), ("smc", 43, 1, 0),
):  # fmt: skip
    attempt(f"socket-{_label}")(
        lambda family=_family, kind=_kind, protocol=_protocol: syscall(41 if os.uname().machine == "x86_64" else 198, family, kind, protocol)
    )  # type: ignore[misc]
