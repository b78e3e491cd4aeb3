"""What happens to the boundary when something dies, changes or is taken down."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hostagent.cli.enforcerlink import EnforcerConnection
from hostagent.enforcer import kernel
from hostagent.ipc import Reload, Reloaded, Uninstall, Uninstalled
from tests.netns.stage import SINK_4, Stage, stage, wait_for

pytestmark = pytest.mark.root

_WORKLOADS = [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]

# Answers each line of input with what a connection then meets, and how long that took.
_DIALLER = f"""
import errno, socket, sys, time
print("up", flush=True)
for line in sys.stdin:
    started = time.monotonic()
    try:
        with socket.socket() as s:
            s.settimeout(5)
            s.connect(({SINK_4!r}, 5432))
            answer = s.makefile().readline().split(" ")[-1].strip() or "closed"
    except OSError as error:
        answer = errno.errorcode.get(error.errno, str(error))
    try:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", int(line)))
            s.listen()
            squat = "squatted"
    except OSError as error:
        squat = errno.errorcode[error.errno]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            udp = s.sendto(b"stolen", ({SINK_4!r}, 443))
    except OSError as error:
        udp = errno.errorcode[error.errno]
    print(answer, squat, udp, time.monotonic() - started < 1.0, flush=True)
"""


class Dialler:
    def __init__(self, host: Stage, workload: str) -> None:
        self.port = 901 if workload == "isolated" else 700
        self.process = host.start(workload, "/usr/bin/python3", "-I", "-c", _DIALLER, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def __call__(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.port}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate(timeout=20)


@pytest.fixture
def host(place: Path) -> Iterator[Stage]:
    with stage(place, _WORKLOADS) as built:
        yield built


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_dials_are_refused_at_once_while_the_proxy_is_gone_and_served_when_it_is_back(host: Stage, workload: str) -> None:
    dial = Dialler(host, workload)
    assert dial() == f"{SINK_4}:5432 EACCES EPERM True"
    host.stop_proxy()
    for _ in range(5):
        assert dial() == "ECONNREFUSED EACCES EPERM True"
    refused = host.run(workload, "true")
    assert (refused.returncode, "the proxy is not running" in refused.stderr) == (125, True)
    host.start_proxy()
    wait_for("the leaf to be served", lambda: all(each["served"] for each in host.status()["leaves"]))
    assert dial() == f"{SINK_4}:5432 EACCES EPERM True"
    assert [row["again"] for row in host.served() if row.get("asked") == "admit"] == [False, True]
    dial.end()
    assert host.leaked(0) == []


def test_many_programs_may_be_started_at_the_same_time(host: Stage) -> None:
    """A first process that is still being forked once kept the table's owner open, and the next load of rules was refused."""
    started = [host.start(workload, "true") for _ in range(4) for workload in ("shared", "shared", "isolated")]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    assert [each for each in ended if each[1]] == []


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_kill_9_of_enforcerd_leaves_the_fence_and_the_next_one_ends_what_it_cannot_take_over(host: Stage, workload: str) -> None:
    dial = Dialler(host, workload)
    assert host.enforcer is not None
    assert host.enforcer.stdout is not None
    host.enforcer.send_signal(signal.SIGKILL)
    host.enforcer.wait()
    host.enforcer.stdout.close()
    answers = {dial() for _ in range(5)}
    # The proxy still serves its own descriptors; it may as well be gone by now. Either way nothing gets out.
    served = f"{SINK_4}:5432 EACCES EPERM True"
    assert answers <= {served, "ECONNREFUSED EACCES EPERM True", "ECONNRESET EACCES EPERM True"}
    assert host.proxy is not None
    host.proxy.kill()
    host.proxy.wait()
    assert dial() == "ECONNREFUSED EACCES EPERM True"
    host.start_enforcer()
    host.start_proxy()
    dial.end()
    assert dial.process.returncode != 0
    assert host.status()["leaves"] == []
    assert any("of an earlier enforcerd ended" in row["detail"] for row in host.events("service"))
    assert host.run(workload, "sh", "-c", "exit 4").returncode == 4
    assert host.leaked(0) == []


def test_stopping_enforcerd_leaves_the_fence(host: Stage) -> None:
    before = host.nft("list", "tables")
    host.close_enforcer()
    assert host.nft("list", "tables") == before
    outsider = host.outside(
        "import json, os, socket\n"
        "os.mkdir(LEAF); open(LEAF + '/cgroup.procs', 'w').write('0')\n"
        "try: print(json.dumps(socket.socket(2, 2).sendto(b'stolen', (SINK, 443))))\n"
        "except OSError as e: print(json.dumps(e.errno))\n",
        LEAF=f"{_slice(host)}/late",
        SINK=SINK_4,
    )
    assert outsider == 1
    assert host.leaked(0) == []


def test_another_tools_flush_does_not_remove_the_table(host: Stage) -> None:
    before = host.nft("list", "ruleset")
    assert host.settings["table"] in before
    with contextlib.suppress(subprocess.CalledProcessError):
        host.nft("flush", "ruleset")
    assert host.nft("list", "ruleset") == before


def test_a_slice_that_was_recreated_is_fenced_again_before_anything_is_admitted(host: Stage) -> None:
    (_slice(host) / "anchor").rmdir()
    _slice(host).rmdir()
    with contextlib.suppress(FileExistsError):  # enforcerd may have been faster
        _slice(host).mkdir()
    refused = host.run("isolated", "true")
    assert refused.returncode in (0, 125)
    wait_for("the fence", lambda: host.status()["fence"]["loaded"])
    assert host.status()["fence"]["slice_id"] == _slice(host).stat().st_ino
    assert any(row["detail"].startswith("the slice was recreated; loaded again") for row in host.events("service"))
    assert host.run("shared", "sh", "-c", "exit 4").returncode == 4


def answers_over_reloads(
    place: Path, workloads: Sequence[Mapping[str, object]], contents: Sequence[str | None], **options: Any
) -> list[str]:
    """Return what one running program in isolated placement meets at its own loopback, port 3306, after each of ``contents``.

    Each is written as the ports of loopback targets and reloaded; None: as it began, with 5432 alone.
    """
    ports = place / "ports.json"
    ports.write_text("[5432]")
    with stage(place, workloads, **options) as host:
        host.close_enforcer()
        host.settings["loopback_ports_file"] = str(ports)
        host.start_enforcer()
        host.start_proxy()
        script = (
            "import socket, sys\nprint('up', flush=True)\nfor line in sys.stdin:\n try:\n  s = socket.create_connection(('127.0.0.1', 3306), 3)\n"
            "  print(s.makefile().readline().split(' ')[-1].strip(), flush=True)\n except OSError as e: print(e.errno, flush=True)"
        )
        process = host.start("isolated", "/usr/bin/python3", "-I", "-c", script, stdin=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        answers = [process.stdout.readline().strip()]
        for content in contents:
            if content is not None:
                ports.write_text(content)
                with contextlib.closing(EnforcerConnection(host.socket_path)) as connection:
                    connection.ask(Reload(), Reloaded)
            process.stdin.write("\n")
            process.stdin.flush()
            answers.append(process.stdout.readline().strip())
        process.communicate(timeout=20)
    return answers


def test_a_reload_takes_the_ports_of_loopback_targets_into_live_leaves(place: Path) -> None:
    assert answers_over_reloads(place, _WORKLOADS, (None, "[3306, 5432]")) == ["up", "111", "127.0.0.1:3306"]


def test_no_connection_leaks_while_the_rules_are_loaded_again_and_again(host: Stage) -> None:
    """A connect loop in shared placement under 50 reloads; every dial meets the listener or a refusal."""
    script = (
        f"import socket, sys, time\nend = time.monotonic() + 4\nseen = {{}}\nwhile time.monotonic() < end:\n try:\n  s = socket.create_connection(({SINK_4!r}, 5432), 2)\n"
        "  line = s.makefile().readline()\n  key = 'proxied' if line.strip().endswith(':5432') else 'leaked ' + line\n except OSError as e: key = str(e.errno)\n"
        " seen[key] = seen.get(key, 0) + 1\nimport json; print(json.dumps(seen))"
    )
    process = host.start("shared", "/usr/bin/python3", "-I", "-c", script)
    wait_for("the program", lambda: [each for each in host.status()["leaves"] if each["stage"] == "running"])
    loads = 0
    until = time.monotonic() + 3
    while time.monotonic() < until and loads < 50:
        connection = EnforcerConnection(host.socket_path)
        connection.ask(Reload(), Reloaded)
        connection.close()
        loads += 1
    out, _ = process.communicate(timeout=30)
    assert loads >= 5
    assert set(json.loads(out)) == {"proxied"}
    assert host.leaked(0) == []


def test_uninstall_ends_everything_and_leaves_no_trace(place: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    with stage(place, _WORKLOADS, proxy=False) as host:
        host.close_enforcer()
        with kernel.in_network(host.host):
            subprocess.run(["nft", "delete", "table", "inet", host.settings["table"]], check=True)
        clean = host.nft("list", "ruleset")
        host.start_enforcer()
        host.start_proxy()
        programs = [host.start(name, "sleep", "1000") for name in ("isolated", "shared")]
        wait_for("both", lambda: [each["stage"] for each in host.status()["leaves"]] == ["running", "running"])
        pids = [each["pid"] for each in host.status()["leaves"]]
        connection = EnforcerConnection(host.socket_path)
        answer, _ = connection.ask(Uninstall(), Uninstalled)
        connection.close()
        for program in programs:
            program.communicate(timeout=20)
        assert host.enforcer is not None
        assert host.enforcer.wait(20) == 0
        assert f"table inet {host.settings['table']}" in answer.removed
        assert host.nft("list", "ruleset") == clean
        assert _slice(host).exists() is False
        assert Path(host.socket_path).exists() is False
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        assert Path("/proc/self/mountinfo").read_text() == mounts


def _slice(host: Stage) -> Path:
    from hostagent.enforcer.cgroup import Slice

    return Slice(host.slice).path
