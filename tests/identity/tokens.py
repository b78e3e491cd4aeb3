"""Keys and tokens for tests: honest ones, and forged ones that no library would make."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from hostagent.identity import Expectation

NOW = 1_800_000_000.0
ISSUER = "https://login.example.com/realms/ops"
AUDIENCE = "hostagent"
EXPECTED = Expectation(issuer=ISSUER, audience=AUDIENCE)

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def private_key(name: str) -> Private:
    """One key per name: rsa, rsa-2, rsa-1024, p256, p384, p521, ed25519, ed25519-2."""
    if name.startswith("rsa"):
        return rsa.generate_private_key(65537, 1024 if name.endswith("1024") else 2048)
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves[name]) if name in curves else ed25519.Ed25519PrivateKey.generate()


def jwk(name: str, **members: Any) -> dict[str, Any]:
    """The public JWK of a key; its id is its name."""
    public = private_key(name).public_key()
    if isinstance(public, rsa.RSAPublicKey):
        made = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        made = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": name, **members}


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims; a change to None takes one away."""
    made = {"iss": ISSUER, "sub": "bot", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, "jti": "t-1", **changes}
    return {name: value for name, value in made.items() if value is not None}


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(name: str, algorithm: str, message: bytes) -> bytes:
    key = private_key(name)
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}.get(
        algorithm[2:], hashes.SHA256()
    )
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm.startswith("PS"):
            return key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return key.sign(message, padding.PKCS1v15(), digest)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.curve.key_size + 7) // 8
        return b"".join(
            part.to_bytes(size, "big") for part in decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
        )
    return key.sign(message)


def raw_token(
    header: bytes, payload: bytes, signature: bytes | None = None, key: str = "rsa", algorithm: str = "RS256"
) -> str:
    """A token of exactly these bytes, signed unless a signature is given."""
    message = f"{encode(header)}.{encode(payload)}"
    made = sign(key, algorithm, message.encode()) if signature is None else signature
    return f"{message}.{encode(made)}"


def token_of(changes: dict[str, Any]) -> str:
    """The same for claims whose names are no Python names, or only known as data."""
    return token(**changes)


def token(key: str = "rsa", algorithm: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token with good claims, changed as told."""
    head = {"alg": algorithm, "kid": key, "typ": "JWT", **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    return raw_token(json.dumps(head).encode(), json.dumps(claims(**changes)).encode(), None, key, algorithm)
