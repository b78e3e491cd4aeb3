"""Nobody in particular floods what everybody needs, and nobody of the proxy's own account looks into it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.bypass.attacked import Attacked
from tests.stage.world import DATABASE_V4, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# -- nobody in particular floods what everybody needs -----------------------------------------------------------------------------

_CROWD = """
import socket, sys, time
path, kind, kept = sys.argv[1], int(sys.argv[2]), []
for _ in range(200):
    dial = socket.socket(socket.AF_UNIX, kind)
    dial.settimeout(2)
    try:
        dial.connect(path)
    except OSError:
        break
    kept.append(dial)
    time.sleep(0.002)
time.sleep(1)
alive = 0
for dial in kept:
    dial.setblocking(False)
    try:
        alive += dial.recv(1) != b""
    except BlockingIOError:
        alive += 1
    except OSError:
        pass
print(len(kept), alive)
"""


@pytest.mark.attack("R15", placement="isolated")
@pytest.mark.parametrize(("name", "kind"), [("enforcerd.sock", socket.SOCK_SEQPACKET), ("proxyd/control.sock", socket.SOCK_STREAM)])
def test_one_user_cannot_take_all_connections(attacked: Attacked, name: str, kind: int) -> None:
    done = attacked.as_lee(_CROWD, f"{attacked.service.folder}/run/{name}", str(int(kind)))
    made, alive = map(int, done.stdout.split())
    assert made > 100
    assert alive <= 16
    assert attacked.service.launch("true", workload="isolated").returncode == 0


_REQUESTS = """
import socket, sys, time
from hostagent.ipc.codec import encode
from hostagent.ipc.messages import Launch, Status
number, shape = 0, sys.argv[2]
until = time.monotonic() + 3
while time.monotonic() < until:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dial:
        dial.settimeout(5)
        try:
            dial.connect(sys.argv[1])
            for _ in range(100):
                if shape == "long":
                    dial.send(encode(2, Launch("x" * 100_000, ["a"], {}, "/", False)))
                elif shape == "launch":
                    dial.send(encode(2, Launch("isolated", ["a" * 50_000], {}, "/", False)))
                else:
                    dial.send(encode(2, Status()))
                dial.recv(200_000)
                number += 1
        except OSError:
            pass
print(number)
"""


@pytest.mark.attack("R15", placement="isolated")
@pytest.mark.parametrize("shape", ["long", "launch", "status"])
def test_a_user_without_rights_cannot_fill_the_record_or_keep_others_waiting(attacked: Attacked, shape: str) -> None:
    journal = attacked.service.folder / "state/journal"

    def size() -> int:
        return sum(file.stat().st_size for file in journal.rglob("*") if file.is_file())

    before, pids = size(), attacked.pids()
    done = attacked.as_lee(_REQUESTS, f"{attacked.service.folder}/run/enforcerd.sock", shape)
    assert (done.returncode, int(done.stdout) > 0) == (0, True), done.stderr
    assert size() - before < 100_000
    patience = 8 if attacked.quick else 40
    began = time.monotonic()
    assert attacked.service.launch("true", workload="isolated").returncode == 0
    assert time.monotonic() - began < patience
    assert attacked.pids() == pids


_LOOK = """
import os, sys
for pid in sys.argv[1:]:
    for part in ("mem", "environ", "maps", "fd", "root"):
        try:
            os.listdir(f"/proc/{pid}/{part}") if part in ("fd", "root") else open(f"/proc/{pid}/{part}", "rb").close()
            print("READ", pid, part)
        except OSError:
            pass
    try:
        os.close(os.pidfd_open(int(pid)))
    except OSError:
        pass
"""


@pytest.mark.attack("R14", placement="isolated")
@pytest.mark.parametrize("component", ["proxyd", "enforcerd"])
def test_nobody_of_the_proxys_uid_looks_into_our_processes(attacked: Attacked, component: str) -> None:
    """Another process that got hold of the same account (attack on the credentials and the CA's key)."""
    command = ["setpriv", "--reuid=hostagent", "--regid=hostagent", "--clear-groups", "--", attacked.python, "-c", _LOOK]
    pid = attacked.service.pid(component)
    done = subprocess.run([*command, str(pid)], capture_output=True, text=True, check=False, cwd="/", env=attacked.service.environment)
    assert (done.returncode, done.stdout) == (0, "")
    limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
    soft, hard = next(line for line in limits if line.startswith("Max open files")).split()[3:5]
    assert soft == hard


_GARBAGE = """
import os, random, socket, sys
random.seed(7)
for path, kind in ((sys.argv[1], socket.SOCK_SEQPACKET), (sys.argv[2], socket.SOCK_STREAM)):
    for number in range(300):
        with socket.socket(socket.AF_UNIX, kind) as dial:
            dial.settimeout(0.05)
            try:
                dial.connect(path)
                choice = number % 6
                data = [b"", os.urandom(random.randrange(1, 3000)), b"\\x93" + os.urandom(50), b"[" * 60_000, b"{" * 9_000 + b"\\n",
                        b'{"call": "approvals.answer", "args": {"ticket": 1}}\\n'][choice]
                if choice == 1 and kind == socket.SOCK_SEQPACKET:
                    socket.send_fds(dial, [data], [0, 1, 2] * 20)
                else:
                    dial.send(data)
                dial.recv(1000)
            except OSError:
                pass
print("done")
"""


@pytest.mark.attack("R15", placement="isolated")
def test_garbage_on_the_request_sockets_harms_nobody(attacked: Attacked) -> None:
    before = attacked.pids()
    folder = attacked.service.folder
    handles = {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in before.items()}
    done = attacked.as_lee(_GARBAGE, f"{folder}/run/enforcerd.sock", f"{folder}/run/proxyd/control.sock")
    assert done.stdout == "done\n", done.stderr
    assert attacked.pids() == before
    assert attacked.service.launch("true", workload="isolated").returncode == 0
    wait_for(lambda: all(len(os.listdir(f"/proc/{pid}/fd")) <= handles[name] + 1 for name, pid in before.items()), "no descriptor kept", 40)


_DIALLER = """
import socket, sys, time
until, number = time.monotonic() + 4, 0
while time.monotonic() < until:
    with socket.socket() as dial:
        dial.connect((sys.argv[1], 9999))
    number += 1
print(number)
"""


@pytest.mark.attack("R8", placement="isolated")
def test_a_workload_that_dials_without_end_is_counted_and_fills_no_disk(attacked: Attacked) -> None:
    journal = attacked.service.folder / "state/journal"

    def size() -> int:
        return sum(file.stat().st_size for file in journal.rglob("*") if file.is_file())

    before, began = size(), time.monotonic()
    done = attacked.service.launch(attacked.python, "-c", _DIALLER, DATABASE_V4, workload="isolated")
    number = int(done.stdout)
    assert number > 600
    windows = time.monotonic() - began + 1  # of a second each, and the first one's rows come at once
    assert size() - before < 120_000 * windows
    question = """
        select (select count(*) from recorded.connection where workload = 'isolated' and destination like '%:9999')
        + (select coalesce(sum(count), 0) from refusals where layer = 'proxy' and destination like '%:9999') as n
    """
    wait_for(lambda: int(str(attacked.service.sql(question)[0]["n"])) >= number, "every dial accounted for")
    assert attacked.world.sink_lines() == []
