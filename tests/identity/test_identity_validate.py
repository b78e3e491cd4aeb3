"""Tokens believed and refused: the whole table, the attacks, and every bit."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from hostagent.identity import DEFAULT_ALGORITHMS, Expectation, KeyNeeded, KeySet, continuity, expectation_of, validate
from hostagent.identity.compact import MAX_TOKEN
from hostagent.model.errors import IdentityError
from hostagent.model.identity import Identity
from hostagent.model.workload import IdentityKind, IdentitySource
from tests.identity.tokens import (
    AUDIENCE,
    EXPECTED,
    ISSUER,
    NOW,
    claims,
    encode,
    jwk,
    private_key,
    raw_token,
    token,
    token_of,
)

KEYS = KeySet.from_jwks({"keys": [jwk(name) for name in ("rsa", "rsa-2", "p256", "p384", "ed25519")]})


def refusal(text: str | bytes, expectation: Expectation = EXPECTED, now: float = NOW, keys: KeySet = KEYS) -> str:
    with pytest.raises(IdentityError) as caught:
        validate(text, keys, expectation, now)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_token_gives_the_whole_identity() -> None:
    made = token(
        groups=["support", "on-call"], purpose="answer tickets", role="reader", email="dana@example.com",
        realm_access={"roles": ["a", "b"]}, aud=["other", AUDIENCE], nbf=NOW - 5,
    )  # fmt: skip
    assert validate(made, KEYS, EXPECTED, NOW) == Identity(
        issuer=ISSUER,
        subject="bot",
        expires_at=NOW + 600,
        groups=frozenset({"support", "on-call"}),
        purpose="answer tickets",
        token_id="t-1",
        claims={
            "groups": ["support", "on-call"],
            "purpose": "answer tickets",
            "role": "reader",
            "realm_access.roles": ["a", "b"],
        },
    )


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        ("rsa", "RS256"),
        ("rsa", "RS384"),
        ("rsa", "RS512"),
        ("rsa", "PS256"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("ed25519", "EdDSA"),
    ],
)
def test_every_accepted_algorithm_verifies(key: str, algorithm: str) -> None:
    assert algorithm in DEFAULT_ALGORITHMS
    assert validate(token(key, algorithm), KEYS, EXPECTED, NOW).subject == "bot"
    assert validate(token(key, algorithm).encode(), KEYS, EXPECTED, NOW).subject == "bot"


def test_accepted_algorithms_are_exactly_these() -> None:
    assert frozenset({"RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"}) == DEFAULT_ALGORITHMS


# -- algorithm and key confusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", None, 1, ["RS256"], "rs256", "ES256K", "PS512", "ES512"]
)
@pytest.mark.parametrize("signature", [b"\x00", b"anything"])
def test_algorithm_none_and_strangers_are_refused(algorithm: Any, signature: bytes) -> None:
    header = json.dumps({"alg": algorithm, "kid": "rsa"}).encode()
    made = raw_token(header, json.dumps(claims()).encode(), signature)
    assert refusal(made) == f"the token's algorithm {algorithm!r} is not accepted"


def test_a_token_without_a_signature_is_refused() -> None:
    header, payload, _ = token().split(".")
    for text in (f"{header}.{payload}.", f"{header}.{payload}", header, "..", "."):
        assert "not a signed JWT" in refusal(text)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_as_a_shared_secret_is_refused(algorithm: str) -> None:
    public = private_key("rsa").public_key()
    hash_name = f"sha{algorithm[2:]}"
    for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1):
        for coding in (serialization.Encoding.PEM, serialization.Encoding.DER):
            secret = public.public_bytes(coding, form)
            header = json.dumps({"alg": algorithm, "kid": "rsa", "typ": "JWT"}).encode()
            message = f"{encode(header)}.{encode(json.dumps(claims()).encode())}"
            forged = f"{message}.{encode(hmac.new(secret, message.encode(), hash_name).digest())}"
            assert refusal(forged) == f"the token's algorithm {algorithm!r} is not accepted"
            everything = replace(EXPECTED, algorithms=EXPECTED.algorithms | {algorithm, "none"})
            assert "not accepted" in refusal(forged, everything), "an expectation cannot allow a symmetric algorithm"


def test_a_key_inside_the_token_is_not_used() -> None:
    stranger = jwk("ed25519-2", kid="mine")
    for header in (
        {"jwk": stranger},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/c"},
        {"x5c": ["AAAA"]},
    ):
        forged = token("ed25519-2", "EdDSA", {**header, "kid": "mine"})
        with pytest.raises(KeyNeeded):
            validate(forged, KEYS, EXPECTED, NOW)
        assert refusal(token("ed25519-2", "EdDSA", {**header, "kid": "ed25519"})) == "the token's signature is wrong"
        assert validate(token("rsa", "RS256", header), KEYS, EXPECTED, NOW).subject == "bot", (
            "the header alone harms nobody"
        )


def test_a_key_of_another_kind_is_refused() -> None:
    assert refusal(token("ed25519", "ES256", {"kid": "rsa"})) == "key 'rsa' is not for the token's algorithm ES256"
    assert refusal(token("rsa", "RS256", {"kid": "p256"})) == "key 'p256' is not for the token's algorithm RS256"


def test_an_algorithm_that_the_key_does_not_declare_is_refused() -> None:
    keys = KeySet.from_jwks({"keys": [jwk("rsa", alg="RS256")]})
    assert validate(token("rsa", "RS256"), keys, EXPECTED, NOW).subject == "bot"
    assert refusal(token("rsa", "PS256"), keys=keys) == "key 'rsa' is not for the token's algorithm PS256"


def test_an_unknown_key_asks_for_new_keys() -> None:
    with pytest.raises(KeyNeeded) as caught:
        validate(token(header={"kid": "new"}), KEYS, EXPECTED, NOW)
    assert caught.value.kid == "new"


def test_without_a_key_id_the_only_fitting_key_is_used_and_no_guess_is_made() -> None:
    bare = token(header={"kid": None})
    assert validate(bare, KeySet.from_jwks({"keys": [jwk("rsa"), jwk("p256")]}), EXPECTED, NOW).subject == "bot"
    assert refusal(bare) == "the token names no key (kid) and its issuer publishes several"
    with pytest.raises(KeyNeeded):
        validate(bare, KeySet.from_jwks({"keys": [jwk("p256")]}), EXPECTED, NOW)


def test_a_weak_key_is_refused_by_name_and_others_stay_usable() -> None:
    keys = KeySet.from_jwks({"keys": [jwk("rsa-1024"), jwk("rsa")]})
    assert (
        refusal(token("rsa-1024"), keys=keys) == "key 'rsa-1024' is an RSA key of 1024 bits; 2048 to 8192 are accepted"
    )
    assert validate(token("rsa"), keys, EXPECTED, NOW).subject == "bot"


def test_another_keys_signature_under_a_known_name_is_refused() -> None:
    assert refusal(token("rsa-2", header={"kid": "rsa"})) == "the token's signature is wrong"


# -- header --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": True}, {"zip": "DEF"}, {"enc": "A256GCM"}]
)
def test_headers_that_change_the_meaning_are_refused(header: dict[str, Any]) -> None:
    (name,) = header
    assert refusal(token(header=header)) == f"the token's header asks for {name!r}, which is not supported"


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt"])
def test_identity_and_access_token_types_are_accepted(kind: str | None) -> None:
    assert validate(token(header={"typ": kind}), KEYS, EXPECTED, NOW).subject == "bot"


@pytest.mark.parametrize(
    "kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "JWE", "", "application/application/jwt"]
)
def test_other_types_of_token_are_refused(kind: str) -> None:
    assert (
        refusal(token(header={"typ": kind})) == f"the token's type {kind!r} is not that of an identity or access token"
    )
    assert "is not text" in refusal(token(header={"typ": 5}))
    assert "is not text" in refusal(token(header={"kid": 5}))


# -- claims --------------------------------------------------------------------------------------------------------------

TIMES = [
    # exp, nbf, iat relative to now → refusal (empty: believed)
    (600, None, 0, ""),
    (0.001, None, 0, ""),
    (0, None, -600, "the token expired 0 s ago"),
    (-1, None, -600, "the token expired 1 s ago"),
    (-29, None, -600, "the token expired 29 s ago"),
    (-100_000, None, None, "the token expired 28 h ago"),
    (600, 30, 0, ""),
    (600, 31, 0, "the token is not valid before 31 s from now (nbf)"),
    (600, -600, 0, ""),
    (600, None, 30, ""),
    (600, None, 31, "the token was issued 31 s from now (iat); is this host's clock right?"),
    (600, None, None, ""),
]


@pytest.mark.parametrize(("expires", "not_before", "issued", "wanted"), TIMES)
def test_times(expires: float, not_before: float | None, issued: float | None, wanted: str) -> None:
    shift = {"exp": expires, "nbf": not_before, "iat": issued}
    made = token_of({name: None if value is None else NOW + value for name, value in shift.items()})
    if wanted:
        assert refusal(made) == wanted
    else:
        assert validate(made, KEYS, EXPECTED, NOW).expires_at == NOW + expires


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1900000000", True, [1], {"a": 1}, 1e300, -1e300, 10**400])
def test_a_time_that_is_none_is_refused(name: str, value: Any) -> None:
    assert f"the token's {name} is not a" in refusal(token_of({name: value}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(number: str) -> None:
    payload = json.dumps(claims()).replace(str(NOW + 600), number)
    assert number in payload
    assert refusal(raw_token(b'{"alg":"RS256","kid":"rsa"}', payload.encode())).startswith(
        "the payload is not strict JSON"
    )


def test_lifetime_is_bounded_when_asked() -> None:
    bounded = replace(EXPECTED, max_lifetime=600)
    assert validate(token(), KEYS, bounded, NOW).subject == "bot"
    assert refusal(token(exp=NOW + 601), bounded) == "the token lives for 10 min; at most 10 min is accepted"
    assert "lives for" in refusal(token(iat=NOW - 1), bounded)
    assert "lives for" in refusal(token(iat=None, exp=NOW + 601), bounded)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"iss": None}, "the token has no issuer (iss)"),
    ({"iss": "https://evil.example"}, f"the token is of the issuer 'https://evil.example', expected is {ISSUER!r}"),
    ({"iss": ISSUER + "/"}, f"the token is of the issuer '{ISSUER}/', expected is {ISSUER!r}"),
    ({"iss": [ISSUER]}, "the token's issuer (iss) is not text"),
    ({"aud": None}, "the token has no audience (aud)"),
    ({"aud": "other"}, "the token is for the audience 'other', expected is 'hostagent'"),
    ({"aud": ["a", "b"]}, "the token is for the audience 'a', 'b', expected is 'hostagent'"),
    ({"aud": []}, "the token is for the audience , expected is 'hostagent'"),
    ({"aud": ["hostagent", 1]}, "the token's audience (aud) is not text"),
    ({"aud": {"hostagent": 1}}, "the token's audience (aud) is not text"),
    ({"aud": "hostagent "}, "the token is for the audience 'hostagent ', expected is 'hostagent'"),
    ({"exp": None}, "the token never expires (no exp)"),
    ({"sub": None}, "the token has no subject (sub)"),
    ({"sub": ""}, "the token has no subject (sub)"),
    ({"sub": 7}, "the token's subject (sub) is not text"),
    (
        {"sub": "a\u202eb"},
        "the token's subject (sub) is longer than 2048 characters or holds some that cannot be printed",
    ),
    ({"sub": "a\nb"}, "the token's subject (sub) is longer than 2048 characters or holds some that cannot be printed"),
    ({"jti": "x\x1b[2J"}, "the token's id (jti) is longer than 2048 characters or holds some that cannot be printed"),
    ({"groups": {"a": 1}}, "the token's claim groups is not a list of at most 1000 group names"),
    ({"groups": ["a", 1]}, "the token's group in groups is not text"),
    ({"purpose": ["x"]}, "the token's claim purpose is not text"),
]


@pytest.mark.parametrize(("changes", "wanted"), WRONG)
def test_wrong_claims_are_refused(changes: dict[str, Any], wanted: str) -> None:
    assert refusal(token(**changes)) == wanted


@pytest.mark.parametrize(
    ("pattern", "subject", "believed"),
    [
        ("bot", "bot", True),
        ("bot", "Bot", False),
        ("bot", "robot", False),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop:ref:refs/heads/main", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop:ref:refs/heads/main2", False),
        ("repo:acme/*", "xrepo:acme/y", False),
        ("b.t", "bot", False),
        ("b?t", "bot", True),
        ("b?t", "bt", False),
    ],
)
def test_the_expected_subject_is_exact_or_a_glob(pattern: str, subject: str, believed: bool) -> None:
    expectation = replace(EXPECTED, subject=pattern)
    if believed:
        assert validate(token(sub=subject), KEYS, expectation, NOW).subject == subject
    else:
        assert (
            refusal(token(sub=subject), expectation)
            == f"the token is for the subject {subject!r}, expected is {pattern!r}"
        )


def test_without_an_expected_audience_nothing_is_believed() -> None:
    assert (
        refusal(token(), replace(EXPECTED, audience="")) == "no audience is configured, so no token can be meant for us"
    )


def test_a_token_without_an_id_gets_one_that_is_not_the_token() -> None:
    made = token(jti=None)
    assert validate(made, KEYS, EXPECTED, NOW).token_id == "sha256:" + hashlib.sha256(made.encode()).hexdigest()[:32]


def test_only_allowed_claims_are_shown() -> None:
    made = token(email="d@example.com", name="Dana", role="r", deep={"er": [1, True, "x"]}, team={"not": "shown"})
    assert validate(made, KEYS, EXPECTED, NOW).claims == {"role": "r"}
    chosen = replace(EXPECTED, claims_allowed=frozenset({"deep.er", "sub", "absent"}))
    assert validate(made, KEYS, chosen, NOW).claims == {"deep.er": [1, True, "x"]}


# -- form ----------------------------------------------------------------------------------------------------------------


def test_keys_given_twice_are_refused() -> None:
    payload = json.dumps(claims()).encode()
    twice = payload[:-1] + b', "sub": "admin"}'
    assert (
        refusal(raw_token(b'{"alg":"RS256","kid":"rsa"}', twice))
        == "the payload is not strict JSON: a key is given twice"
    )
    assert "given twice" in refusal(raw_token(b'{"alg":"none","alg":"RS256","kid":"rsa"}', payload))
    nested = payload[:-1] + b', "x": {"a": 1, "a": 2}}'
    assert "given twice" in refusal(raw_token(b'{"alg":"RS256","kid":"rsa"}', nested))


@pytest.mark.parametrize(
    "payload", [b"[]", b"1", b"null", b"", b"{", b"\xff{}", b"\xef\xbb\xbf{}", b'{"a": "\\ud800"}', b"[" * 9000]
)
def test_a_payload_that_is_no_strict_object_is_refused(payload: bytes) -> None:
    assert refusal(raw_token(b'{"alg":"RS256","kid":"rsa"}', payload))
    assert refusal(raw_token(payload, b"{}"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "",
        lambda t: " " + t,
        lambda t: t + "\n",
        lambda t: t + "=",
        lambda t: t.replace(".", "=.", 1),
        lambda t: "Bearer " + t,
        lambda t: t + ".x.y",
        lambda t: t + "é",
        lambda t: t + "\ud800",
        lambda t: t.replace(".", "..", 1),
        lambda t: "x" * (MAX_TOKEN + 1),
        lambda t: t[:-1],
    ],
)
def test_anything_around_or_inside_a_token_is_refused(change: Any) -> None:
    assert refusal(change(token()))


def test_an_encrypted_token_is_named_as_such() -> None:
    assert refusal("a.b.c.d.e") == "the token is encrypted (JWE); a signed one (JWS) is needed"


@given(bit=st.integers(min_value=0), key=st.sampled_from([("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")]))
def test_any_single_bit_flip_is_refused(bit: int, key: tuple[str, str]) -> None:
    good = _FLIPPED[key]
    place = bit % (len(good) * 8)
    bad = bytearray(good)
    bad[place // 8] ^= 1 << place % 8
    with pytest.raises(IdentityError):
        validate(bytes(bad), KEYS, EXPECTED, NOW)


_FLIPPED = {key: token(*key).encode() for key in (("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA"))}


def test_every_single_bit_flip_of_one_token_is_refused() -> None:
    good = _FLIPPED["ed25519", "EdDSA"]
    for place in range(len(good) * 8):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(IdentityError):
            validate(bytes(bad), KEYS, EXPECTED, NOW)


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes) -> None:
    assert refusal(garbage)


@given(st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "groups", "purpose", "kubernetes.io", "role"]),
                       st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
                                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                                    max_leaves=6)))  # fmt: skip
def test_strange_claims_give_an_identity_or_a_refusal(changes: dict[str, Any]) -> None:
    try:
        found = validate(token("ed25519", "EdDSA", **changes), KEYS, EXPECTED, NOW)
    except IdentityError:
        return
    assert found.issuer == ISSUER
    assert found.subject
    assert NOW < found.expires_at < math.inf


# -- shapes of other worlds ----------------------------------------------------------------------------------------------

CLUSTER = "https://kubernetes.default.svc.cluster.local"
POD = {
    "namespace": "shop",
    "node": {"name": "n1", "uid": "u0"},
    "pod": {"name": "bot-1", "uid": "u1"},
    "serviceaccount": {"name": "bot", "uid": "u2"},
}


def test_a_kubernetes_projected_token_carries_its_groups() -> None:
    made = token_of(
        {
            "iss": CLUSTER,
            "aud": [AUDIENCE],
            "sub": "system:serviceaccount:shop:bot",
            "kubernetes.io": POD,
            "jti": None,
        }
    )
    found = validate(made, KEYS, Expectation(issuer=CLUSTER, audience=AUDIENCE), NOW)
    assert (found.subject, set(found.groups), dict(found.claims)) == (
        "system:serviceaccount:shop:bot",
        {"system:serviceaccounts", "system:serviceaccounts:shop"},
        {
            "kubernetes.io.namespace": "shop",
            "kubernetes.io.node.name": "n1",
            "kubernetes.io.pod.name": "bot-1",
            "kubernetes.io.serviceaccount.name": "bot",
        },
    )


@pytest.mark.parametrize("subject", ["system:serviceaccount:kube-system:bot", "system:serviceaccount:shop:admin"])
def test_a_kubernetes_token_that_contradicts_itself_is_refused(subject: str) -> None:
    made = token_of({"iss": CLUSTER, "sub": subject, "kubernetes.io": POD})
    wanted = "the token's subject and its kubernetes.io claim name different service accounts"
    assert refusal(made, Expectation(issuer=CLUSTER, audience=AUDIENCE)) == wanted


def test_a_subject_alone_makes_no_service_account() -> None:
    assert validate(token(sub="system:serviceaccount:shop:bot"), KEYS, EXPECTED, NOW).groups == frozenset()


def test_a_legacy_kubernetes_secret_token_never_expires_and_is_refused() -> None:
    assert (
        refusal(token(sub="system:serviceaccount:shop:bot", exp=None, iat=None)) == "the token never expires (no exp)"
    )


SVID = "spiffe://prod.example.org/ns/shop/sa/bot"
BUNDLE = KeySet.from_jwks(
    {"keys": [jwk("p256", use="jwt-svid"), jwk("rsa", use="x509-svid")], "spiffe_refresh_hint": 300}
)


@pytest.mark.parametrize("issuer", ["", "spiffe://prod.example.org"])
@pytest.mark.parametrize("kind", [None, "JWT", "JOSE"])
@pytest.mark.parametrize("extra", [{"iss": None}, {"iss": "https://spire.example"}])
def test_a_spiffe_svid_needs_no_issuer(issuer: str, kind: str | None, extra: dict[str, Any]) -> None:
    made = token("p256", "ES256", {"typ": kind}, sub=SVID, aud=[AUDIENCE], **extra)
    found = validate(made, BUNDLE, Expectation(issuer=issuer, audience=AUDIENCE), NOW)
    assert (found.issuer, found.subject) == ("spiffe://prod.example.org", SVID)


def test_a_spiffe_bundle_lends_its_x509_keys_to_no_token() -> None:
    with pytest.raises(KeyNeeded):
        validate(token("rsa", sub=SVID), BUNDLE, Expectation(issuer="", audience=AUDIENCE), NOW)


def test_another_trust_domain_is_refused() -> None:
    made = token("p256", "ES256", sub="spiffe://evil.example/ns/shop/sa/bot")
    expectation = Expectation(issuer="spiffe://prod.example.org", audience=AUDIENCE)
    wanted = "the token is of the trust domain spiffe://evil.example, expected is spiffe://prod.example.org"
    assert refusal(made, expectation, keys=BUNDLE) == wanted


@pytest.mark.parametrize(
    "subject",
    ["bot", "spiffe://", "spiffe://td", "spiffe://td/", "spiffe://TD/x", "spiffe://td//x", "spiffe://td/../x", "spiffe://td/x/",
     "spiffe://td:80/x", "spiffe://u@td/x", "spiffe://td/x?y", "SPIFFE://td/x", "spiffe://td/a%2fb"],
)  # fmt: skip
def test_without_an_issuer_only_a_spiffe_id_is_believed(subject: str) -> None:
    assert "is not a SPIFFE id" in refusal(
        token("p256", "ES256", sub=subject), Expectation(issuer="", audience=AUDIENCE), keys=BUNDLE
    )


# -- renewal and documents -----------------------------------------------------------------------------------------------


def test_a_renewed_token_keeps_issuer_and_subject() -> None:
    old = Identity(ISSUER, "bot", NOW)
    continuity(old, replace(old, expires_at=NOW + 600, groups=frozenset({"new"}), token_id="t-2"))
    with pytest.raises(IdentityError, match="another subject: 'admin' instead of 'bot'"):
        continuity(old, replace(old, subject="admin"))
    with pytest.raises(IdentityError, match="another issuer"):
        continuity(old, replace(old, issuer="https://evil.example"))


def test_a_workload_document_becomes_an_expectation() -> None:
    source = IdentitySource(
        kind=IdentityKind.TOKEN_FILE, path="/t", issuer=ISSUER, audience="db", subject="bot", groups_claim="realm_access.roles",
        purpose_claim="why",
    )  # fmt: skip
    assert expectation_of(source) == Expectation(
        issuer=ISSUER,
        audience="db",
        subject="bot",
        max_lifetime=86_400,
        groups_claim="realm_access.roles",
        purpose_claim="why",
    )
    made = token(aud="db", realm_access={"roles": ["dba"]}, why="backup")
    found = validate(made, KEYS, expectation_of(source), NOW)
    assert (set(found.groups), found.purpose) == ({"dba"}, "backup")
