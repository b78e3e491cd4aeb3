"""How connections end: what the kernel itself says for a socket that has closed reaches the proxy's end."""

from __future__ import annotations

import signal
import socket
import subprocess
from typing import Any

import pytest

from tests.netns.stage import SINK_4, SINK_6, Stage, wait_for

pytestmark = pytest.mark.root

_PLACES = pytest.mark.parametrize(("workload", "family"), [(name, family) for name in ("isolated", "shared") for family in (socket.AF_INET, socket.AF_INET6)])

# For each line of input a dial from the same port, then its end without a word: a reset.
_CLIENT = """
import socket, struct, sys, time
port = 0
for line in sys.stdin:
    began = time.monotonic()
    dialled = socket.socket(FAMILY)
    dialled.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    dialled.bind(("", port))
    dialled.settimeout(30)
    try:
        dialled.connect((ADDRESS, 5432))
        print("taken", flush=True)
    except OSError as error:
        print(f"{error!r} after {time.monotonic() - began:.1f} s", flush=True)
    port = dialled.getsockname()[1]
    sys.stdin.readline()
    dialled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    dialled.close()
"""


def start(host: Stage, workload: str, *command: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start a program; return it and what enforcerd says of its leaf."""
    process = host.start(workload, *command, stdin=subprocess.PIPE)
    return process, wait_for("the program", lambda: [each for each in host.status()["leaves"] if each["stage"] == "running"])[0]


def inside(leaf: dict[str, Any], *command: str) -> str:
    """Run a command in a leaf's network, as root; return what it printed."""
    done = subprocess.run(["nsenter", f"--net=/proc/{leaf['pid']}/ns/net", *command], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_a_connection_that_the_workload_closes_first_is_over_for_the_proxy_too(host: Stage, workload: str) -> None:
    # enforcerd's own trial of the leaf is such a connection: dialled, closed, then accepted and closed.
    process, leaf = start(host, workload, "cat")
    try:
        wait_for("the last ACK", lambda: inside(leaf, "ss", "-Htan", "state", "last-ack") == "", 5)
    finally:
        process.communicate(timeout=20)


@_PLACES
def test_a_dial_from_a_port_of_which_the_proxy_still_holds_a_connection_is_taken(host: Stage, workload: str, family: socket.AddressFamily) -> None:
    script = _CLIENT.replace("FAMILY", str(int(family))).replace("ADDRESS", repr(SINK_6 if family == socket.AF_INET6 else SINK_4))
    process, leaf = start(host, workload, "/usr/bin/python3", "-I", "-c", script)
    assert process.stdin is not None
    assert process.stdout is not None
    assert host.proxy is not None
    host.proxy.send_signal(signal.SIGSTOP)  # what it does not take stays
    try:
        found = []
        for word in ("dial", "end", "dial"):
            if word == "end":  # of which the proxy hears nothing: whose the reset is has been forgotten
                inside(leaf, "conntrack", "-F")
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            if word == "dial":
                found.append(process.stdout.readline().strip())
        assert found == ["taken", "taken"]
    finally:
        host.start_proxy()
        process.communicate(timeout=60)
