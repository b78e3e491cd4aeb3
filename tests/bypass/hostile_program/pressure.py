"""Taking more than is given: ports, processes, room."""

from __future__ import annotations

import os
import resource
import socket

from attempts import attempt, name_of


@attempt("privileged-ports")
def _privileged_ports() -> str:
    had = []
    for port in (53, 80, 443, 700, 701, 901, 902):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with socket.socket(family, kind) as squatter:
                    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    try:
                        squatter.bind((host, port))
                        had.append(str(port))
                    except OSError:
                        pass
    return " ".join(had)


@attempt("fork-bomb")
def _fork_bomb() -> str:
    """How many processes one workload can have at once (it stops at 9000 by itself)."""
    read, write = os.pipe()
    children = []
    try:
        for _ in range(9000):
            pid = os.fork()
            if pid == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            children.append(pid)
        outcome = "ok 9000"
    except OSError as error:
        outcome = f"{name_of(error)} {len(children)}"
    os.close(write)
    for pid in children:
        os.waitpid(pid, 0)
    return outcome


@attempt("limits")
def _limits() -> str:
    sizes = [f"{place}={os.statvfs(place).f_blocks * os.statvfs(place).f_frsize >> 20}M" for place in ("/tmp", "/run", "/dev/shm", "/var/tmp", "/dev")]
    return f"{resource.getrlimit(resource.RLIMIT_NPROC)} {resource.getrlimit(resource.RLIMIT_CORE)} {' '.join(sizes)}"
