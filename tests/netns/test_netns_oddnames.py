"""What any local user can put in a workload's view: names that are no text stop nobody, a FIFO is no way out."""

from __future__ import annotations

import json
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
            (Path(name) / "written").mkdir()
            (Path(name) / "one").touch()
            for each in ("written", "one"):
                os.chown(Path(name) / each, 1000, 1000)
            paths = [[f"{name}/{each}", True] for each in ("written", "one")]
            workloads: list[dict[str, object]] = [{"name": "isolated", "paths": paths}, {"name": "shared", "placement": "shared", "paths": paths}]
            with stage(Path(name), workloads) as built:
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


_WRITE = """
import errno, json, os, sys
def attempt(path, flags):
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
        return "opened"
    except OSError as error:
        return errno.errorcode[error.errno]
said = {"fifo": [attempt(sys.argv[1], flags) for flags in (os.O_WRONLY, os.O_RDWR)], "file": attempt(sys.argv[2], os.O_WRONLY)}
os.makedirs("/tmp/a/b"); os.makedirs("/tmp/c")
os.mkfifo("/tmp/a/own")
said["own"] = attempt("/tmp/a/own", os.O_RDWR)
open("/tmp/a/b/moved", "w").close()
os.rename("/tmp/a/b/moved", "/tmp/c/moved")
said["declared"] = [attempt(path, os.O_WRONLY | os.O_CREAT) for path in sys.argv[3:]]
said["device"] = [attempt(path, os.O_RDWR) for path in ("/dev/null", "/dev/stdout", "/proc/self/comm", "/dev/shm/x")[:3]]
print(json.dumps(said))
"""


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_a_fifo_of_the_hosts_cannot_be_written_to(odd: Stage, workload: str) -> None:
    """A read-only mount lets it be: whoever reads it would get what nobody recorded."""
    fifo, file = odd.folder / f"fifo-{workload}", odd.folder / f"file-{workload}"
    os.mkfifo(fifo)
    file.touch()
    for each in (fifo, file):
        each.chmod(0o666)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        declared = [str(odd.folder / "written" / f"new-{workload}"), str(odd.folder / "one")]
        done = odd.run(workload, "/usr/bin/python3", "-I", "-c", _WRITE, str(fifo), str(file), *declared)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said == {
            "fifo": ["EACCES", "EACCES"],
            "file": "EROFS",
            "own": "opened",
            "declared": ["opened", "opened"],
            "device": ["opened", "opened", "opened"],
        }
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
