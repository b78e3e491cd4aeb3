"""The embedded issuer: short-lived tokens for workloads that root declared, so that one host needs no identity provider.

An Ed25519 key of this host signs them (RFC 8037). They are ordinary tokens: the proxy validates them with the same code, key set
and rules as any other issuer's. Key and host id live in one file that only this service may read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostagent.durable import write_whole
from hostagent.identity import RESERVED_CLAIMS, Expectation, KeySet
from hostagent.model.errors import IdentityError
from hostagent.model.workload import IdentityKind, Workload

LIFETIME_S = 600
FILE_NAME = "issuer.json"
_GROUPS_CLAIM, _PURPOSE_CLAIM = "groups", "purpose"
OWN_CLAIMS = RESERVED_CLAIMS | {_GROUPS_CLAIM, _PURPOSE_CLAIM}
"""Claims with a meaning of their own, which no document may set."""


@dataclass(frozen=True, slots=True)
class _Retired:
    """A former key's public half, still believed until ``until`` (unix seconds)."""

    kid: str
    public: str
    until: float


class LocalIssuer:
    """Mints tokens and publishes the keys they are verified with."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        audience: str = "hostagent",
        lifetime: float = LIFETIME_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Load this host's key from ``folder``, or make one there.

        Args:
            folder: must exist and be writable by this user.
            audience: what the tokens are for.
            lifetime: of a token, in seconds.
            clock: unix seconds.

        Raises:
            IdentityError: the key file is damaged, or others could read it.
        """
        self._path = Path(folder) / FILE_NAME
        self._audience = audience
        self._lifetime = lifetime
        self._clock = clock
        self._retired: tuple[_Retired, ...] = ()
        if self._path.exists() or self._path.is_symlink():
            self._load()
        else:
            self._host = secrets.token_hex(8)
            self._private = Ed25519PrivateKey.generate()
            self._save()

    @property
    def issuer(self) -> str:
        """The issuer's name: stable for the life of this host's state, through every rotation."""
        return f"https://hostagent.local/{self._host}"

    @property
    def lifetime(self) -> float:
        """Seconds that a token lives."""
        return self._lifetime

    @property
    def jwks(self) -> dict[str, object]:
        """The public keys as a JWK set: the current one, and former ones while their tokens live."""
        now = self._clock()
        current = _jwk(*self._public())
        return {"keys": [current, *(_jwk(old.kid, old.public) for old in self._retired if old.until > now)]}

    @property
    def keys(self) -> KeySet:
        """The same, ready for ``hostagent.identity.validate``."""
        return KeySet.from_jwks(self.jwks)

    def expectation(self, workload: Workload) -> Expectation:
        """Return what a token of ``workload`` must be."""
        return Expectation(
            issuer=self.issuer,
            audience=self._audience,
            subject=workload.identity.subject or workload.name,
            algorithms=frozenset({"EdDSA"}),
            max_lifetime=self._lifetime,
            claims_allowed=frozenset(workload.identity.claims),
            groups_claim=_GROUPS_CLAIM,
            purpose_claim=_PURPOSE_CLAIM,
        )

    def mint(self, workload: Workload) -> str:
        """Return a token for ``workload`` with subject, groups, purpose and claims as its document declares them.

        Raises:
            IdentityError: the workload has its identity from elsewhere, or declares a claim with a meaning of its own.
        """
        source = workload.identity
        if source.kind is not IdentityKind.LOCAL:
            raise IdentityError(f"workload {workload.name} has its identity from elsewhere, not from this host")
        clash = sorted(OWN_CLAIMS & source.claims.keys())
        if clash:
            raise IdentityError(f"workload {workload.name}: claims must not contain {', '.join(clash)}")
        now = self._clock()
        claims: dict[str, object] = {
            **source.claims,
            "iss": self.issuer,
            "sub": source.subject or workload.name,
            "aud": self._audience,
            "iat": now,
            "exp": now + self._lifetime,
            "jti": secrets.token_hex(16),
            _GROUPS_CLAIM: sorted(source.groups),
        }
        if source.purpose:
            claims[_PURPOSE_CLAIM] = source.purpose
        kid, _ = self._public()
        payload = json.dumps(claims, separators=(",", ":")).encode()
        return jwt.PyJWS(algorithms=["EdDSA"]).encode(payload, self._private, "EdDSA", {"kid": kid, "typ": "JWT"})

    def rotate(self, *, withdraw: bool = False) -> None:
        """Sign with a new key from now on.

        Tokens of the former keys stay valid for their remaining minutes, unless ``withdraw`` is set: for a key that leaked.
        """
        now = self._clock()
        kept = () if withdraw else (*self._retired, _Retired(*self._public(), now + self._lifetime))
        before = self._retired, self._private
        self._retired = tuple(old for old in kept if old.until > now)
        self._private = Ed25519PrivateKey.generate()
        try:
            self._save()
        except OSError as error:
            # What is not on disk would be forgotten by the next start, and a key that was withdrawn believed again.
            self._retired, self._private = before
            raise IdentityError(f"{self._path}: the new key cannot be kept, so the former one stays: {error.strerror}") from error

    def _public(self) -> tuple[str, str]:
        """Key id and public key, both as text. The id is the key's own thumbprint (RFC 7638), so it cannot repeat."""
        raw = self._private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        public = _base64url(raw)
        return _thumbprint(public), public

    def _save(self) -> None:
        private = self._private.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        document = {
            "host": self._host,
            "private": _base64url(private),
            "retired": [{"kid": old.kid, "public": old.public, "until": old.until} for old in self._retired],
        }
        write_whole(self._path, json.dumps(document).encode())

    def _load(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise IdentityError(f"{self._path}: the issuer's key cannot be read: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if status.st_mode & 0o077 or status.st_uid != os.geteuid():
                raise IdentityError(f"{self._path}: only this service may read the issuer's key (chmod 600)")
            content = file.read(65_536)
        try:
            document = json.loads(content)
            self._host = str(document["host"])
            self._private = Ed25519PrivateKey.from_private_bytes(_unbase64url(document["private"]))
            self._retired = tuple(
                _Retired(str(old["kid"]), str(old["public"]), float(old["until"])) for old in document["retired"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IdentityError(
                f"{self._path}: damaged ({error}); move it away to start with a new key and issuer name"
            ) from None


def _jwk(kid: str, public: str) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "x": public, "kid": kid, "alg": "EdDSA", "use": "sig"}


def _thumbprint(public: str) -> str:
    return _base64url(hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}'.encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
