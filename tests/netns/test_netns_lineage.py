"""Which program dialled, and what started it: right under reuse, exec, threads and haste, or unknown."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.enforcer.bpf import calls, pins
from tests.netns.stage import SINK_4, SINK_6, Stage, wait_for

pytestmark = pytest.mark.root

PLACEMENTS = pytest.mark.parametrize("workload", ["isolated", "shared"])
DIAL = f"exec 3<>/dev/tcp/{SINK_4}/$0 && read -r line <&3"
"""What a driver does, in bash: ``bash -c DIAL PORT MARKER``; it ends when the proxy has answered."""
PYTHON = "/usr/bin/python3"


def flows(host: Stage, port: int, count: int = 1) -> list[dict[str, Any]]:
    """Return the flows to ``port``, once there are ``count``."""

    def found() -> list[dict[str, Any]]:
        return [row for row in host.events("kernel_flow") if row["destination"].endswith(f":{port}")]

    return list(wait_for(f"{count} flows to port {port}", lambda: len(found()) >= count and found()))


def programs(flow: dict[str, Any]) -> list[str]:
    return [Path(link["exe"]).name for link in flow["lineage"]]


def python(host: Stage, workload: str, code: str, *arguments: str) -> str:
    """Run Python code as the governed program, its text given as a file so that no command line is cut."""
    done = host.run(workload, PYTHON, "-I", "-", *arguments, text=code)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@PLACEMENTS
@pytest.mark.parametrize("sink", [SINK_4, SINK_6, f"::ffff:{SINK_4}"])
def test_agent_bash_python_driver_is_the_chain_and_the_addresses_are_the_proxys(host: Stage, workload: str, sink: str) -> None:
    port = {SINK_4: 5001, SINK_6: 5002}.get(sink, 5003) + (100 if workload == "shared" else 0)
    driver = f"import socket;s=socket.create_connection(('{sink}',{port}));print(s.recv(99).decode(),s.getsockname()[1])"
    shell = f'{PYTHON} -I -c "$0"; true'
    done = host.run(workload, "/bin/sh", "-c", f'bash -c \'{shell}\' "$0"; true', driver)
    assert done.returncode == 0, done.stderr
    (flow,) = flows(host, port)
    plain = sink.rpartition("ffff:")[2]
    destination = f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"
    assert (flow["workload"], flow["destination"], flow["established"], flow["count"]) == (workload, destination, True, 1)
    assert done.stdout.split() == [flow["leaf"], destination, flow["source"].rpartition(":")[2]]
    assert (flow["attribution"], programs(flow)) == ("process", ["python3", "bash", "sh"])
    chain = flow["lineage"]
    assert (chain[0]["pid"], chain[0]["start_ns"]) == (flow["pid"], flow["start_ns"])
    assert chain[0]["start_ns"] > chain[1]["start_ns"] > chain[2]["start_ns"]
    assert len({link["pid"] for link in chain}) == 3
    assert {link["uid"] for link in chain} == {flow["uid"]}
    assert chain[0]["argv"] == [PYTHON, "-I", "-c", "<63 or more characters>"]
    launch = host.events("launch")[-1]
    assert chain[2]["pid"] == launch["pid"]


@PLACEMENTS
def test_processes_that_live_for_a_moment_are_each_told_apart(host: Stage, workload: str) -> None:
    port, count = (5010, 60) if workload == "isolated" else (5110, 60)
    code = f"""
import ctypes, os, socket, time
libc = ctypes.CDLL(None)
lives = []
for number in range({count}):
    began = time.monotonic()
    if (pid := os.fork()) == 0:
        libc.prctl(15, b"kid-%d" % number)
        one = socket.socket()
        one.bind(("", 20000 + number))
        one.connect(("{SINK_4}", {port}))
        os._exit(0)
    os.waitpid(pid, 0)
    lives.append(time.monotonic() - began)
print(sorted(lives)[{count} // 10])
"""
    short = float(python(host, workload, code))
    found = {int(flow["source"].rpartition(":")[2]) - 20000: flow for flow in flows(host, port, count)}
    assert sorted(found) == list(range(count))
    assert [found[number]["comm"] for number in range(count)] == [f"kid-{number}" for number in range(count)]
    assert {flow["attribution"] for flow in found.values()} == {"process"}
    assert len({flow["pid"] for flow in found.values()}) == count
    assert {tuple(programs(flow)) for flow in found.values()} == {("python3", "python3")}
    assert {flow["lineage"][1]["pid"] for flow in found.values()} == {host.events("launch")[-1]["pid"]}
    assert short < 0.005, "none of them was short-lived"  # six of them at least; on a busy machine others wait


def test_short_lived_programs_with_a_command_line_each(host: Stage) -> None:
    host.run("isolated", "/bin/bash", "-c", f"for n in $(seq 40); do bash -c '{DIAL}' 5020 marker-$n; done; true")
    found = flows(host, 5020, 40)
    assert sorted(flow["lineage"][0]["argv"][-1] for flow in found) == sorted(f"marker-{n}" for n in range(1, 41))
    assert {tuple(programs(flow)) for flow in found} == {("bash", "bash")}


def test_what_dialled_is_told_though_it_executed_another_program_before_anybody_looked(host: Stage) -> None:
    code = f"""
import os, socket
one = socket.create_connection(("{SINK_4}", 5030))
os.execv("/bin/bash", ["bash", "-c", {DIAL!r}, "5031", "second"])
"""
    python(host, "isolated", code)
    (before,), (after,) = flows(host, 5030), flows(host, 5031)
    assert (programs(before), programs(after)) == (["python3"], ["bash", "python3"])
    assert before["pid"] == after["pid"]
    assert before["start_ns"] == after["start_ns"]
    assert after["lineage"][0]["argv"][-1] == "second"


def test_a_program_executed_by_another_thread_than_the_first_is_told(host: Stage) -> None:
    code = f"""
import os, threading, time
def go():
    os.execv("/bin/bash", ["bash", "-c", {DIAL!r}, "5040", "threaded"])
threading.Thread(target=go).start()
time.sleep(60)
"""
    python(host, "isolated", code)
    (flow,) = flows(host, 5040)
    assert (flow["attribution"], programs(flow)) == ("process", ["bash", "python3"])
    assert flow["lineage"][0]["argv"][-1] == "threaded"


def test_a_thread_that_goes_on_after_the_first_one_ended_is_told(host: Stage) -> None:
    code = f"""
import ctypes, os, socket, threading
def go():
    main.join(0.2)
    socket.create_connection(("{SINK_4}", 5041)).recv(99)
    os._exit(0)
main = threading.main_thread()
threading.Thread(target=go).start()
ctypes.CDLL(None).syscall(60, 0)
"""
    host.run("isolated", PYTHON, "-I", "-", text=code)
    (flow,) = flows(host, 5041)
    assert (flow["attribution"], programs(flow)) == ("process", ["python3"])


def test_a_daemon_whose_parents_have_ended_still_has_them_in_its_chain(host: Stage) -> None:
    code = f"""
import os, socket, time
from pathlib import Path
reader, writer = os.pipe()
if os.fork() == 0:
    middle = os.getpid()
    if os.fork() == 0:
        while os.getppid() == middle:
            time.sleep(0.001)
        os.execv("/bin/bash", ["bash", "-c", {DIAL!r} + f"; echo >&{{writer}}", "5050", "daemon"]) if not os.set_inheritable(writer, True) else 0
    os._exit(0)
os.wait()
os.close(writer)
os.read(reader, 1)
"""
    python(host, "isolated", code)
    (flow,) = flows(host, 5050)
    assert programs(flow) == ["bash", "python3", "python3"]
    assert len({link["pid"] for link in flow["lineage"]}) == 3
    assert flow["lineage"][2]["pid"] == host.events("launch")[-1]["pid"]


def test_a_socket_shared_by_fork_belongs_to_who_dialled(host: Stage) -> None:
    code = f"""
import os, socket
one = socket.create_connection(("{SINK_4}", 5060))
if os.fork() == 0:
    one.sendall(b"from the child")
    one.recv(99)
    os._exit(0)
os.wait()
"""
    python(host, "isolated", code)
    (flow,) = flows(host, 5060)
    assert flow["pid"] == host.events("launch")[-1]["pid"]
    assert programs(flow) == ["python3"]


@contextlib.contextmanager
def shell(host: Stage, workload: str) -> Iterator[Any]:
    """A governed bash that forks for each line ``PORT MARKER`` it is given; ``ask`` returns when the program has ended."""
    loop = f"while read -r port word; do bash -c '{DIAL}' $port $word; echo done; done"
    process = host.start(workload, "/bin/bash", "-c", loop, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(port: int, word: str) -> None:
        process.stdin.write(f"{port} {word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    try:
        yield ask
    finally:
        process.communicate(timeout=20)


def test_a_process_id_that_comes_again_is_told_apart(host: Stage) -> None:
    next_pid = Path("/proc/sys/kernel/ns_last_pid")
    with shell(host, "isolated") as ask:
        ask(5070, "first")
        (first,) = flows(host, 5070)
        for attempt in range(60):  # others on this machine may take the number in between
            next_pid.write_text(str(first["pid"] - 1))
            ask(5071, f"again-{attempt}")
            again = next(flow for flow in flows(host, 5071, attempt + 1) if flow["lineage"][0]["argv"][-1] == f"again-{attempt}")
            if again["pid"] == first["pid"]:
                break
        else:
            raise AssertionError("the number never came again")
    assert again["start_ns"] > first["start_ns"]
    assert first["lineage"][0]["argv"][-1] == "first"
    assert again["lineage"][1:] == first["lineage"][1:]


def test_a_cgroup_below_the_leaf_is_the_leaf(host: Stage) -> None:
    with shell(host, "isolated") as ask:
        ask(5080, "above")
        (above,) = flows(host, 5080)
        leaf = next(Path("/sys/fs/cgroup").rglob(above["leaf"]))
        (leaf / "container").mkdir()
        (leaf / "container" / "cgroup.procs").write_text(str(above["lineage"][-1]["pid"]))
        ask(5081, "below")
        (below,) = flows(host, 5081)
    assert (below["leaf"], below["attribution"], below["lineage"][1:]) == (above["leaf"], "process", above["lineage"][1:])


def test_what_the_kernel_does_not_know_any_more_is_unknown_and_never_guessed(host: Stage) -> None:
    assert host.enforcer is not None
    its_own = Path(f"/proc/{host.enforcer.pid}/root{pins.home(host.settings['table'], host.slice)}")  # the filesystem is in its mounts
    tasks = calls.pinned(str(next(its_own.glob("*/maps/tasks"))))
    with shell(host, "isolated") as ask:
        ask(5090, "before")
        (before,) = flows(host, 5090)
        calls.delete(tasks, struct.pack("=I", before["lineage"][1]["pid"]))
        ask(5091, "after")
        (after,) = flows(host, 5091)
    os.close(tasks)
    assert (after["attribution"], after["lineage"]) == ("cgroup-only", [])
    assert (after["leaf"], after["uid"], after["comm"]) == (before["leaf"], before["uid"], "bash")


def test_a_dial_that_nobody_answers_is_told_as_such(host: Stage) -> None:
    code = """
import socket
one = socket.socket()
try:
    one.connect(("127.0.0.1", 5432 + 60))
except OSError as error:
    print(error.errno)
"""
    assert python(host, "isolated", code).split() == ["111"]
    (flow,) = flows(host, 5492)
    assert (flow["established"], programs(flow)) == (False, ["python3"])


def test_dials_in_a_loop_are_counted_and_none_is_missing(host: Stage) -> None:
    code = f"""
import socket
for _ in range(1500):
    one = socket.create_connection(("{SINK_4}", 5099))
    one.recv(99)
    one.close()
"""
    began = time.monotonic()
    python(host, "isolated", code)
    took = time.monotonic() - began
    counted = wait_for("all of them", lambda: (rows := flows(host, 5099)) and sum(row["count"] for row in rows) >= 1500 and rows)
    assert sum(row["count"] for row in counted) == 1500
    assert len(counted) <= 201 * (took + 2)
    together = [row for row in counted if row["count"] > 1]
    assert {(row["source"], row["attribution"], json.dumps(row["lineage"])) for row in together} <= {("", "cgroup-only", "[]")}
