"""The hostile program of ``hostagent verify``: tries what a workload must not manage, and prints what came of each attempt.

A text that is run inside a throw-away leaf by a bare interpreter: it imports the standard library alone, judges nothing and takes
one argument, JSON (see ``verification``). It prints one JSON object, attempt by outcome. An outcome is an error's name, or:
``closed`` (a connection that was closed before a byte), ``answered`` (one that was not), ``sent``, ``made``, ``done``, ``refused``
and ``resolved`` (DNS), ``none reached``, ``reached PATH``.
"""

import ctypes
import errno
import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

_TIMEOUT_S = 4.0
_OUTSIDE_4, _OUTSIDE_6 = "192.0.2.1", "2001:db8::1"  # RFC 5737, RFC 3849: addresses that no host has
_DISCARD = 9
_libc = ctypes.CDLL(None, use_errno=True)


def attempt(body: Callable[[], str]) -> str:
    """Return what ``body`` says, or the name of the error that it met."""
    try:
        return body()
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def dial(family: int, address: str, port: int) -> str:
    """Connect, and see whether the other end says anything before it closes."""
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(_TIMEOUT_S)
        made.connect((address, port))
        try:
            return "answered" if made.recv(1) else "closed"
        except ConnectionResetError:
            return "closed"


def send(family: int, address: str) -> str:
    """Send a datagram."""
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.sendto(b"canary", (address, _DISCARD))
    return "sent"


def make(family: int, kind: int, protocol: int) -> str:
    """Make a socket."""
    socket.socket(family, kind, protocol).close()
    return "made"


def call(number: int, *arguments: object) -> str:
    """Make a system call by number; one that this architecture does not have (-1) counts as refused."""
    if _libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"


def ask(name: str, server: str, *, stream: bool) -> str:
    """Ask ``server`` for a name's address: ``resolved``, ``refused`` (an error for an answer), ``closed`` or an error's name."""
    question = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".")) + b"\0"
    query = secrets.token_bytes(2) + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", 1, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as made:
        made.settimeout(_TIMEOUT_S)
        made.connect((server, 53))
        try:
            made.sendall(struct.pack(">H", len(query)) + query if stream else query)
            reply = made.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            reply = b""
    reply = reply[2:] if stream else reply
    if len(reply) < 12 or reply[:2] != query[:2]:
        return "closed" if not reply else "answered"
    flags, _, answers = struct.unpack_from(">HHH", reply, 2)
    if flags & 0xF == 0:
        return "resolved" if answers else "no address"
    return "refused" if not answers else "answered"


def reach(paths: list[str]) -> str:
    """Dial unix sockets. What stands in for a masked one was made by this pid namespace's first process."""
    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            made.settimeout(_TIMEOUT_S)
            try:
                made.connect(path)
                maker, _, _ = struct.unpack("=iii", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if maker != 1 or made.recv(1):
                    return f"reached {path}"
            except OSError:
                continue
    return "none reached"


def join_cgroup() -> str:
    """Move to another cgroup."""
    Path("/sys/fs/cgroup/cgroup.procs").write_text("0")
    return "done"


def set_user_id() -> str:
    """Make a file that others would run as us."""
    path = Path("/tmp") / secrets.token_hex(8)  # noqa: S108 - the workload's private one
    path.touch(mode=0o600, exist_ok=False)
    path.chmod(0o4755)
    return "done"


def become_root() -> str:
    """Become root."""
    os.setuid(0)
    return "done"


def attempts(given: dict[str, object]) -> dict[str, Callable[[], str]]:
    """Return every attempt by name."""
    port = int(str(given["port"]))
    numbers: dict[str, int] = given["numbers"]  # type: ignore[assignment]
    paths: list[str] = given["paths"]  # type: ignore[assignment]
    tunnel = f"{secrets.token_hex(20)}.{secrets.token_hex(20)}.example.net"
    found: dict[str, Callable[[], str]] = {
        "tcp IPv4": lambda: dial(socket.AF_INET, _OUTSIDE_4, _DISCARD),
        "tcp IPv6": lambda: dial(socket.AF_INET6, _OUTSIDE_6, _DISCARD),
        "tcp IPv4 by an IPv6 socket": lambda: dial(socket.AF_INET6, f"::ffff:{_OUTSIDE_4}", _DISCARD),
        "udp IPv4": lambda: send(socket.AF_INET, _OUTSIDE_4),
        "udp IPv6": lambda: send(socket.AF_INET6, _OUTSIDE_6),
        "DNS tunnel over UDP": lambda: ask(tunnel, "8.8.8.8", stream=False),
        "DNS tunnel over UDP IPv6": lambda: ask(tunnel, "2001:4860:4860::8888", stream=False),
        "DNS tunnel over TCP": lambda: ask(tunnel, "8.8.8.8", stream=True),
        "DNS tunnel by loopback": lambda: ask(tunnel, "127.0.0.1", stream=False),
        "own listener IPv4": lambda: dial(socket.AF_INET, "127.0.0.1", port),
        "own listener IPv6": lambda: dial(socket.AF_INET6, "::1", port),
        "unix sockets of the host": lambda: reach(paths),
        "raw socket": lambda: make(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "ping socket": lambda: make(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
        "packet socket": lambda: make(17, socket.SOCK_RAW, 0x0300),
        "vsock socket": lambda: make(40, socket.SOCK_STREAM, 0),
        "netfilter socket": lambda: make(16, socket.SOCK_RAW, 12),
        "setns": lambda: call(numbers["setns"], os.open("/proc/self/ns/net", os.O_RDONLY), 0),
        "unshare": lambda: call(numbers["unshare"], ctypes.c_ulong(0x50000000)),
        "mount": lambda: call(numbers["mount"], b"none", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None),
        "bpf": lambda: call(numbers["bpf"], 0, None, 0),
        "ptrace": lambda: call(numbers["ptrace"], ctypes.c_long(16), ctypes.c_long(1), None, None),
        "io_uring": lambda: call(numbers["io_uring_setup"], 8, None),
        "set-user-id file": set_user_id,
        "another cgroup": join_cgroup,
        "root": become_root,
    }
    neighbour = int(str(given["neighbour"]))
    if neighbour:
        found["another leaf's listener IPv4"] = lambda: dial(socket.AF_INET, "127.0.0.1", neighbour)
        found["another leaf's listener IPv6"] = lambda: dial(socket.AF_INET6, "::1", neighbour)
    return found


def resolves(names: list[str]) -> str:
    """Ask for the names that must be known, until one has an address: one that is down elsewhere is no fault of the fence."""
    outcome = "no name"
    for name in names:
        outcome = attempt(lambda name=name: ask(name, "127.0.0.1", stream=False))  # type: ignore[misc]
        if outcome == "resolved":
            break
    return outcome


def main(text: str) -> None:
    """Try everything and print what came of it."""
    given = json.loads(text)
    outcomes = {name: attempt(body) for name, body in attempts(given).items()}
    if given["names"]:
        outcomes["a target's name resolves"] = resolves(given["names"])
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1])
