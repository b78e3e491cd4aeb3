"""Names that are no text, which any local user can give to files, folders and cgroups, stop nobody."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.enforcer import kernel
from hostagent.enforcer.cgroup import find_mount
from tests.netns.stage import Stage, stage, unix_socket_pair, wait_for

pytestmark = pytest.mark.root

_ODD = os.fsdecode(b"odd\xff\n\x0b")
_DIAL = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as dial:
    dial.settimeout(5)
    dial.connect(os.fsencode(sys.argv[1]).replace(b"odd-", b"odd\\xff\\n\\x0b"))
    print(dial.recv(10))
"""


@pytest.fixture(scope="module")
def odd() -> Iterator[Stage]:
    # Not below /tmp, which is private: a place of the host's that every workload sees.
    with tempfile.TemporaryDirectory(prefix="hatest-", dir="/opt") as name:
        place = Path(name) / f"mount-{_ODD}"
        place.mkdir()
        kernel.mount("tmpfs", str(place), "tmpfs", 0, "size=4k")
        try:
            with stage(Path(name), [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]) as built:
                yield built
        finally:
            kernel.unmount(str(place), 0)


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_a_socket_with_an_odd_name_is_masked_at_the_launch_and_later(odd: Stage, workload: str) -> None:
    running = odd.start(workload, "sleep", "600")
    wait_for("the start", lambda: odd.status()["leaves"] and odd.status()["leaves"][0]["pid"])
    path = odd.folder / f"{_ODD}{workload}"
    with unix_socket_pair(path) as server:
        server.settimeout(0.3)
        wait_for("its mask", lambda: [row for row in odd.events("audit") if row["detail"] == str(path)])
        done = odd.run(workload, "/usr/bin/python3", "-I", "-c", _DIAL, str(odd.folder / f"odd-{workload}"))
        assert (done.returncode, done.stdout) == (0, "b''\n"), done.stderr
        with pytest.raises(TimeoutError):
            server.accept()
    assert (running.poll(), odd.status()["auditor"]["problem"]) == (None, "")
    path.unlink()
    running.kill()
    running.communicate()
    wait_for("the end", lambda: odd.status()["leaves"] == [])


def test_who_asks_from_a_cgroup_with_an_odd_name_gets_an_answer(odd: Stage) -> None:
    """A user of systemd owns a part of the tree and names what is in it."""
    mount = find_mount(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    cgroup = Path(mount) / os.fsdecode(b"hatest-" + secrets.token_hex(4).encode() + b"\xff")
    cgroup.mkdir()
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); s.send(b'x'); s.recv(1)"
    command = 'echo $$ > "$0/cgroup.procs"; exec /usr/bin/python3 -I -c "$1" "$2"'
    try:
        subprocess.run(["sh", "-c", command, str(cgroup), ask, odd.socket_path], check=True, timeout=20)
        assert odd.status()["leaves"] == []
    finally:
        cgroup.rmdir()
