"""The eBPF programs: what they refuse and record by themselves, without nft, and in the whole enforcer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.enforcer.bpf import calls, layout
from hostagent.enforcer.bpf.programs import netns_cookie
from hostagent.enforcer.bpf.table import PROGRAMS
from hostagent.enforcer.cgroup import Leaf, Slice
from hostagent.enforcer.confinement.launch import in_child
from tests.netns.ground import HERE, UNIX, Ground, answer, dial, dial_unix, fast_open, send, take_off
from tests.netns.stage import SINK_4, Stage, stage, wait_for

pytestmark = pytest.mark.root


def answers(leaf: Leaf, port: int) -> dict[str, str]:
    attempts: dict[str, Callable[[], object]] = {
        "tcp": lambda: dial(port),
        "mapped": lambda: dial(port, socket.AF_INET6, "::ffff:127.0.0.1"),
        "multipath": lambda: dial(port, protocol=262),
        "fast open": lambda: fast_open(port),
        "loopback datagram": lambda: send(9),
        "datagram": lambda: send(443, "192.0.2.1"),
        "mapped datagram": lambda: send(443, "::ffff:192.0.2.1", socket.AF_INET6),
        "datagram 6": lambda: send(443, "2001:db8::1", socket.AF_INET6),
        "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "raw 6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58),
        "unix": dial_unix,
    }
    return {name: answer(leaf, attempt) for name, attempt in attempts.items() if UNIX or name != "unix"}


OPEN = {"tcp": "ok", "mapped": "ok", "multipath": "ok", "fast open": "ok", "loopback datagram": "ok"}
NO_ROUTE = dict.fromkeys(("datagram", "mapped datagram", "datagram 6"), "ENETUNREACH")
NOBODY = {"unix": "ECONNREFUSED"} if UNIX else {}
NO_RAW = {"raw": "EPERM", "raw 6": "EPERM"}


def test_a_leaf_that_is_not_registered_has_no_socket(ground: Ground, port: int) -> None:
    leaf = ground.leaf()
    assert set(answers(leaf, port).values()) == {"EPERM"}
    headings = [layout.heading(data) for data in ground.records()]
    assert {(each.leaf, each.kind, each.reason) for each in headings} == {(leaf.id, layout.RECORD_REFUSAL, 1)}


def test_a_registered_leaf_has_tcp_and_udp_sockets_and_no_others(ground: Ground, port: int) -> None:
    assert answers(ground.registered(), port) == OPEN | NO_ROUTE | NO_RAW | NOBODY


def test_in_shared_placement_datagrams_go_to_port_53_and_loopback_only(ground: Ground, port: int) -> None:
    leaf = ground.registered(layout.FLAG_SHARED)
    refused = dict.fromkeys(NO_ROUTE, "EPERM")
    assert answers(leaf, port) == OPEN | refused | NO_RAW | NOBODY
    assert answer(leaf, lambda: send(53, "192.0.2.1")) == "ENETUNREACH"


def test_a_network_namespace_that_is_not_the_leafs_is_refused(ground: Ground, port: int) -> None:
    leaf = ground.registered(netns=netns_cookie() + 1)
    assert set(answers(leaf, port).values()) == {"EPERM", *NOBODY.values()}  # unix has no such notion
    assert {layout.heading(data).reason for data in ground.records()} == {2}


def test_a_leaf_without_unix_sockets_connects_none(ground: Ground) -> None:
    leaf = ground.registered(layout.FLAG_NO_UNIX)
    assert answer(leaf, dial_unix) == ("EPERM" if UNIX else "ECONNREFUSED")
    assert bool(ground.programs.missing("connect_unix")) is not UNIX


def test_a_leaf_is_denied_again_when_it_is_forgotten(ground: Ground, port: int) -> None:
    leaf = ground.registered()
    assert answer(leaf, lambda: dial(port)) == "ok"
    ground.programs.forget(leaf.id)
    assert answer(leaf, lambda: dial(port)) == "EPERM"


def test_whoever_gets_a_socket_out_of_the_slice_cannot_connect_it(ground: Ground, port: int) -> None:
    leaf = ground.registered()
    here, there = socket.socketpair()

    def hand_out() -> str:
        with socket.socket() as one:
            socket.send_fds(there, [b"x"], [one.fileno()])
        return ""

    in_child(hand_out, before=leaf.enter, timeout_s=10.0)
    _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
    with here, there, socket.socket(fileno=descriptors[0]) as outside, pytest.raises(PermissionError):
        outside.connect(("127.0.0.1", port))


def test_who_connects_is_told_with_the_tuple_that_the_listener_sees(ground: Ground) -> None:
    leaf = ground.registered()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        pid = int(in_child(lambda: dial(port) or str(os.getpid()), before=leaf.enter, timeout_s=10.0))
        accepted, peer = listener.accept()
        (data,) = ground.records("events")
        heading, tuple_ = layout.heading(data), layout.TUPLE.unpack(data[layout.HEADING.size :])
        seen = (layout.address(2, bytes(tuple_["saddr"])), tuple_["sport"], layout.address(2, bytes(tuple_["daddr"])), tuple_["dport"])
        assert (heading.kind, heading.leaf, heading.tgid, heading.netns) == (layout.RECORD_FLOW, leaf.id, pid, netns_cookie())
        assert seen == (*peer, "127.0.0.1", port)
        accepted.close()


def test_what_is_known_of_a_connection_is_forgotten_with_it(ground: Ground, port: int) -> None:
    leaf = ground.registered()
    for _ in range(5):
        answers(leaf, port)
    answer(leaf, lambda: dial(1))  # nobody listens

    def left() -> int:
        return sum(len(list(calls.keys(fd, shape.key_size))) for fd, shape in filter(None, map(ground.programs.map, ("by_cookie", "by_tuple"))))

    wait_for("the maps to be empty", lambda: left() == 0)


# -- in the whole enforcer ------------------------------------------------------------------------------------------------


def test_status_lists_every_program(host: Stage) -> None:
    report = host.status()["bpf"]
    assert report["problem"] == ""
    assert {each["name"]: each["attached"] for each in report["programs"]} == {row.name: row.name in HERE for row in PROGRAMS}


def test_programs_that_somebody_takes_off_are_put_back(host: Stage) -> None:
    cgroup = os.open(Slice(host.slice).path, os.O_RDONLY)
    try:
        before = calls.attached(cgroup, calls.ATTACH_CONNECT4)
        take_off(before[0])
        assert wait_for("the program", lambda: calls.attached(cgroup, calls.ATTACH_CONNECT4)) != before
    finally:
        os.close(cgroup)
    wait_for("the row", lambda: [row for row in host.events("service") if "eBPF" in str(row["detail"]) and "connect4" in str(row["detail"])])
    assert host.status()["bpf"]["problem"] == ""
    assert host.probe("shared", "print(1)") == 1


_UNIX = """
import json, socket
def attempt(kind, name):
    with socket.socket(socket.AF_UNIX, kind) as own, socket.socket(socket.AF_UNIX, kind) as one:
        own.bind(name)
        if kind == socket.SOCK_STREAM:
            own.listen()
        try:
            one.connect(name)
            return "connected"
        except OSError as error:
            return type(error).__name__
pair = socket.socketpair()
pair[0].send(b"x")
kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
names = ("\\0abstract", "/tmp/pathname")
print(json.dumps([attempt(kind, f"{name}-{int(kind)}") for kind in kinds for name in names] + [pair[1].recv(1).decode()]))
"""


def test_a_workload_that_needs_no_unix_socket_connects_none_not_even_its_own(host: Stage) -> None:
    assert host.probe("shared", _UNIX) == [*["connected"] * 4, "x"]
    if not UNIX:
        refused = host.run("without-unix", "true")
        assert (refused.returncode, "no eBPF program connect_unix" in refused.stderr) == (77, True)
        return
    assert host.probe("without-unix", _UNIX) == [*["PermissionError"] * 4, "x"]
    rows = wait_for("the row", lambda: [row for row in host.events("refusal") if row["workload"] == "without-unix" and row["transport"] == "unix"])
    assert rows[0]["reason"] == "the workload may not connect unix sockets"


def test_without_the_program_such_a_workload_is_refused(place: Path) -> None:
    with stage(place, [{"name": "plain"}, {"name": "without-unix", "unix_sockets": False}], bpf="off") as bare:
        assert bare.run("plain", "true").returncode == 0
        done = bare.run("without-unix", "true")
        assert done.returncode == 77
        assert "`unix_sockets: false` cannot be enforced here: no eBPF program connect_unix: switched off" in done.stderr
        report = bare.status()
        assert report["bpf"]["problem"] == "switched off (enforcement.bpf)"
        assert not any(each["attached"] for each in report["bpf"]["programs"])
        assert any(line.startswith("no eBPF: switched off") for line in report["weaker"])


def test_a_refusal_by_a_program_is_a_row(host: Stage) -> None:
    script = "import json, socket\ntry: socket.socket(2, 2).sendto(b'x', (SINK, 443))\nexcept OSError as error: print(json.dumps(error.errno))"
    assert host.probe("shared", script, SINK=SINK_4) == errno.EPERM
    rows = wait_for("the row", lambda: [row for row in host.events("refusal") if row["layer"] == "bpf" and row["transport"] == "udp"])
    wanted = {"workload": "shared", "destination": f"{SINK_4}:443", "transport": "udp", "count": 1}
    assert {key: rows[0][key] for key in wanted} == wanted
