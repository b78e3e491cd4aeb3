"""Public keys from a JWK set (RFC 7517, RFC 7518 §6, RFC 8037 §2; SPIFFE bundles), fit for verifying and nothing else.

A key says with which algorithms it may be used, so that a token can never choose (algorithm confusion). A key that is too
weak, symmetric or published together with its private part is kept as *refused*, with the reason: a token that names it gets a
clear answer, and the other keys stay usable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from hostagent.identity.compact import read_object
from hostagent.model.errors import IdentityError

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

DEFAULT_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"})
"""What is accepted. Never ``none``, never a symmetric algorithm."""

MAX_KEYS = 100
_RSA_BITS = range(2048, 8193)  # below is weak (RFC 7518 §3.3), above costs us time
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256"})
_CURVES = {"P-256": frozenset({"ES256"}), "P-384": frozenset({"ES384"})}
_USES = ("", "sig", "jwt-svid")


@dataclass(frozen=True, slots=True)
class Key:
    """One public key. ``algorithms`` are all it may be used with; ``fingerprint`` is a hash of its JWK."""

    kid: str
    algorithms: frozenset[str]
    public: PublicKey
    fingerprint: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """What a provider publishes now. ``refused`` says by key id why a key cannot be used; ``version`` changes with content."""

    keys: tuple[Key, ...] = ()
    refused: Mapping[str, str] | None = None
    version: str = ""

    @classmethod
    def parse(cls, text: str | bytes) -> KeySet:
        """Return the keys in the JSON text of a JWK set.

        Raises:
            IdentityError: not a JWK set, too many keys, or not one key that can be used.
        """
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        return cls.from_jwks(read_object(raw, "key set"))

    @classmethod
    def from_jwks(cls, document: Mapping[str, object]) -> KeySet:
        """Return the keys of a JWK set (RFC 7517 §5). Keys meant for other uses are left out.

        Raises:
            IdentityError: not a JWK set, too many keys, or not one key that can be used.
        """
        entries = document.get("keys")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise IdentityError("the key set has no list of keys")
        if len(entries) > MAX_KEYS:
            raise IdentityError(f"the key set holds more than {MAX_KEYS} keys")
        keys: list[Key] = []
        refused: dict[str, str] = {}
        for entry in entries:
            if not _for_signatures(entry):
                continue
            kid = entry.get("kid", "")
            try:
                keys.append(_key(entry))
            except IdentityError as error:
                refused[kid if isinstance(kid, str) else ""] = str(error)
        if not keys:
            reasons = "; ".join(sorted(set(refused.values()))) or "it holds no key for signatures"
            raise IdentityError(f"the key set has no key that can be used: {reasons}")
        fingerprints = "".join(sorted(key.fingerprint for key in keys))
        return cls(tuple(keys), refused, hashlib.sha256(fingerprints.encode()).hexdigest())

    def named(self, kid: str) -> tuple[Key, ...]:
        """Return the keys called ``kid``; ids should be unique, but the standard allows otherwise."""
        return tuple(key for key in self.keys if key.kid == kid)

    def fitting(self, algorithm: str) -> tuple[Key, ...]:
        """Return the keys that may be used with ``algorithm``."""
        return tuple(key for key in self.keys if algorithm in key.algorithms)


def _for_signatures(jwk: Mapping[str, object]) -> bool:
    operations = jwk.get("key_ops")
    return jwk.get("use", "") in _USES and (not isinstance(operations, list) or "verify" in operations)


def _key(jwk: Mapping[str, object]) -> Key:
    kid = jwk.get("kid", "")
    if not isinstance(kid, str):
        raise IdentityError("a key's id is not text")
    name = f"key {kid!r}"
    if "d" in jwk:
        raise IdentityError(f"{name} is published together with its private part")
    public, algorithms = _public(jwk, name)
    declared = jwk.get("alg")
    if declared is not None:
        # A declared algorithm narrows; one that does not belong to the kind of key leaves nothing.
        algorithms &= {declared} if isinstance(declared, str) else set()
    if not algorithms:
        raise IdentityError(f"{name} declares the algorithm {declared!r}, which is not accepted for its kind")
    text = json.dumps(jwk, sort_keys=True, ensure_ascii=True)
    return Key(kid, algorithms, public, hashlib.sha256(text.encode()).hexdigest())


def _public(jwk: Mapping[str, object], name: str) -> tuple[PublicKey, frozenset[str]]:
    kind, curve = jwk.get("kty"), jwk.get("crv")
    members = dict(jwk)
    public: object = None
    algorithms: frozenset[str] = frozenset()
    try:
        if kind == "RSA":
            public, algorithms = RSAAlgorithm.from_jwk(members), _RSA
        elif kind == "EC" and isinstance(curve, str) and curve in _CURVES:
            public, algorithms = ECAlgorithm.from_jwk(members), _CURVES[curve]
        elif kind == "OKP" and curve == "Ed25519":
            public, algorithms = OKPAlgorithm.from_jwk(members), frozenset({"EdDSA"})
        else:
            raise IdentityError(f"{name} is of a kind that is not accepted: {kind} {curve or ''}".rstrip())
    except (PyJWTError, ValueError, TypeError, KeyError) as error:
        raise IdentityError(f"{name} is malformed: {error}") from None
    if isinstance(public, rsa.RSAPublicKey) and public.key_size not in _RSA_BITS:
        raise IdentityError(
            f"{name} is an RSA key of {public.key_size} bits; {_RSA_BITS[0]} to {_RSA_BITS[-1]} are accepted"
        )
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise IdentityError(f"{name} is not a public key")
    return public, algorithms
