"""The page of identity providers: each of its documents takes the token shown beside it, from a local issuer of that name, and no other."""

from __future__ import annotations

import http.server
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from hostagent.documents import parse_workload
from hostagent.model.identity import Identity
from hostagent.model.operation import Effect, Operation
from hostagent.model.target import Login, Target
from hostagent.model.verdict import Decision
from hostagent.policy import PolicyContext, load
from tests.identity.tokens import jwk, token_of
from tests.proxy.test_proxy_identities import World

pytestmark = pytest.mark.root

_PAGE = (Path(__file__).resolve().parents[2] / "hostagent/identity/PROVIDERS.md").read_text(encoding="utf-8")
_HOSTS = ("keycloak.example.com", "token.actions.githubusercontent.com")


class Provider(NamedTuple):
    """One section: the workload document, the token's claims, the rule."""

    name: str
    document: str
    claims: dict[str, Any]
    rule: str


def _providers() -> list[Provider]:
    found = []
    for section in _PAGE.split("\n## ")[1:]:
        document, rule = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
        [claims] = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
        found.append(Provider(section.splitlines()[0], document, json.loads(claims), rule))
    return found


@pytest.fixture(scope="module")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's issuers, on this host's loopback: their names, certificates by a CA that this host trusts, discovery and keys."""
    folder = tmp_path_factory.mktemp("issuers")
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost " + " ".join(_HOSTS) + "\n", encoding="utf-8")
    names = ",".join(f"DNS:{host}" for host in _HOSTS)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=issuers"]
    files = ["-addext", f"subjectAltName={names}", "-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), _Issuer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        yield
    subprocess.run(["umount", "/etc/hosts"], check=True)
    server.shutdown()
    server.server_close()


class _Issuer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        issuer = f"https://{self.headers['Host']}{self.path.partition('/.well-known')[0]}"
        discovery = {"issuer": issuer, "jwks_uri": f"https://{self.headers['Host']}/keys"}
        body = json.dumps({"keys": [jwk("rsa")]} if self.path == "/keys" else discovery).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _settled(provider: Provider, folder: Path, launcher: str) -> World:
    """Return identities with the page's document in force; the places that it names are below ``folder``."""
    text = provider.document
    for place in ("/run/hostagent-tokens", "/etc/hostagent/cluster-jwks.json"):
        text = re.sub(rf"(?<=: ){place}", f"{folder}{place}", text)
    workload = parse_workload("bot", text)
    for place in (workload.identity.path, workload.identity.jwks):
        if place.startswith("/"):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
    if workload.identity.jwks.startswith("/"):
        Path(workload.identity.jwks).write_text(json.dumps({"keys": [jwk("rsa")]}), encoding="utf-8")
    assert launcher in workload.launchers
    return World(folder, workload)


async def _proved(world: World, launcher: str, claims: dict[str, Any]) -> Identity | str:
    file = Path(world.documents["bot"].identity.path)
    now = world.clock()
    file.write_text(token_of({"iss": None, "jti": None, **claims, "iat": now, "exp": now + 600}), encoding="utf-8")
    file.chmod(0o400)
    admission = await world.admit(launcher=launcher)
    return admission.identity or admission.reason


@pytest.mark.parametrize("provider", _providers(), ids=lambda provider: provider.name)
@pytest.mark.usefixtures("issuers")
async def test_the_token_on_the_page_is_proved_by_the_document_beside_it_and_the_rule_goes_by_it(provider: Provider, tmp_path: Path) -> None:
    launcher = next(iter(yaml.safe_load(provider.document).get("launchers", ["root"])))
    identity = await _proved(_settled(provider, tmp_path, launcher), launcher, provider.claims)
    assert isinstance(identity, Identity), identity
    assert identity.subject == provider.claims["sub"]
    assert identity.issuer == provider.claims.get("iss", "spiffe://example.org")
    policy = load({"page.yaml": f"version: 1\nrules:\n{provider.rule}"})
    target = Target("crm-db", "postgres", ("10.0.0.1",), 5432, Login("proxy"))
    connect = Operation("postgres", "connect", frozenset({Effect.CONNECT}))
    stranger = Identity("https://id.example", "stranger", identity.expires_at)
    decisions = [policy.evaluate(who, "bot", target, connect, PolicyContext(0.0)).decision for who in (identity, stranger)]
    assert decisions == [Decision.ALLOW, Decision.DENY]


@pytest.mark.parametrize("change", [{"sub": "somebody-else"}, {"aud": "another-service"}, {"iss": "https://elsewhere.example.com"}], ids=str)
@pytest.mark.parametrize("provider", _providers(), ids=lambda provider: provider.name)
@pytest.mark.usefixtures("issuers")
async def test_a_token_of_another_subject_audience_or_issuer_is_refused(provider: Provider, change: dict[str, str], tmp_path: Path) -> None:
    launcher = next(iter(yaml.safe_load(provider.document).get("launchers", ["root"])))
    if "iss" in change and "iss" not in provider.claims:
        change = {"sub": "spiffe://elsewhere.org/ns/finance/ledger"}
    refusal = await _proved(_settled(provider, tmp_path, launcher), launcher, {**provider.claims, **change})
    assert isinstance(refusal, str), refusal
    assert "expected is" in refusal or "not a SPIFFE id" in refusal or "different service accounts" in refusal


def test_the_page_has_the_four_kinds() -> None:
    assert [provider.name for provider in _providers()] == ["Keycloak", "Kubernetes service account", "GitHub Actions", "SPIFFE"]
