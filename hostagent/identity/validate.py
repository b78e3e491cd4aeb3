"""The validation of a token: signature, issuer, audience, times, subject, and what of its claims is passed on.

Order: form, algorithm, key, signature, and only then a look at any claim. The signature is checked by PyJWT; the times are
checked here against the caller's clock. ``leeway`` forgives a clock that lags behind the issuer's (``nbf``, ``iat``); it never
makes a token live longer: at ``exp`` it is over.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import re2
from jwt import PyJWS
from jwt.exceptions import PyJWTError

from hostagent.identity import claims as claim
from hostagent.identity.compact import read_compact
from hostagent.identity.keyset import DEFAULT_ALGORITHMS, Key, KeySet
from hostagent.model.errors import IdentityError
from hostagent.model.identity import Identity
from hostagent.model.workload import IdentitySource

MAX_LIFETIME_S = 86_400.0
"""The longest lifetime that an external token may have, unless an expectation says otherwise: identities are short-lived."""

_TYPES = ("jwt", "at+jwt")  # RFC 7519 §5.1, RFC 9068 §2.1; with or without "application/"
_SPIFFE_PREFIX = "spiffe://"
_FORBIDDEN_HEADERS = ("crit", "b64", "zip", "enc")


class KeyNeeded(IdentityError):  # noqa: N818 - a request to the rim as much as an error
    """The token names a key that is not in the key set: fetch the set anew (at a limited rate) and try once more."""

    def __init__(self, kid: str) -> None:
        """``kid`` is what the token asks for; empty if it names none."""
        super().__init__(
            f"the issuer publishes no key {kid!r}" if kid else "the issuer publishes no key for the token's algorithm"
        )
        self.kid = kid


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a token must be.

    ``issuer`` must equal the token's exactly. Empty or ``spiffe://TRUST-DOMAIN`` expects a SPIFFE JWT-SVID, which needs no
    issuer: its subject must be a SPIFFE id (in that trust domain), and the key set is that domain's bundle.
    ``subject`` is exact or a glob (``*``, ``?``); empty accepts any. ``leeway`` and ``max_lifetime`` are seconds.
    ``claims_allowed`` are dotted paths of the claims that the identity may show.
    """

    issuer: str
    audience: str
    subject: str = ""
    algorithms: frozenset[str] = DEFAULT_ALGORITHMS
    leeway: float = 30.0
    max_lifetime: float | None = None
    claims_allowed: frozenset[str] = claim.DEFAULT_CLAIMS
    groups_claim: str = "groups"
    purpose_claim: str = "purpose"


def expectation_of(source: IdentitySource, *, max_lifetime: float | None = MAX_LIFETIME_S) -> Expectation:
    """Return what a workload document of kind ``token_file`` expects of its token."""
    return Expectation(
        issuer=source.issuer,
        audience=source.audience,
        subject=source.subject,
        max_lifetime=max_lifetime,
        groups_claim=source.groups_claim,
        purpose_claim=source.purpose_claim,
    )


def validate(token: str | bytes, keys: KeySet, expectation: Expectation, now: float) -> Identity:
    """Return the identity that ``token`` proves.

    Args:
        token: compact form, nothing around it.
        keys: what the issuer publishes.
        expectation: what the token must be.
        now: unix seconds.

    Raises:
        KeyNeeded: the key it names is not in ``keys``.
        IdentityError: any other reason not to believe it; one line.
    """
    header, claims = read_compact(token)
    algorithm = _check_header(header, expectation)
    _check_signature(token, _choose(header, keys, algorithm), algorithm)
    subject = claim.plain_text(claims.get("sub"), "subject (sub)")
    issuer = _check_issuer(claims, subject, expectation)
    _check_audience(claims, expectation)
    expires_at = _check_times(claims, expectation, now)
    if expectation.subject and not _matches(expectation.subject, subject):
        raise IdentityError(f"the token is for the subject {subject!r}, expected is {expectation.subject!r}")
    return Identity(
        issuer=issuer,
        subject=subject,
        expires_at=expires_at,
        groups=claim.groups(claims, expectation.groups_claim),
        purpose=claim.purpose(claims, expectation.purpose_claim),
        token_id=_token_id(token, claims),
        claims=claim.visible(claims, expectation.claims_allowed),
    )


def continuity(old: Identity, new: Identity) -> None:
    """Check that a renewed token is still the same workload.

    Raises:
        IdentityError: issuer or subject changed.
    """
    if old.issuer != new.issuer:
        raise IdentityError(f"the renewed token is of another issuer: {new.issuer!r} instead of {old.issuer!r}")
    if old.subject != new.subject:
        raise IdentityError(f"the renewed token is for another subject: {new.subject!r} instead of {old.subject!r}")


def _check_header(header: Mapping[str, object], expectation: Expectation) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in expectation.algorithms & DEFAULT_ALGORITHMS:
        raise IdentityError(f"the token's algorithm {algorithm!r} is not accepted")
    for name in _FORBIDDEN_HEADERS:
        if name in header:
            raise IdentityError(f"the token's header asks for {name!r}, which is not supported")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str):
        raise IdentityError("the token's type (typ) is not text")
    # SPIFFE JWT-SVID §2.1 also names JOSE.
    types = (*_TYPES, "jose") if _is_spiffe(expectation) else _TYPES
    if kind.lower().removeprefix("application/") not in types:
        raise IdentityError(f"the token's type {kind!r} is not that of an identity or access token")
    return algorithm


def _choose(header: Mapping[str, object], keys: KeySet, algorithm: str) -> tuple[Key, ...]:
    """The keys that may have signed. Only ``kid`` is looked at: keys and addresses inside a token prove nothing."""
    kid = header.get("kid", "")
    if not isinstance(kid, str):
        raise IdentityError("the token's key id (kid) is not text")
    fitting = keys.fitting(algorithm)
    if not kid:
        if not fitting:
            raise KeyNeeded(kid)
        if len(fitting) > 1:
            raise IdentityError("the token names no key (kid) and its issuer publishes several")
        return fitting
    if kid in (keys.refused or {}) and not keys.named(kid):
        raise IdentityError((keys.refused or {})[kid])
    if not keys.named(kid):
        raise KeyNeeded(kid)
    chosen = tuple(key for key in fitting if key.kid == kid)
    if not chosen:
        raise IdentityError(f"key {kid!r} is not for the token's algorithm {algorithm}")
    return chosen


def _check_signature(token: str | bytes, candidates: tuple[Key, ...], algorithm: str) -> None:
    for key in candidates:
        try:
            PyJWS(algorithms=[algorithm]).decode_complete(token, key.public, algorithms=[algorithm])
        except PyJWTError:
            continue
        return
    raise IdentityError("the token's signature is wrong")


def _is_spiffe(expectation: Expectation) -> bool:
    return not expectation.issuer or expectation.issuer.startswith(_SPIFFE_PREFIX)


def _check_issuer(claims: Mapping[str, object], subject: str, expectation: Expectation) -> str:
    if not _is_spiffe(expectation):
        issuer = claim.plain_text(claims.get("iss"), "issuer (iss)")
        if issuer != expectation.issuer:
            raise IdentityError(f"the token is of the issuer {issuer!r}, expected is {expectation.issuer!r}")
        return issuer
    domain = claim.trust_domain(subject)
    if not domain:
        raise IdentityError(
            f"the token's subject {subject!r} is not a SPIFFE id, and without one an issuer must be expected"
        )
    issuer = _SPIFFE_PREFIX + domain
    if expectation.issuer and issuer != expectation.issuer:
        raise IdentityError(f"the token is of the trust domain {issuer}, expected is {expectation.issuer}")
    return issuer


def _check_audience(claims: Mapping[str, object], expectation: Expectation) -> None:
    if not expectation.audience:
        raise IdentityError("no audience is configured, so no token can be meant for us")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not all(isinstance(item, str) for item in audiences):
        raise IdentityError(
            "the token has no audience (aud)" if audience is None else "the token's audience (aud) is not text"
        )
    if expectation.audience not in audiences:
        shown = ", ".join(repr(item) for item in audiences[:5])
        raise IdentityError(f"the token is for the audience {shown}, expected is {expectation.audience!r}")


def _check_times(claims: Mapping[str, object], expectation: Expectation, now: float) -> float:
    expires_at = _time(claims, "exp")
    not_before = _time(claims, "nbf")
    issued_at = _time(claims, "iat")
    if expires_at is None:
        raise IdentityError("the token never expires (no exp)")
    if now >= expires_at:
        raise IdentityError(f"the token expired {_ago(now - expires_at)} ago")
    if not_before is not None and not_before > now + expectation.leeway:
        raise IdentityError(f"the token is not valid before {_ago(not_before - now)} from now (nbf)")
    if issued_at is not None and issued_at > now + expectation.leeway:
        raise IdentityError(f"the token was issued {_ago(issued_at - now)} from now (iat); is this host's clock right?")
    lifetime = expires_at - (now if issued_at is None else issued_at)
    if expectation.max_lifetime is not None and lifetime > expectation.max_lifetime:
        raise IdentityError(
            f"the token lives for {_ago(lifetime)}; at most {_ago(expectation.max_lifetime)} is accepted"
        )
    return expires_at


def _time(claims: Mapping[str, object], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IdentityError(f"the token's {name} is not a number of seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or abs(seconds) > 1e12:
        raise IdentityError(f"the token's {name} is not a time")
    return seconds


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.0f} h"


def _matches(pattern: str, text: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return pattern == text
    expression = "".join({"*": ".*", "?": "."}.get(letter) or re2.escape(letter) for letter in pattern)
    return re2.fullmatch("(?s)" + expression, text) is not None


def _token_id(token: str | bytes, claims: Mapping[str, object]) -> str:
    """Return ``jti``, or a hash of the token: something to revoke it by that is not the token."""
    if claims.get("jti") is not None:
        return claim.plain_text(claims["jti"], "id (jti)")
    raw = token.encode("ascii") if isinstance(token, str) else token
    return "sha256:" + hashlib.sha256(raw).hexdigest()[:32]
