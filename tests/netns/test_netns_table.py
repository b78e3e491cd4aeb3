"""The host's table where the kernel cannot protect it (before Linux 6.9): plain, watched, loaded again, and backed.

Gaps are printed (``pytest -s``): from the notification of the foreign change to the one of the rules being back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.cli.enforcerlink import EnforcerConnection
from hostagent.enforcer import kernel
from hostagent.enforcer.cgroup import Slice
from hostagent.enforcer.rules.tablewatch import TableWatch
from hostagent.enforcer.syscalls import ARCHITECTURES
from hostagent.ipc import Reload, Reloaded, Uninstall, Uninstalled
from tests.netns.stage import HOST_4, SINK_4, SINK_6, Stage, new_network, stage, wait_for

pytestmark = pytest.mark.root

_WORKLOADS = [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]
_RESTORED_S = 2.0

# For each line of input, everything that could get out: what each attempt met. The server's port is on the host's loopback.
_ATTEMPTS = f"""
import errno, socket, sys
def attempt(body):
    try:
        return body()
    except TimeoutError:
        return "stalled"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def datagram(family, address, port):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        return s.sendto(b"stolen", (address, port))
def dial(family, address, port):
    with socket.socket(family) as s:
        s.settimeout(0.5)
        s.connect((address, port))
        return s.makefile().readline().split(" ")[-1].strip() or "closed"
def held():
    keep.sendall(b"more\\n")
    return keep.recv(1) or "ended"
print("up", flush=True)
for line in sys.stdin:
    port = int(line)
    print(
        attempt(lambda: datagram(socket.AF_INET, {SINK_4!r}, 443)), attempt(lambda: datagram(socket.AF_INET6, {SINK_6!r}, 443)),
        attempt(lambda: dial(socket.AF_INET, {SINK_4!r}, 5432)), attempt(lambda: dial(socket.AF_INET6, {SINK_6!r}, 5432)),
        attempt(lambda: datagram(socket.AF_INET, "127.0.0.1", port)), attempt(lambda: dial(socket.AF_INET, "127.0.0.1", port)),
        flush=True,
    )
"""
_HELD = f"EPERM EPERM {SINK_4}:5432 [{SINK_6}]:5432 6 ECONNREFUSED"  # the datagram is refused where it arrives
_STALLED = "EPERM EPERM stalled stalled EPERM stalled"

# A thousand datagrams a second, and dials of the sink between them, until the input ends; counts what they met.
_SENDER = f"""
import errno, json, select, socket, sys, time
seen = {{}}
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dials = []
print("up", flush=True)
due = time.monotonic()
for turn in range(120000):
    if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        break
    due = max(due + 0.001, time.monotonic() - 0.1)
    try:
        udp.sendto(b"stolen", ({SINK_4!r}, 443))
        key = "udp sent"
    except OSError as error:
        key = "udp " + errno.errorcode[error.errno]
    seen[key] = seen.get(key, 0) + 1
    if turn % 20 == 0:
        dial = socket.socket()
        dial.setblocking(False)
        dial.connect_ex(({SINK_4!r}, 5432))
        dials.append(dial)
    if len(dials) > 100:
        dials.pop(0).close()
print(json.dumps(seen))
"""


@pytest.fixture
def host(place: Path) -> Iterator[Stage]:
    with stage(place, _WORKLOADS, plain_table=True) as built:
        yield built


class Attempts:
    """A workload that tries everything once for each call; and a server of somebody else on the host's loopback."""

    def __init__(self, host: Stage, workload: str) -> None:
        with kernel.in_network(host.host):
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind(("127.0.0.1", 0))
            self.udp.setblocking(False)
            self.tcp = socket.create_server(("127.0.0.1", self.udp.getsockname()[1]))
            self.tcp.setblocking(False)
        self.process = host.start(workload, "/usr/bin/python3", "-I", "-c", _ATTEMPTS, stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def __call__(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{self.udp.getsockname()[1]}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def arrived(self) -> list[str]:
        """What the server on the host's loopback got."""
        found = []
        with contextlib.suppress(BlockingIOError):
            found.append(self.udp.recv(100).decode())
        with contextlib.suppress(BlockingIOError):
            self.tcp.accept()[0].close()
            found.append("a connection")
        return found

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate(timeout=20)
        self.udp.close()
        self.tcp.close()


@contextlib.contextmanager
def attempts(host: Stage, workload: str = "shared") -> Iterator[Attempts]:
    made = Attempts(host, workload)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def watching(host: Stage) -> Iterator[TableWatch]:
    """Hear every transaction on the stage's table, enforcerd's own included."""
    with kernel.in_network(host.host):
        watch = TableWatch(host.settings["table"])
    try:
        yield watch
    finally:
        watch.close()


def rules(host: Stage) -> list[str]:
    """The table's text without counts and without the word that changes with every load."""
    try:
        text = host.nft("-s", "list", "table", "inet", host.settings["table"])
    except subprocess.CalledProcessError:
        return []
    return [line for line in text.splitlines() if "comment" not in line]


def changes(host: Stage) -> list[str]:
    return [row["detail"] for row in host.events("service") if "was changed by" in row["detail"]]


def next_transaction(watch: TableWatch, seconds: float) -> tuple[float, str]:
    """Return when the next transaction on the table was heard, and whose it was."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        select.select([watch], [], [], max(0.0, until - time.monotonic()))
        now = time.monotonic()
        if found := watch.read():
            return now, " then ".join(found)
    raise AssertionError("no transaction touched the table")


def carried(host: Stage) -> list[str]:
    """Return what reached the sink, except the kernel's own answer to a listener's last packets that nobody translates.

    No socket sends that one, so no cgroup program sees it: a reset without a payload, to ::1, on the wire.
    """
    resets = re.compile(f"^.{{24}}86dd.{{8}}00140640.{{32}}{'0' * 31}1.{{4}}02bc.{{16}}5004")
    return [frame for frame in host.leaked(0) if not resets.match(frame)]


def tamper(host: Stage, text: str) -> None:
    with kernel.in_network(host.host):
        done = subprocess.run(
            ["nft", "-f", "-"], input=text.replace("TABLE", f"inet {host.settings['table']}"), text=True, capture_output=True, check=False
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "flush ruleset",
        "delete table TABLE",
        "flush table TABLE",
        "flush chain TABLE fence; delete chain TABLE fence",
        "flush chain TABLE fence_governed",
        "insert rule TABLE fence accept",
        "add element TABLE listeners { 9999 }",
        "add table TABLE { flags dormant; }",
        "delete table TABLE; add table TABLE; add chain TABLE redir { type filter hook input priority 0; }",
        "add chain TABLE egress { policy drop; }",
    ],
)
def test_what_another_tool_does_to_the_table_is_undone_and_recorded(host: Stage, text: str) -> None:
    with attempts(host) as attempt:
        before = rules(host)
        assert len(before) > 50
        assert attempt() == _HELD
        with watching(host) as watch:
            tamper(host, text)
            until = time.monotonic() + _RESTORED_S
            while rules(host) != before and time.monotonic() < until:
                select.select([watch], [], [], 0.01)
        assert rules(host) == before
        wait_for("the record", lambda: changes(host))
        table = host.settings["table"]
        assert all(row.startswith(f"table inet {table} was changed by nft (pid ") for row in changes(host))
        print(f"\n{text}: {changes(host)[0]}")
        assert attempt() == _HELD
        assert attempt.arrived() == []
    assert host.status()["fence"] | {"slice_id": 0} == {
        "table": table, "slice": str(Slice(host.slice).path), "slice_id": 0, "loaded": True, "owned": False,
    }  # fmt: skip
    assert carried(host) == []


def test_while_the_table_is_gone_and_nobody_loads_it_again_nothing_gets_out_of_the_leaf(host: Stage) -> None:
    with attempts(host) as attempt:
        assert attempt() == _HELD
        assert host.enforcer is not None
        host.enforcer.send_signal(signal.SIGSTOP)
        try:
            tamper(host, "flush ruleset")
            assert rules(host) == []
            assert [attempt() for _ in range(3)] == [_STALLED] * 3
            assert attempt.arrived() == []
        finally:
            host.enforcer.send_signal(signal.SIGCONT)
        wait_for("the record", lambda: changes(host))
        assert attempt() == _HELD
    assert carried(host) == []


def test_connections_of_an_own_loopback_server_go_on_behind_the_backstop(host: Stage) -> None:
    script = (
        "import json, socket\nanswers = []\nfor family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):\n"
        " server = socket.create_server((address, 0), family=family)\n"
        " client = socket.create_connection(server.getsockname()[:2], 3)\n there = server.accept()[0]\n"
        " client.sendall(b'ping')\n answers.append(there.recv(9).decode())\n"
        " there.sendall(b'pong')\n answers.append(client.recv(9).decode())\n there.close()\n answers.append(client.recv(9).decode())\n"
        "print(json.dumps(answers))"
    )
    assert host.probe("shared", script) == ["ping", "pong", ""] * 2


def test_while_the_table_is_gone_what_a_proxied_connection_sends_does_not_go_to_the_real_address(host: Stage) -> None:
    """Nothing translates its packets then, and its socket still bears the address of the real server."""
    script = (
        f"import socket, sys\ns = socket.create_connection(({SINK_4!r}, 5432), 5)\nprint(s.makefile().readline().strip(), flush=True)\n"
        "s.settimeout(10)\nsys.stdin.readline()\ns.sendall(b'in the gap')\nprint('sent', flush=True)\nsys.stdin.readline()\n"
        "try: print(s.recv(10) or 'ended', flush=True)\nexcept OSError as e: print(e, flush=True)"
    )
    process = host.start("shared", "/usr/bin/python3", "-I", "-c", script, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline().endswith(f"{SINK_4}:5432\n")
    assert host.enforcer is not None
    host.enforcer.send_signal(signal.SIGSTOP)
    try:
        tamper(host, "flush ruleset")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "sent\n"
        assert carried(host) == []
    finally:
        host.enforcer.send_signal(signal.SIGCONT)
    wait_for("the record", lambda: changes(host))
    process.communicate("\n", timeout=30)
    assert carried(host) == []


def test_a_dial_that_begins_while_the_table_is_gone_is_answered_once_it_is_back(host: Stage) -> None:
    """Where others keep connection tracking busy its first packet is known by then, as one that nobody redirected."""
    script = (
        f"import socket, sys, time\nsys.stdin.readline()\nbegan = time.monotonic()\n"
        f"try: socket.create_connection(({SINK_4!r}, 5432), 40)\nexcept ConnectionRefusedError: pass\n"
        "print(time.monotonic() - began)"
    )
    process = host.start("shared", "/usr/bin/python3", "-I", "-c", script, stdin=subprocess.PIPE)
    wait_for("the program", lambda: [each["stage"] for each in host.status()["leaves"]] == ["running"])
    assert process.stdin is not None
    assert host.enforcer is not None
    host.enforcer.send_signal(signal.SIGSTOP)
    try:
        tamper(host, "add table inet others; add chain inet others c { type filter hook output priority 0; }; add rule inet others c ct state new; delete table TABLE")
        process.stdin.write("\n")
        process.stdin.flush()
        with kernel.in_network(host.host):
            wait_for("its first packet", lambda: "SYN_SENT" in subprocess.run(["conntrack", "-L"], capture_output=True, text=True, check=True).stdout)
    finally:
        host.enforcer.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert float(out) < 35, err
    assert carried(host) == []


def test_while_the_table_is_gone_nothing_comes_in_from_outside(host: Stage) -> None:
    script = (
        "import json, socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('0.0.0.0', 0))\ns.setblocking(False)\n"
        "t = socket.create_server(('0.0.0.0', 0))\nt.settimeout(0)\nprint(s.getsockname()[1], t.getsockname()[1], flush=True)\n"
        "sys.stdin.readline()\nfound = []\n"
        "for what in (lambda: s.recv(99).decode(), lambda: str(t.accept()[1])):\n try: found.append(what())\n except BlockingIOError: pass\n"
        "print(json.dumps(found))"
    )
    process = host.start("shared", "/usr/bin/python3", "-I", "-c", script, stdin=subprocess.PIPE)
    assert process.stdout is not None
    udp, tcp = map(int, process.stdout.readline().split())
    assert host.enforcer is not None
    host.enforcer.send_signal(signal.SIGSTOP)
    try:
        tamper(host, "flush ruleset")
        with kernel.in_network(host.internet):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outsider:
                outsider.sendto(b"command", (HOST_4, udp))
            with socket.socket() as outsider, pytest.raises(TimeoutError):
                outsider.settimeout(0.5)
                outsider.connect((HOST_4, tcp))
    finally:
        host.enforcer.send_signal(signal.SIGCONT)
    out, _ = process.communicate("\n", timeout=30)
    assert json.loads(out) == []


def test_a_sender_of_a_thousand_datagrams_a_second_gets_none_out_while_the_table_is_flushed_again_and_again(host: Stage) -> None:
    process = host.start("shared", "/usr/bin/python3", "-I", "-c", _SENDER, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    gaps = []
    with watching(host) as watch:
        for count in range(1, 31):
            with kernel.in_network(host.host):
                flush = subprocess.Popen(["nft", "flush", "ruleset"])
            gone, both = next_transaction(watch, _RESTORED_S)
            back, _ = (gone, "") if " then " in both else next_transaction(watch, _RESTORED_S)
            gaps.append((back - gone) * 1000)
            assert flush.wait(20) == 0
            wait_for("the record", lambda expected=count: len(changes(host)) >= expected)
            watch.read()
    out, _ = process.communicate("\n", timeout=30)
    gaps.sort()
    print(f"\n30 flushes, gaps heard in ms: median {gaps[len(gaps) // 2]:.1f}, longest {gaps[-1]:.1f}; the sender met {out.strip()}")
    met = json.loads(out)
    assert (set(met), met["udp EPERM"] > 500) == ({"udp EPERM"}, True)
    assert carried(host) == []


def test_own_loads_are_not_taken_for_somebody_elses(host: Stage) -> None:
    for _ in range(5):
        connection = EnforcerConnection(host.socket_path)
        connection.ask(Reload(), Reloaded)
        connection.close()
    for workload in ("shared", "isolated"):
        assert host.run(workload, "sh", "-c", "exit 4").returncode == 4
    with watching(host) as watch:
        # Another tool's table is no business of ours either.
        tamper(host, "add table inet others; add chain inet others c; delete table inet others")
        # Two of enforcerd's ticks, in which it could have loaded them again.
        select.select([], [], [], 1.2)
        assert watch.read() == []
    assert changes(host) == []


def test_if_the_rules_cannot_be_loaded_again_shared_placement_ends_and_the_fence_is_tried_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = place / "bin"
    programs.mkdir()
    broken = place / "broken"
    (programs / "nft").write_text(f'#!/bin/sh\n[ -e {broken} ] && echo "out of order" >&2 && exit 1\nexec /usr/sbin/nft "$@"\n')
    (programs / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with stage(place, _WORKLOADS, plain_table=True) as host, attempts(host) as attempt, attempts(host, "isolated") as isolated:
        before = rules(host)
        assert attempt() == _HELD
        broken.touch()
        with kernel.in_network(host.host):
            subprocess.run(["/usr/sbin/nft", "flush", "ruleset"], check=True)
        attempt.process.wait(20)
        assert attempt.process.stderr is not None
        assert "the fence could not be loaded again" in attempt.process.stderr.read()
        assert host.status()["fence"]["loaded"] is False
        refused = host.run("shared", "true")
        assert (refused.returncode, "the fence is being loaded again" in refused.stderr) == (125, True)
        assert isolated().startswith(_HELD)
        broken.unlink()
        wait_for("the fence", lambda: host.status()["fence"]["loaded"])
        assert host.run("shared", "sh", "-c", "exit 4").returncode == 4
        assert len(rules(host)) > 50
        assert any("out of order" in row["detail"] for row in host.events("service"))
        assert carried(host) == []
    assert len(before) > 50


def test_rules_that_are_flushed_while_they_are_loaded_again_are_loaded_until_they_hold_and_no_workload_ends(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = place / "bin"
    programs.mkdir()
    contests = place / "contests"
    contests.mkdir()
    # Another tool's flush after each of the next three loads, before anything was proved.
    flush = f'for each in {contests}/*; do [ -d "$each" ] && rmdir "$each" && /usr/sbin/nft flush ruleset; break; done'
    (programs / "nft").write_text(f'#!/bin/sh\n/usr/sbin/nft "$@" || exit 1\n{flush}\nexit 0\n')
    (programs / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with stage(place, _WORKLOADS, plain_table=True) as host, attempts(host) as attempt:
        before = rules(host)
        assert attempt() == _HELD
        for name in ("1", "2", "3"):
            (contests / name).mkdir()
        with kernel.in_network(host.host):
            subprocess.run(["/usr/sbin/nft", "flush", "ruleset"], check=True)
        wait_for("the last load", lambda: not list(contests.iterdir()) and host.status()["fence"]["loaded"])
        assert rules(host) == before
        assert attempt() == _HELD
        assert len([row for row in host.events("service") if "while it was loaded again it was changed by nft" in row["detail"]]) == 3
        assert carried(host) == []


def test_uninstall_takes_a_plain_table_down_and_it_stays_down(host: Stage) -> None:
    program = host.start("shared", "sleep", "1000")
    wait_for("the program", lambda: [each["stage"] for each in host.status()["leaves"]] == ["running"])
    connection = EnforcerConnection(host.socket_path)
    connection.ask(Uninstall(), Uninstalled)
    connection.close()
    program.communicate(timeout=20)
    assert host.enforcer is not None
    assert host.enforcer.wait(20) == 0
    assert host.nft("list", "ruleset") == ""
    assert changes(host) == []


@pytest.mark.parametrize("plain", [True, False])
def test_without_the_backstop_shared_placement_needs_an_owned_table(place: Path, plain: bool) -> None:
    with stage(place, _WORKLOADS, plain_table=plain) as host:
        program = _allow_nothing_below(Slice(host.slice).path)
        try:
            done = host.run("shared", "sh", "-c", "exit 4")
            assert done.returncode == (77 if plain else 4)
            assert ("shared placement needs Linux 6.9" in done.stderr) is plain
            assert host.run("isolated", "sh", "-c", "exit 4").returncode == 4
            weaker = "\n".join(host.status()["weaker"])
            assert ("the nft table is not owned" in weaker) is plain
        finally:
            os.close(program)


def test_notifications_that_were_lost_count_as_a_change() -> None:
    network = new_network()
    try:
        with kernel.in_network(network):
            watch = TableWatch("ours", buffer=4096)
            text = "".join(f"add table inet other{number}\n" for number in range(400))
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        found = watch.read()
        watch.close()
    finally:
        os.close(network)
    assert found == ["an unknown process (notifications were lost)"]


def test_a_transaction_is_ours_once_by_its_word_and_others_by_table_and_family() -> None:
    network = new_network()
    heard = []
    try:
        with kernel.in_network(network):
            watch = TableWatch("ours")
            watch.announce("load 0123")
            signed = 'add table inet ours; add chain inet ours c; add rule inet ours c counter comment "load 0123"'
            for text in (signed, signed, "add table inet others", "add table ip ours", "delete table inet ours"):
                subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
                heard.append([entry.split(" (")[0] for entry in watch.read()])
        watch.close()
    finally:
        os.close(network)
    assert heard == [[], ["nft"], [], [], ["nft"]]


def _allow_nothing_below(cgroup: Path) -> int:
    """Attach, exclusively, a program that lets everything through: none can be attached below. It ends with the cgroup."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"none")
    number = ARCHITECTURES[os.uname().machine].numbers["bpf"]

    def bpf(command: int, attributes: bytes) -> int:
        buffer = ctypes.create_string_buffer(attributes, 128)
        return kernel.system_call(number, ctypes.c_int(command), buffer, ctypes.c_uint(128), what="bpf")

    program = bpf(5, struct.pack("=IIQQIIQII16sII", 8, 2, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0, b"", 0, 1))
    folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bpf(8, struct.pack("=IIII", folder, program, 1, 0))
    finally:
        os.close(folder)
    return program
