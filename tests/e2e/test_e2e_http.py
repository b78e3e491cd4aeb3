"""HTTP and HTTPS by ordinary programs: judged per request, the credential ours, nothing unjudged at the server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import python_of
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, wait_for

pytestmark = pytest.mark.e2e

_URL = f"https://{DATABASE_NAME}:8443"
_POLICY = """\
version: 1
rules:
  - id: read-files
    what: {http: {methods: [GET, HEAD], paths: ["/files/**"]}}
    then: allow
  - id: add-files
    what: {http: {methods: [POST, PUT], paths: ["/files/*"], headers: {content-type: ["application/*", "text/*"]}}}
    then: allow
  - id: no-salaries
    what: {http: {paths: ["/files/salaries/**"]}}
    then: deny
    reason: salaries are not for workloads
    hint: ask personnel
  - id: read-people
    what: {http: {methods: [GET], paths: ["/people/**"]}}
    then: allow
    mask: {detectors: [email]}
  - id: deletion-needs-a-human
    what: {http: {methods: [DELETE], paths: ["/files/*"]}}
    then: hold
    approvers: hostagent-approvers
    timeout: 60
"""
_TLS = """\
protocol: http
hosts: [{name}]
port: 8443
ca_file: /mnt/stage/company-ca.pem
login: {{scheme: bearer, credential: {{file: /mnt/stage/crm-password}}}}
"""
_PLAIN = f"protocol: http\nhosts: [{DATABASE_NAME}, {DATABASE_V4}]\nport: 8080\ntls: disable\n"
_UNTRUSTED = f"protocol: http\nhosts: [{DATABASE_NAME}]\nport: 8444\n"  # by the system's authorities, which know nothing of it
_SILENT = f"protocol: http\nhosts: [{DATABASE_NAME}]\nport: 8446\n"  # takes connections and says nothing
_SECRET = "S3cret-of-the-proxy-alone"


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Targets over TLS, without it, and one that cannot prove who it is."""
    targets = {"api.yaml": _TLS.format(name=DATABASE_NAME), "plain.yaml": _PLAIN, "untrusted.yaml": _UNTRUSTED, "silent.yaml": _SILENT}
    return Settings(policies={"http.yaml": _POLICY}, targets=targets, toml="[http]\npark_s = 60\n[limits]\nconnect_timeout_s = 4.0\n")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The stage with a web server on the database host."""
    with World() as built:
        certificates = built.folder / "postgres"
        words = [str(certificates / "server.crt"), str(certificates / "server.key"), str(built.folder / "http.log")]
        program = str(Path(__file__).with_name("http_server.py"))
        command = ["nsenter", f"--net=/proc/{built.holder}/ns/net", sys.executable, program, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            yield built
            server.kill()


def _asked(world: World) -> list[str]:
    return (world.folder / "http.log").read_text(encoding="utf-8").splitlines()


def _curl(service: Service, *words: str) -> str:
    done = service.launch("curl", "-sS", "-m", "30", *words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_curl_verifies_our_certificate_and_the_server_gets_our_credential(world: World, service: Service) -> None:
    asked = json.loads(_curl(service, f"{_URL}/files/../files/one", "-H", "Authorization: Bearer of-the-workload"))
    got = (world.folder / "http.credentials").read_text(encoding="utf-8").splitlines()
    assert got[-1] == f"Bearer {_SECRET}"
    assert asked["headers"]["Authorization"] == "Bearer " + "*" * len(_SECRET), "an echo shows no credential"
    assert (asked["path"], asked["headers"]["Host"]) == ("/files/one", f"{DATABASE_NAME}:8443")


def test_a_denied_request_gets_a_problem_document_and_its_connection_goes_on(world: World, service: Service) -> None:
    before = len(_asked(world))
    shown = _curl(service, "-w", "%{http_code} %{content_type} %{num_connects}\n",
                  f"{_URL}/files/one", f"{_URL}/files/salaries/1", f"{_URL}/files/%73alaries/2", f"{_URL}/files/two")  # fmt: skip
    codes = [line.split("}")[-1].split() for line in shown.splitlines() if line.split("}")[-1].split()]
    assert [(code, connects) for code, *_, connects in codes] == [("200", "1"), ("403", "0"), ("403", "0"), ("200", "0")]
    [problem] = [json.loads(line) for line in shown.splitlines() if "no-salaries" in line and "/1" not in line][:1]
    assert (problem["rule"], problem["reason"], problem["next_step"]) == (
        "no-salaries", "salaries are not for workloads", "ask personnel",
    )  # fmt: skip
    assert _asked(world)[before:] == ["GET /files/one", "GET /files/two"]


def test_plain_http_is_judged_the_same_and_only_under_its_own_name(world: World, service: Service) -> None:
    before = len(_asked(world))
    assert "workload" not in json.loads(_curl(service, f"http://{DATABASE_V4}:8080/files/a", "-H", "Authorization: workload"))["headers"]
    assert '"status": 421' in _curl(service, f"http://{DATABASE_V4}:8080/files/b", "-H", "Host: elsewhere.example")
    assert '"status": 403' in _curl(service, f"http://{DATABASE_NAME}:8080/other")
    assert '"status": 403' in _curl(service, "-X", "CONNECT", f"http://{DATABASE_NAME}:8080/files/c")
    assert '"status": 403' in _curl(service, "--http2", f"http://{DATABASE_NAME}:8080/files/d")
    assert _asked(world)[before:] == ["GET /files/a"]


def test_tls_without_the_targets_name_is_refused(service: Service) -> None:
    for words in ([f"https://{DATABASE_V4}:8443/files/a"], ["--connect-to", f"::{DATABASE_V4}:8443", "https://front.example/files/a"]):
        done = service.launch("curl", "-sSk", "-m", "30", *words)
        assert done.returncode == 35, done.stderr
        assert "unrecognized name" in done.stderr
    fronted = _curl(service, f"{_URL}/files/a", "-H", f"Host: {DATABASE_V4}:8443")
    assert json.loads(fronted)["status"] == 421


def test_bodies_of_every_kind_pass_whole_and_large_ones_in_little_memory(service: Service) -> None:
    assert _curl(service, f"{_URL}/files/chunks") == "one,two"
    assert _curl(service, f"{_URL}/files/until-close") == "until close"
    pid = service.pid("proxyd")
    assert _curl(service, "-o", "/dev/null", "-w", "%{size_download}", f"{_URL}/files/bytes?200000000") == "200000000"
    sent = service.launch("bash", "-c", f"head -c 100000000 /dev/zero | curl -sS -T - -H 'Content-Type: text/plain' {_URL}/files/up")
    assert json.loads(sent.stdout)["size"] == 100_000_000, sent.stderr
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300_000, "proxyd held a body instead of passing it on"


_REQUESTS = """
import requests
session = requests.Session()
print([session.get("URL/files/%d" % i).status_code for i in range(3)], session.post("URL/files/x", json={"a": 1}).json()["size"])
print(session.get("URL/elsewhere").json()["status"], session.post("URL/files/x", data=b"a").json()["status"])
"""
_NODE = 'fetch("URL/files/1").then(r=>r.json()).then(j=>console.log(j.path))'


_JAVA = """
import java.net.URI;
import java.net.http.*;
class Ask {
    public static void main(String[] words) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var path : new String[] {"/files/1", "/elsewhere"}) {
            var request = HttpRequest.newBuilder(URI.create("URL" + path)).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


def test_java_verifies_by_its_own_store_and_is_judged_unchanged(service: Service) -> None:
    code = f"cat > /tmp/Ask.java <<'END'\n{_JAVA.replace('URL', _URL)}\nEND\nexec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 /tmp/Ask.java"
    done = service.launch("/bin/sh", "-c", code)
    assert done.stdout.split() == ["200", "403"], done.stderr


def test_other_clients_verify_and_are_judged_unchanged(world: World, service: Service) -> None:
    done = service.launch(python_of(world), "-c", _REQUESTS.replace("URL", _URL))
    assert done.stdout.splitlines() == ["[200, 200, 200] 8", "403 403"], done.stderr
    done = service.launch("node", "-e", _NODE.replace("URL", _URL))
    assert done.stdout.strip() == "/files/1", done.stderr


def test_what_a_rule_masks_does_not_come_back(world: World, service: Service) -> None:
    before = len(_asked(world))
    asked = json.loads(_curl(service, "--compressed", "-r", "0-9", f"{_URL}/people/7?mail=ann@example.com"))
    assert asked["path"] == "/people/7?mail=[masked:email]"
    assert (asked["headers"]["Accept-Encoding"], "Range" in asked["headers"]) == ("identity", False)
    assert _asked(world)[before:] == ["GET /people/7?mail=ann@example.com"]
    rows = service.wait_sql("select masked_values from statements where text like '%/people/%' and outcome = 'ok'")
    assert rows == [{"masked_values": 2}], "the address, and the credential that the server echoes"


def test_a_held_request_is_released_by_a_human(world: World, service: Service) -> None:
    before = len(_asked(world))
    words = ["run", "--workload", "support-bot", "--no-tty", "--", "curl", "-sS", "-m", "60", "-X", "DELETE", f"{_URL}/files/old"]
    with subprocess.Popen([*service.command, *words], env=service.environment, cwd="/", stdout=subprocess.PIPE, text=True) as curl:
        tickets: list[dict[str, object]] = []

        def pending() -> bool:
            tickets[:] = json.loads(service.hostagent("approvals", "list", "--json", user="dana").stdout)
            return bool(tickets)

        wait_for(pending, "the ticket")
        assert _asked(world)[before:] == []
        service.hostagent("approvals", "approve", str(tickets[0]["ticket"]), user="dana")
        answer, _ = curl.communicate(timeout=30)
    assert json.loads(answer)["method"] == "DELETE"
    assert _asked(world)[before:] == ["DELETE /files/old"]


def test_a_client_that_cannot_wait_sends_its_request_again_once_it_is_approved(world: World, service: Service) -> None:
    toml = service.folder / "hostagent.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("park_s = 60", "park_s = 0"), encoding="utf-8")
    service.hostagent("reload")
    before = len(_asked(world))
    # One running program: what was approved for it is nothing to another.
    script = f"ask() {{ curl -sS -X DELETE {_URL}/files/$1; echo; }}; ask a; read x; ask b; ask a; ask a"
    words = ["run", "--workload", "support-bot", "--no-tty", "--", "bash", "-c", script]
    with subprocess.Popen(
        [*service.command, *words], env=service.environment, cwd="/", text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        held = json.loads(program.stdout.readline())
        assert (held["status"], held["type"], held["rule"]) == (403, "urn:hostagent:held", "deletion-needs-a-human")
        service.hostagent("approvals", "approve", held["ticket"], user="dana")
        assert _asked(world)[before:] == []
        rest, _ = program.communicate("go on\n", timeout=30)
    other, done, again = (json.loads(line) for line in rest.splitlines() if line)
    assert (other["type"], done["path"], again["type"]) == ("urn:hostagent:held", "/files/a", "urn:hostagent:held")
    assert again["ticket"] != held["ticket"]
    assert _asked(world)[before:] == ["DELETE /files/a"]
    assert service.hostagent("approvals", "list", "--json", user="dana").stdout.strip() == "[]", "the program has ended"


def test_every_request_and_response_is_a_row_without_a_credential(service: Service) -> None:
    rows = service.wait_sql("select verb, text, decision, outcome, tag from statements where text like '%salaries/2' limit 1")
    assert rows == [
        {"verb": "GET", "text": f"GET {_URL}/files/salaries/2", "decision": "deny", "outcome": "denied", "tag": "403"}
    ]
    for file in (service.folder / "state").rglob("*"):
        if file.is_file() and file.suffix in (".journal", ".duckdb", ".db"):
            assert _SECRET.encode() not in file.read_bytes(), file


def test_a_server_that_cannot_prove_its_name_is_not_talked_to(world: World, service: Service) -> None:
    before = len(_asked(world))
    problem = json.loads(_curl(service, f"https://{DATABASE_NAME}:8444/files/a"))
    assert (problem["status"], "TLS with the target failed" in problem["reason"]) == (502, True)
    assert _asked(world)[before:] == []


def test_a_server_that_takes_a_connection_and_says_nothing_is_given_up(service: Service) -> None:
    problem = json.loads(_curl(service, f"https://{DATABASE_NAME}:8446/files/a"))
    assert (problem["status"], "TLS with the target was not up within 4 s" in problem["reason"]) == (502, True)
