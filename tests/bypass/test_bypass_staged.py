"""Attacks that need somebody outside: another leaf, another user, root's own tools, a launcher with a socket in its hand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bypass.attacked import Attacked, written_by
from tests.bypass.attacks import HERE
from tests.bypass.test_bypass_storm import FENCES, _healthy, _now, _recorded, _storm, _told
from tests.stage.world import DATABASE_V4, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_WAIT = "print('here', flush=True)\nimport sys\nsys.stdin.read()\n"


def _listeners() -> list[int]:
    """The ports below 1024 that somebody listens on at 127.0.0.1 in the host's network."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    found = {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[1].startswith("0100007F")}
    return sorted(port for port in found if port < 1024)


def _connections(attacked: Attacked) -> int:
    return int(str(attacked.service.sql("select count(*) as n from recorded.connection")[0]["n"]))


@pytest.mark.attack("17")
@pytest.mark.parametrize("placement", HERE)
def test_another_leafs_listener_is_out_of_reach(
    attacked: Attacked, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attacked.running(placement, _WAIT):
        ports = _listeners() if placement == "shared" else [901, 902]
        assert ports
        monkeypatch.setenv("HOSTILE_PORTS", " ".join(map(str, ports)))
        tried = attacked.attempt(placement, f"17-{placement}", "other-listeners", "legitimate-query")
    outcomes = set(tried.outcomes["other-listeners"].split())
    assert outcomes <= {"ECONNREFUSED", "closed", "ENETUNREACH"}
    assert tried.outcomes["legitimate-query"] == "rows (True,)"
    label = f"17-{placement}"
    wait_for(lambda: written_by("nft/bpf", attacked.rows([label])[label]), "the row")
    victims = attacked.service.sql(f"""
        select c.destination from recorded.connection c join processes p using (leaf)
        where p.workload = '{placement}' and not list_contains(p.argv, ':17-{placement}') and c.destination like '127.%'
          and c.at_ns > epoch_ns(now()) - 30000000000
    """)
    assert victims == []


@pytest.mark.attack("18")
@pytest.mark.parametrize("placement", HERE)
def test_nobody_outside_reaches_a_leafs_listener(attacked: Attacked, placement: str) -> None:
    code = """
import socket, sys
for port in map(int, sys.argv[1:]):
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as dial:
            dial.settimeout(3)
            try:
                dial.connect((host, port))
                dial.sendall(b"x")
                print("REACHED" if dial.recv(1) else "closed", host, port)
            except OSError:
                pass
"""
    with attacked.running(placement, _WAIT):
        ports = _listeners() if placement == "shared" else [901, 902]
        before, began = _connections(attacked), _now()
        found = attacked.as_lee(code, *map(str, ports))
        assert ports
        assert (found.returncode, found.stdout) == (0, "")
        time.sleep(2.5)  # longer than evidence takes: nothing must appear
        assert _connections(attacked) == before
    if placement == "shared":
        question = f"select reason from refusals where layer = 'nft' and reason like 'a listener%' and time > timestamp '{began}'"
        assert attacked.service.wait_sql(question)


@pytest.mark.attack("30")
@pytest.mark.parametrize("placement", HERE)
def test_nothing_that_runs_already_can_be_made_a_workload(attacked: Attacked, placement: str) -> None:
    commands = attacked.service.hostagent("--help").stdout
    assert "run" in commands
    assert not re.search(r"^\s+(attach|join|enter)\b", commands, re.MULTILINE)
    assert "from its next start" in " ".join(attacked.service.hostagent("adopt", "--help").stdout.split())
    refused = attacked.service.hostagent("run", "--workload", placement, "--no-tty", check=False)
    assert refused.returncode != 0


@pytest.mark.attack("52", "30")
@pytest.mark.parametrize("placement", HERE)
def test_a_socket_in_the_launchers_hands_does_not_come_in(attacked: Attacked, placement: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            attacked.command(placement, "descriptors"), env=attacked.environment, cwd="/", stdin=theirs, stderr=theirs,
            stdout=subprocess.PIPE, text=True, pass_fds=[theirs.fileno()], timeout=60, check=False,
        )  # fmt: skip
    assert re.fullmatch(r"0:pipe 1:pipe 2:pipe\s*", json.loads(done.stdout)["descriptors"])


@pytest.mark.attack("33")
@pytest.mark.parametrize("placement", HERE)
def test_nothing_is_left_for_the_hosts_daemons_to_run(attacked: Attacked, placement: str) -> None:
    assert attacked.hostile(placement, "left-behind") == {"left-behind": "nothing"}
    for path in ("/etc/cron.d/hostile", "/etc/systemd/system/hostile.service", "/etc/profile.d/hostile.sh", "/tmp/home"):
        assert not Path(path).exists()


_SQUAT = """
import json, socket, time
print("here", flush=True)
had, until = [], time.monotonic() + 4
while time.monotonic() < until:
    for port in (53, 80, *range(700, 712), 901, 902):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as squatter:
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                try:
                    squatter.bind(("127.0.0.1", port))
                    had.append(port)
                except OSError:
                    pass
    time.sleep(0.01)
print(json.dumps(sorted(set(had))))
"""


@pytest.mark.attack("41")
@pytest.mark.parametrize("placement", HERE)
def test_nobody_takes_a_listeners_port_while_the_proxy_is_dead(attacked: Attacked, placement: str) -> None:
    with attacked.running(placement, _SQUAT) as squatting:
        for _ in range(2):
            time.sleep(0.8)
            with contextlib.suppress(RuntimeError, ProcessLookupError):
                os.kill(attacked.service.pid("proxyd"), signal.SIGKILL)
            assert attacked.as_lee(_SQUAT.replace("+ 4", "+ 0.4")).stdout.splitlines()[-1] == "[]"
        assert squatting.stdout is not None
        assert squatting.stdout.read().strip() == "[]"
    _healthy(attacked)


_IN_CGROUP = """
import errno, os, socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as file:
    file.write("0")
os.setgroups([]); os.setgid(1902); os.setuid(1902)
outcomes = []
for kind, port in ((socket.SOCK_STREAM, 443), (socket.SOCK_DGRAM, 443), (socket.SOCK_DGRAM, 53)):
    try:
        with socket.socket(socket.AF_INET, kind) as dial:
            dial.settimeout(2)
            dial.connect((sys.argv[2], port))
            dial.sendall(b"exfiltrated")
            outcomes.append("sent" if kind == socket.SOCK_DGRAM or dial.recv(1) else "closed")
    except OSError as error:
        outcomes.append(errno.errorcode.get(error.errno, "timeout"))
print(*outcomes, flush=True)
"""


def _in_cgroup(attacked: Attacked, folder: Path) -> list[str]:
    command = [attacked.python, "-c", _IN_CGROUP, str(folder), DATABASE_V4]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.split()


def _slice(attacked: Attacked) -> Path:
    report = json.loads(attacked.service.hostagent("status", "--json").stdout)
    return Path(report["fence"]["slice"])


@pytest.mark.attack("42", placement="shared")
def test_a_leaf_made_anew_by_its_old_name_reaches_nothing(attacked: Attacked) -> None:
    with attacked.running("shared", _WAIT):
        leaf = next(each for each in json.loads(attacked.service.hostagent("status", "--json").stdout)["leaves"])["leaf"]
    folder = _slice(attacked) / leaf
    wait_for(lambda: not folder.exists(), "the leaf's end")
    folder.mkdir()
    began = _now()
    try:
        outcomes = _in_cgroup(attacked, folder)
    finally:
        wait_for(lambda: not (folder / "cgroup.procs").exists() or not (folder / "cgroup.procs").read_text(), "the process's end")
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
    assert "sent" not in outcomes
    _healthy(attacked)
    _recorded(attacked, "", began, (FENCES,))


def _fenced(attacked: Attacked, folder: Path) -> bool:
    fence = json.loads(attacked.service.hostagent("status", "--json", check=False).stdout)["fence"]
    return bool(fence["loaded"]) and fence["slice_id"] == folder.stat().st_ino


def _remade(folder: Path, before: int) -> bool:
    """Remove the slice with all that is in it and make it again; whether it is another now (the service may have been quicker)."""
    with contextlib.suppress(OSError):
        for leaf in folder.iterdir():
            if leaf.is_dir():
                leaf.rmdir()
        folder.rmdir()
    folder.mkdir(exist_ok=True)
    return folder.stat().st_ino != before


@pytest.mark.attack("48", placement="shared")
def test_a_slice_made_anew_reaches_nothing(attacked: Attacked) -> None:
    """With nothing running: the slice is removed and made again, and nobody in the new one gets out of it."""
    folder = _slice(attacked)
    began = _now()
    (folder / "cgroup.kill").write_text("1")
    before = folder.stat().st_ino
    wait_for(lambda: _remade(folder, before), "a slice made anew")
    # What root puts in before the rules know the new slice is root's own doing: some 30 ms, and more where the machine is busy.
    wait_for(lambda: _fenced(attacked, folder), "rules that know the new slice", 60)
    outcomes = [each for _ in range(8) for each in _in_cgroup(attacked, folder)]
    wait_for(lambda: not (folder / "cgroup.procs").read_text(), "the processes' end")
    assert "sent" not in outcomes
    _healthy(attacked)
    _recorded(attacked, "", began, (FENCES,))
    _told(attacked, began, "detail like 'the slice was recreated%'")


_LISTEN = """
import socket, sys
servers = []
for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    server = socket.socket(family)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((host, 8090))
    server.listen()
    servers.append(server)
print("here", flush=True)
sys.stdin.read()
for server in servers:
    server.setblocking(False)
    try:
        server.accept()
        print("ACCEPTED")
    except BlockingIOError:
        pass
"""
_OUTSIDER = """
import socket, sys
for family, host in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1")):
    with socket.socket(family) as dial:
        dial.settimeout(2)
        try:
            dial.connect((host, 8090))
            print("CONNECTED", host)
        except OSError:
            pass
"""


@pytest.mark.attack("43")
@pytest.mark.parametrize("placement", HERE)
def test_nobody_outside_connects_to_what_a_workload_listens_on(attacked: Attacked, placement: str) -> None:
    began = _now()
    with attacked.running(placement, _LISTEN) as serving:
        outside = attacked.world.on_database_host(sys.executable, "-c", _OUTSIDER)
        beside = attacked.as_lee(_OUTSIDER.replace("10.77.0.1", "127.0.0.1").replace("fd77::1", "::1"))
        assert (outside.stdout, beside.stdout) == ("", "")
        assert serving.stdin is not None
        assert serving.stdout is not None
        serving.stdin.close()
        assert serving.stdout.read() == ""
    # The refusals themselves arrive at the outsider: resets and "unreachable", with nothing of the workload's.
    lines = attacked.world.sink_lines()
    assert [line for line in lines if not re.match(r"packet (tcp to port \d{5}|protocol 1 )", line)] == []
    (attacked.world.folder / "sinks.log").write_text("")
    if placement == "shared":
        question = f"select reason from refusals where workload = 'shared' and layer = 'nft' and reason like 'nobody connects%' and time > timestamp '{began}'"
        assert attacked.service.wait_sql(question)


_LATE = """
import os, socket, sys, time
print("here", flush=True)
path, until = sys.argv[1], time.monotonic() + 15
while not os.path.exists(path) and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(3)
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    with socket.socket(socket.AF_UNIX, kind) as dial:
        dial.settimeout(2)
        try:
            dial.connect(path)
            print("REACHED" if dial.recv(10) else "closed", flush=True)
        except OSError:
            pass
"""


@pytest.mark.attack("50")
@pytest.mark.parametrize("placement", HERE)
def test_a_socket_that_comes_into_view_later_is_masked(attacked: Attacked, placement: str) -> None:
    """The bound is a second; three later it must be shut, and nobody else's visitor has come."""
    path = attacked.doors.view / f"late-{placement}"
    with attacked.running(placement, _LATE, str(path)) as looking, socket.socket(socket.AF_UNIX) as late:
        late.bind(str(path))
        path.chmod(0o777)
        late.listen()
        late.settimeout(0.1)
        assert looking.stdout is not None
        said = looking.stdout.read()
        visitors = []
        with contextlib.suppress(TimeoutError):
            while True:
                visitor, _ = late.accept()
                visitors.append(struct.unpack("=iII", visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
                visitor.close()
    assert (visitors, "REACHED" in said) == ([], False)
    rows = attacked.service.wait_sql(
        f"select finding, action from audits where workload = '{placement}' and detail like '%{path.name}%'"
    )
    assert {(row["finding"], row["action"]) for row in rows} == {("unix-listener", "masked")}


@pytest.mark.attack("R12")
@pytest.mark.parametrize("placement", HERE)
def test_nothing_leaks_while_documents_are_read_again(attacked: Attacked, placement: str) -> None:
    began = _now()
    policy = attacked.service.config / "policy/attack.yaml"
    with _storm(attacked, placement, 4) as told:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            os.kill(attacked.service.pid("enforcerd"), signal.SIGHUP)
            os.utime(policy)
            time.sleep(0.05)
    _healthy(attacked)
    assert told[0]["rounds"] > (200 if attacked.quick else 20)
    assert "datagram" not in told[0]
    _recorded(attacked, placement, began)


@pytest.mark.attack("R7", placement="shared")
def test_nothing_leaks_untracked(attacked: Attacked) -> None:
    began = _now()
    rules = "table inet bypass_raw {\n chain out {\n type filter hook output priority -300;\n notrack\n }\n}\n"
    with _storm(attacked, "shared", 3) as told:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        time.sleep(2)
        subprocess.run(["nft", "delete", "table", "inet", "bypass_raw"], check=True)
    _healthy(attacked)
    assert told[0]["rounds"] > (50 if attacked.quick else 5)
    assert "datagram" not in told[0]
    _recorded(attacked, "shared", began)
