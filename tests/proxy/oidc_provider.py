"""A real OpenID provider (idpyoidc) on this machine's loopback over TLS: discovery, key set, authorization code flow.

``token`` does what a workload's token helper does: it asks for a code, exchanges it at the token endpoint and returns what the
provider signed. The rest makes the provider rotate, withdraw, lie, and fail.
"""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import ssl
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from cryptojwt.key_bundle import build_key_bundle
from idpyoidc.server import Server
from idpyoidc.server.authz import AuthzHandling
from idpyoidc.server.configure import OPConfiguration
from idpyoidc.server.oidc.authorization import Authorization
from idpyoidc.server.oidc.provider_config import ProviderConfiguration
from idpyoidc.server.oidc.token import Token
from idpyoidc.server.user_info import UserInfo

CLIENT, SECRET, CALLBACK = "hostagent", "a-secret-of-at-least-thirty-two-bytes", "https://example.com/cb"
_KEYS = [{"type": "RSA", "use": ["sig"]}, {"type": "EC", "crv": "P-256", "use": ["sig"]}]
_CRYPT = {
    "kwargs": {
        "keys": {
            "key_defs": [
                {"type": "OCT", "use": ["enc"], "kid": "password"},
                {"type": "OCT", "use": ["enc"], "kid": "salt"},
            ]
        }
    }
}


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key; return both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "provider.pem", folder / "provider.key"
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


class Provider:
    """One running provider. ``answers`` replaces what a path answers: (status, headers, body)."""

    def __init__(self, folder: Path, user: str = "support-bot") -> None:
        self.folder = folder
        self.user = user
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[str] = []
        self.down = False
        self._retired: list[dict[str, Any]] = []
        self.ca_file, key_file = certificate(folder)
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._handle(self, b"")

            def do_POST(self) -> None:
                provider._handle(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key_file)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.issuer = f"https://127.0.0.1:{self._http.server_address[1]}"
        self._op = Server(OPConfiguration(conf=self._configuration(), base_path=str(folder)), cwd=str(folder))
        self._op.context.cdb[CLIENT] = {
            "client_secret": SECRET,
            "client_salt": "salted",
            "redirect_uris": [(CALLBACK, {})],
            "token_endpoint_auth_method": "client_secret_post",
            "response_types_supported": ["code"],
            "allowed_scopes": ["openid"],
        }
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    # -- what a client does ----------------------------------------------------------------------------------------------

    def token(self, kind: str = "id_token") -> str:
        """Return an ``id_token`` or an ``access_token`` from a whole authorization code flow over HTTPS."""
        question = {
            "client_id": CLIENT,
            "redirect_uri": CALLBACK,
            "scope": "openid",
            "state": "s",
            "nonce": "n",
            "response_type": "code",
        }
        code = self._ask("/authorization?" + urllib.parse.urlencode(question))["code"]
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": CLIENT, "client_secret": SECRET,
            "state": "s",
        }  # fmt: skip
        text = self._ask("/token", urllib.parse.urlencode(form).encode())[kind]
        assert isinstance(text, str)
        return text

    def _ask(self, path: str, form: bytes | None = None) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(self.issuer + path, form, context=context, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    # -- what goes wrong -------------------------------------------------------------------------------------------------

    def rotate(self, *, withdraw: bool) -> None:
        """Sign with new keys from now on; the old ones stay published unless withdrawn."""
        self._retired = [] if withdraw else self.key_set["keys"]
        fresh = build_key_bundle(_KEYS)
        for owner in ("", self.issuer):  # it publishes the first and signs with the second
            self._op.context.keyjar.return_issuer(owner).set([fresh])

    @property
    def key_set(self) -> dict[str, Any]:
        """The published keys: those that sign, and retired ones that still verify."""
        return {"keys": [*self._op.context.keyjar.export_jwks()["keys"], *self._retired]}

    def count(self, path: str) -> int:
        """How often ``path`` was asked for."""
        return self.asked.count(path)

    # -- the provider ----------------------------------------------------------------------------------------------------

    def _handle(self, request: http.server.BaseHTTPRequestHandler, form: bytes) -> None:
        path, _, query = request.path.partition("?")
        self.asked.append(path)
        if self.down:
            request.connection.close()
            request.close_connection = True
            return
        status, headers, body = self.answers.get(path) or self._answer(path, query, form)
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def _answer(self, path: str, query: str, form: bytes) -> tuple[int, dict[str, str], bytes]:
        match path:
            case "/.well-known/openid-configuration":
                endpoint = self._op.get_endpoint("provider_config")
                return 200, {}, endpoint.do_response(**endpoint.process_request())["response"].encode()
            case "/jwks.json":
                return 200, {}, json.dumps(self.key_set).encode()
            case "/authorization":
                endpoint = self._op.get_endpoint("authorization")
                asked = dict(urllib.parse.parse_qsl(query))
                return (
                    200,
                    {},
                    json.dumps(
                        endpoint.process_request(endpoint.parse_request(asked))["response_args"].to_dict()
                    ).encode(),
                )
            case "/token":
                endpoint = self._op.get_endpoint("token")
                asked = endpoint.parse_request(dict(urllib.parse.parse_qsl(form.decode())))
                done = endpoint.process_request(asked)
                return 200, {}, endpoint.do_response(request=asked, **done)["response"].encode()
            case _:
                return 404, {}, b"{}"

    def _configuration(self) -> dict[str, Any]:
        claims = {"lifetime": 600, "base_claims": {"groups": None, "purpose": None}}
        rules = {
            "authorization_code": {"expires_in": 300, "supports_minting": ["access_token", "id_token"], "max_usage": 1},
            "access_token": {"expires_in": 600},
        }
        login = {
            "acr": "urn:oasis:names:tc:SAML:2.0:ac:classes:InternetProtocolPassword",
            "class": "idpyoidc.server.user_authn.user.NoAuthn",
            "kwargs": {"user": self.user},
        }
        return {
            "issuer": self.issuer,
            "subject_types_supported": ["public"],
            "grant_types_supported": ["authorization_code"],
            "keys": {"uri_path": "jwks.json", "key_defs": _KEYS},
            "token_handler_args": {
                "code": {"lifetime": 600, "kwargs": {"crypt_conf": _CRYPT}},
                "token": {
                    "class": "idpyoidc.server.token.jwt_token.JWTToken",
                    "kwargs": {"add_claims_by_scope": True, **claims},
                },
                "id_token": {"class": "idpyoidc.server.token.id_token.IDToken", "kwargs": claims},
            },
            "endpoint": {
                "provider_config": {
                    "path": ".well-known/openid-configuration",
                    "class": ProviderConfiguration,
                    "kwargs": {},
                },
                "authorization": {"path": "authorization", "class": Authorization, "kwargs": {}},
                "token": {"path": "token", "class": Token, "kwargs": {"client_authn_method": ["client_secret_post"]}},
            },
            "authentication": {"anon": login},
            "userinfo": {
                "class": UserInfo,
                "kwargs": {"db": {self.user: {"groups": ["support", "staff"], "purpose": "help"}}},
            },
            "authz": {"class": AuthzHandling, "kwargs": {"grant_config": {"usage_rules": rules, "expires_in": 43200}}},
            "session_params": {"encrypter": _CRYPT},
        }
