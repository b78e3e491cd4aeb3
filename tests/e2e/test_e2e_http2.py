"""HTTP/2 and gRPC by ordinary programs, against hypercorn, nginx and grpcio: every stream judged, none translated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import python_of
from tests.e2e.http2_servers import ASGI_PORT, MUTUAL_PORT, NGINX_PORT, OLD_PORT, RPC_PORT
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, wait_for

pytestmark = pytest.mark.e2e

_URL = f"https://{DATABASE_NAME}:{ASGI_PORT}"
_NGINX = f"https://{DATABASE_NAME}:{NGINX_PORT}"
_POLICY = """\
version: 1
rules:
  - {id: read, what: {http: {methods: [GET, HEAD]}}, where: {target: [new, old, nginx, mutual]}, then: allow}
  - {id: people, what: {http: {methods: GET, paths: [/people, /events]}}, then: allow, mask: {detectors: [email]}}
  - {id: chat, what: {http: {methods: WEBSOCKET, paths: /chat}}, then: allow, mask: {detectors: [email]}}
  - {id: no-drops, what: {http: {methods: WEBSOCKET, body: {json: {$.op: drop}}}}, then: deny, reason: no drops}
  - {id: add, what: {http: {methods: POST, paths: "/add/**"}}, then: allow}
  - {id: reports, what: {http: {methods: POST, paths: /reports, body: {json: {$.kind: weekly}}}}, then: allow}
  - {id: no-salaries, what: {http: {paths: "/salaries/**"}}, then: deny, reason: salaries are not for workloads}
  - {id: calls, what: {http: {grpc: ["stage.Greeter/Say", "stage.Greeter/Stream", "stage.Greeter/Both"]}}, then: allow}
  - {id: deletion, what: {http: {methods: DELETE}}, then: hold, approvers: hostagent-approvers, timeout: 60}
  - {id: deletion-call, what: {http: {grpc: "*/Delete*"}}, then: hold, approvers: hostagent-approvers, timeout: 60}
"""
_TARGET = """\
protocol: http
hosts: [{name}]
port: {port}
http2: true
ca_file: /mnt/stage/company-ca.pem
login: {{scheme: bearer, credential: {{file: /mnt/stage/crm-password}}}}
"""
_SECRET = "S3cret-of-the-proxy-alone"


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Targets that speak HTTP/2, and one that only should."""
    ports = {"new": ASGI_PORT, "old": OLD_PORT, "rpc": RPC_PORT, "nginx": NGINX_PORT}
    targets = {f"{target}.yaml": _TARGET.format(name=DATABASE_NAME, port=port) for target, port in ports.items()}
    login = "login: {scheme: certificate, credential: {file: /mnt/stage/http2/client.pem}}\n"
    targets["mutual.yaml"] = _TARGET.format(name=DATABASE_NAME, port=MUTUAL_PORT).rpartition("login:")[0] + login
    return Settings(policies={"http.yaml": _POLICY}, targets=targets, toml="[http]\npark_s = 60\n")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The stage with the servers on the database host."""
    with World() as built:
        certificates = built.folder / "postgres"
        words = [str(certificates / "server.crt"), str(certificates / "server.key"), str(built.folder / "http2")]
        program = str(Path(__file__).with_name("http2_servers.py"))
        command = ["nsenter", f"--net=/proc/{built.holder}/ns/net", sys.executable, program, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PATH": "/usr/sbin:/usr/bin:/bin"}) as servers:
            try:
                assert servers.stdout is not None
                assert servers.stdout.readline() == b"listening\n"
                yield built
            finally:
                servers.terminate()


def _asked(world: World) -> list[str]:
    return (world.folder / "http2/asked.log").read_text(encoding="utf-8").splitlines()


def _curl(service: Service, *words: str) -> str:
    done = service.launch("curl", "-sS", "--http2", "-m", "40", *words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_curl_speaks_http2_to_a_server_that_does_and_each_stream_is_judged(world: World, service: Service) -> None:
    before = len(_asked(world))
    shown = _curl(service, "-w", "\n%{http_version} %{http_code} %{num_connects}\n", "-H", "Authorization: Bearer mine",
                  f"{_URL}/files/../a?x=1", f"{_URL}/salaries/1", f"{_URL}/b")  # fmt: skip
    one, first, denied, second, other, third = [line for line in shown.splitlines() if line]
    assert (first, second, third) == ("2 200 1", "2 403 0", "2 200 0")
    asked = json.loads(one)
    assert (asked["version"], asked["path"], asked["headers"]["authorization"]) == ("2", "/a", "Bearer " + "*" * len(_SECRET))
    assert json.loads(denied)["rule"] == "no-salaries"
    assert json.loads(other)["path"] == "/b"
    assert _asked(world)[before:] == ["2 GET /a", "2 GET /b"]
    assert service.wait_sql("select decision, outcome, tag from statements where text like '%salaries/1' limit 1") == [
        {"decision": "deny", "outcome": "denied", "tag": "403"}
    ]


def test_a_client_that_only_speaks_http1_is_served_in_http1(world: World, service: Service) -> None:
    before = len(_asked(world))
    assert _curl(service, "--http1.1", "-o", "/dev/null", "-w", "%{http_version}", f"{_URL}/c") == "1.1"
    assert _asked(world)[before:] == ["1.1 GET /c"]


def test_a_server_that_does_not_agree_to_http2_gets_nothing(world: World, service: Service) -> None:
    before = len(_asked(world))
    problem = json.loads(_curl(service, f"https://{DATABASE_NAME}:{OLD_PORT}/a"))
    assert (problem["status"], "does not agree to speak h2" in problem["reason"]) == (502, True)
    assert _asked(world)[before:] == []


def test_bodies_are_judged_masked_and_streamed(world: World, service: Service) -> None:
    assert json.loads(_curl(service, f"{_URL}/people")) == {"mail": "[masked:email]", "iban": "DE02"}
    weekly = _curl(service, f"{_URL}/reports", "-H", "Content-Type: application/json", "-d", '{ "kind": "weekly" }')
    assert json.loads(weekly)["size"] == len('{"kind":"weekly"}')
    assert '"status": 403' in _curl(service, f"{_URL}/reports", "-H", "Content-Type: application/json", "-d", '{"kind":"weekly","kind":"x"}')
    assert _curl(service, "-o", "/dev/null", "-w", "%{size_download}", f"{_URL}/bytes?30000000") == "30000000"
    sent = service.launch("bash", "-c", f"head -c 20000000 /dev/zero | curl -sS --http2 -m 60 -X POST -T - -H 'Content-Type: text/plain' {_URL}/add/up")
    assert json.loads(sent.stdout)["size"] == 20_000_000, sent.stderr
    peak = next(line for line in Path(f"/proc/{service.pid('proxyd')}/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300_000, "proxyd held a body instead of passing it on"


_HTTPX = """
import asyncio, httpx
async def main():
    async with httpx.AsyncClient(http2=True, timeout=30) as client:
        got = await asyncio.gather(*(client.get("URL/%d" % number) for number in range(30)))
        print({each.http_version for each in got}, {each.status_code for each in got}, [each.text for each in got] == ["file %d" % n for n in range(30)])
        print(len((await client.get("URL/large")).content), (await client.post("URL/1")).json()["status"])
asyncio.run(main())
"""


def test_many_streams_at_once_reach_an_nginx_that_takes_three(world: World, service: Service) -> None:
    done = service.launch(python_of(world), "-c", _HTTPX.replace("URL", _NGINX))
    assert done.stdout.splitlines() == ["{'HTTP/2'} {200} True", "20000000 403"], done.stderr


def test_a_held_stream_waits_while_others_go_on_and_a_human_releases_it(world: World, service: Service) -> None:
    before = len(_asked(world))
    script = f"curl -sS --http2 -m 60 -Z --no-progress-meter -X DELETE {_URL}/old --next -sS --http2 {_URL}/meanwhile"
    words = ["run", "--workload", "support-bot", "--no-tty", "--", "bash", "-c", script]
    with subprocess.Popen([*service.command, *words], env=service.environment, cwd="/", stdout=subprocess.PIPE, text=True) as curl:
        tickets: list[dict[str, object]] = []

        def pending() -> bool:
            tickets[:] = json.loads(service.hostagent("approvals", "list", "--json", user="dana").stdout)
            return bool(tickets)

        wait_for(pending, "the ticket")
        assert "2 DELETE /old" not in _asked(world)[before:]
        service.hostagent("approvals", "approve", str(tickets[0]["ticket"]), user="dana")
        curl.communicate(timeout=30)
    assert sorted(_asked(world)[before:]) == ["2 DELETE /old", "2 GET /meanwhile"]


_GRPC = f"""
import grpc
channel = grpc.secure_channel("{DATABASE_NAME}:{RPC_PORT}", grpc.ssl_channel_credentials())
def call(name, kind="unary_unary"):
    return getattr(channel, kind)("/stage.Greeter/" + name)
print(call("Say")(b"hi", timeout=20), list(call("Stream", "unary_stream")(b"n", timeout=20)))
print(list(call("Both", "stream_stream")(iter([b"a", b"b" * 100000]), timeout=20))[0])
for name, more in (("Unknown", {{}}), ("Delete", {{"timeout": 1}})):
    try:
        print(call(name)(b"x", **more))
    except grpc.RpcError as error:
        print(error.code().name, "|", error.details())
"""


def test_grpc_calls_are_operations_and_a_refusal_is_grpcs_own(world: World, service: Service) -> None:
    done = service.launch(python_of(world), "-c", _GRPC)
    said, both, denied, held = done.stdout.splitlines()
    assert (said, both) == ("b'said hi' [b'n0', b'n1', b'n2']", "b'A'"), done.stderr
    assert denied.startswith("PERMISSION_DENIED | hostagent: denied by default")
    assert held.startswith("FAILED_PRECONDITION | hostagent: held by rule deletion-call")
    assert "ticket" in held
    rows = service.wait_sql("select decision from statements where text like '%/stage.Greeter/Delete' limit 1")
    assert rows == [{"decision": "hold"}]


_CHAT = f"""
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
with connect("wss://{DATABASE_NAME}:{ASGI_PORT}/chat") as chat:
    chat.send('{{"op": "add"}}')
    print(chat.recv(), chat.recv())
    chat.ping().wait(10)
    chat.send('{{"op": "drop"}}')
    try:
        chat.recv()
    except ConnectionClosed as closed:
        print(closed.rcvd.code, closed.rcvd.reason)
try:
    connect("wss://{DATABASE_NAME}:{ASGI_PORT}/elsewhere")
except InvalidStatus as refused:
    print(refused.response.status_code)
"""


def test_messages_of_a_websocket_are_operations_and_what_comes_back_is_masked(world: World, service: Service) -> None:
    done = service.launch(python_of(world), "-c", _CHAT)
    assert done.stdout.splitlines() == ['{"op":"add"} [masked:email]', "1008 hostagent: denied by rule no-drops: no drops", "403"], done.stderr
    rows = service.wait_sql("select text, decision from statements where verb = 'WEBSOCKET' and text like '%message%' and decision = 'deny'")
    assert rows == [{"text": f"WEBSOCKET {_URL}/chat [text message, 14 bytes]", "decision": "deny"}]


def test_a_server_that_wants_a_certificate_gets_ours(world: World, service: Service) -> None:
    for version in ("--http2", "--http1.1"):
        said = _curl(service, version, f"https://{DATABASE_NAME}:{MUTUAL_PORT}/a")
        assert said == f"CN=the-proxy {'HTTP/2.0' if version == '--http2' else 'HTTP/1.1'}"
    steps = json.loads(service.hostagent("target", "test", "mutual", "--json").stdout)
    assert {(step["ok"], step["detail"]) for step in steps if step["name"] == "login"} == {(True, "HEAD / answers 200")}
    assert all(step["ok"] for step in steps if step["name"] == "http2")


def test_no_row_holds_the_credential(service: Service) -> None:
    for file in (service.folder / "state").rglob("*"):
        if file.is_file() and file.suffix in (".journal", ".duckdb", ".db"):
            assert _SECRET.encode() not in file.read_bytes(), file
