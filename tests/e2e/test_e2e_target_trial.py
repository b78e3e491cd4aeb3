"""``hostagent target test`` against the real server: what works is said, what fails is named with what mends it."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostagent.cli.main import main
from tests.proxy.oidc_provider import certificate
from tests.stage import World

pytestmark = pytest.mark.e2e
_PASSWORD = "S3cret-of-the-proxy-alone"


@pytest.fixture(scope="module")
def toml(world: World) -> str:
    file = world.folder / "trial" / "hostagent.toml"
    assert CliRunner().invoke(main, ["--config", str(file), "init"]).exit_code == 0
    return str(file)


def _tried(world: World, toml: str, place: str, *options: str, password: str = _PASSWORD, words: tuple[str, ...] = ()) -> tuple[int, list[dict[str, object]]]:
    """Add a target at ``place`` and try it; return the exit status and the steps."""
    ca = () if "--ca-file" in options else ("--ca-file", str(world.folder / "company-ca.pem"))
    add = ["--config", toml, "target", "add", "tried", f"postgresql://{place}", "--secret", "ask", "--force", *ca, *options]
    added = CliRunner().invoke(main, add, input=f"{password}\n")
    assert added.exit_code == 0, added.output
    done = CliRunner().invoke(main, ["--config", toml, "target", "test", "tried", "--json", "--timeout", "5", *words])
    assert password not in done.output
    return done.exit_code, json.loads(done.stdout)


def test_every_address_of_a_good_target_is_logged_in_to(world: World, toml: str) -> None:
    status, steps = _tried(world, toml, "crm_proxy@crm.internal,10.77.0.2/crm")
    assert status == 0, steps
    assert [step["name"] for step in steps] == ["document", "credential", "resolve", *["connect", "tls", "login"] * 2]
    assert {step["place"] for step in steps if step["name"] == "login"} == {"10.77.0.2:5432", "[fd77::2]:5432"}
    shown = CliRunner().invoke(main, ["--config", toml, "target", "test", "tried"])
    assert "ok      login      10.77.0.2:5432: as crm_proxy in crm, PostgreSQL 15" in shown.stdout


def test_a_role_that_may_everything_is_pointed_out(world: World, toml: str) -> None:
    _, steps = _tried(world, toml, "postgres@10.77.0.2/crm", password="superuser-only")
    assert (steps[-1]["ok"], "superuser" in str(steps[-1]["fix"])) == (True, True)


@pytest.mark.parametrize(
    ("place", "options", "password", "name", "fix"),
    [
        ("crm_proxy@10.77.0.2/crm", (), "wrong-one", "login", "alter role crm_proxy password"),
        ("crm_proxy@10.77.0.2/nowhere", (), _PASSWORD, "login", "name a database that exists"),
        ("crm_proxy@10.77.0.2/crm", ("--server-name", "other.internal"), _PASSWORD, "tls", "server_name"),
        ("crm_proxy@10.77.0.2/crm", ("--ca-file", "/etc/ssl/certs/ca-certificates.crt"), _PASSWORD, "tls", "its issuer is not trusted"),
        ("crm_proxy@10.77.0.2:5439/crm", (), _PASSWORD, "connect", "listen_addresses"),
        ("crm_proxy@nobody.invalid/crm", (), _PASSWORD, "resolve", "/etc/hosts"),
    ],
    ids=["password", "database", "name", "issuer", "port", "host"],
)
def test_a_step_that_fails_is_named_with_what_mends_it(
    world: World, toml: str, place: str, options: tuple[str, ...], password: str, name: str, fix: str
) -> None:
    status, steps = _tried(world, toml, place, *options, password=password)
    assert (status, steps[-1]["name"], steps[-1]["ok"], fix in str(steps[-1]["fix"])) == (1, name, False, True), steps


def test_a_credential_that_cannot_be_read_is_a_wrong_configuration(world: World, toml: str) -> None:
    _tried(world, toml, "crm_proxy@10.77.0.2/crm")
    secret = Path(toml).parent / "secrets" / "tried"
    secret.chmod(0o644)
    done = CliRunner().invoke(main, ["--config", toml, "target", "test", "tried"])
    assert (done.exit_code, "chmod 600" in done.output) == (78, True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Path]:
    """A web server on loopback that knows one bearer token; the answer is the file of its certificate."""
    pem, key = certificate(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), _Web)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield pem, context
    server.shutdown()
    server.server_close()


class _Web(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.headers["Authorization"] == "Bearer t0ken" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("token", "status"), [("t0ken", 200), ("another", 401)])
def test_a_web_server_is_asked_with_the_credential(toml: str, web: tuple[Path, ssl.SSLContext], token: str, status: int) -> None:
    add = ["--config", toml, "target", "add", "web", "https://127.0.0.1:8443", "--secret", "ask", "--force", "--ca-file", str(web[0])]
    assert CliRunner().invoke(main, add, input=f"{token}\n").exit_code == 0
    done = CliRunner().invoke(main, ["--config", toml, "target", "test", "web", "--json"])
    steps = json.loads(done.stdout)
    assert (steps[-1]["name"], steps[-1]["ok"], steps[-1]["detail"]) == ("login", status == 200, f"HEAD / answers {status}"), steps
    assert (done.exit_code, token in done.output) == (0 if status == 200 else 1, False)


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["http/1.1"]])
def test_a_web_server_that_is_said_to_speak_http2_is_asked_for_it(toml: str, web: tuple[Path, ssl.SSLContext], offered: list[str]) -> None:
    web[1].set_alpn_protocols(offered)
    document = Path(toml).parent / "targets/web.yaml"
    document.write_text(f"protocol: http\nhosts: [127.0.0.1]\nport: 8443\nhttp2: true\nca_file: {web[0]}\n", encoding="utf-8")
    steps = json.loads(CliRunner().invoke(main, ["--config", toml, "target", "test", "web", "--json"]).stdout)
    assert (steps[-1]["name"], steps[-1]["ok"]) == ("http2", "h2" in offered), steps
