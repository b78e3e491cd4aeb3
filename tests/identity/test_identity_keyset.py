"""Which published keys count, for what, and why others do not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.identity import KeySet
from hostagent.model.errors import IdentityError
from tests.identity.tokens import jwk


def refused(document: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        KeySet.parse(document if isinstance(document, str | bytes) else json.dumps(document))
    return str(caught.value)


def test_each_kind_of_key_has_its_algorithms() -> None:
    keys = KeySet.parse(
        json.dumps({"keys": [jwk("rsa"), jwk("p256"), jwk("p384"), jwk("ed25519"), jwk("rsa-2", alg="PS256")]})
    )
    assert {key.kid: set(key.algorithms) for key in keys.keys} == {
        "rsa": {"RS256", "RS384", "RS512", "PS256"},
        "p256": {"ES256"},
        "p384": {"ES384"},
        "ed25519": {"EdDSA"},
        "rsa-2": {"PS256"},
    }


PRIVATE = {**jwk("ed25519"), "d": "AAAA"}


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "s"}, "key 's' is of a kind that is not accepted: oct"),
        (jwk("p521"), "key 'p521' is of a kind that is not accepted: EC P-521"),
        (jwk("rsa-1024"), "key 'rsa-1024' is an RSA key of 1024 bits; 2048 to 8192 are accepted"),
        (PRIVATE, "key 'ed25519' is published together with its private part"),
        (jwk("rsa", alg="HS256"), "key 'rsa' declares the algorithm 'HS256', which is not accepted for its kind"),
        (jwk("rsa", alg="ES256"), "key 'rsa' declares the algorithm 'ES256', which is not accepted for its kind"),
        (jwk("rsa", alg=5), "key 'rsa' declares the algorithm 5, which is not accepted for its kind"),
        ({"kid": "x"}, "key 'x' is of a kind that is not accepted: None"),
        ({"kty": "EC", "crv": ["P-256"], "kid": "x"}, "key 'x' is of a kind that is not accepted: EC ['P-256']"),
        (jwk("rsa", kid=5), "a key's id is not text"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_with_the_reason(entry: dict[str, Any], wanted: str) -> None:
    assert refused({"keys": [entry]}) == f"the key set has no key that can be used: {wanted}"
    kept = KeySet.from_jwks({"keys": [entry, jwk("p256")]})
    assert [key.kid for key in kept.keys] == ["p256"]
    assert list((kept.refused or {}).values()) == [wanted]


@pytest.mark.parametrize("change", [{"n": None}, {"n": "!!"}, {"n": 5}, {"e": "AQ"}, {"e": None}])
def test_malformed_keys_are_refused(change: dict[str, Any]) -> None:
    entry = {name: value for name, value in {**jwk("rsa"), **change}.items() if value is not None}
    assert "the key set has no key that can be used" in refused({"keys": [entry]})


@pytest.mark.parametrize("members", [{"use": "enc"}, {"use": "x509-svid"}, {"use": 5}, {"key_ops": ["encrypt"]}])
def test_keys_for_other_uses_are_left_out(members: dict[str, Any]) -> None:
    assert refused({"keys": [jwk("rsa", **members)]}).endswith("it holds no key for signatures")


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        '{"keys": {}}',
        '{"keys": []}',
        '{"keys": [5]}',
        '{"keys": [], "keys": []}',
        b"\xff",
        "<html>",
        '{"keys": [null]}',
    ],
)
def test_what_is_not_a_key_set_is_refused(document: str | bytes) -> None:
    assert refused(document)


def test_a_flood_of_keys_is_refused() -> None:
    assert (
        refused({"keys": [jwk("ed25519", kid=str(number)) for number in range(101)]})
        == "the key set holds more than 100 keys"
    )


def test_the_version_follows_the_content_and_not_the_order() -> None:
    one = KeySet.from_jwks({"keys": [jwk("rsa"), jwk("p256")]})
    same = KeySet.from_jwks({"keys": [jwk("p256"), jwk("rsa")], "note": 1})
    fewer = KeySet.from_jwks({"keys": [jwk("rsa")]})
    other = KeySet.from_jwks({"keys": [jwk("rsa", kid="p256"), jwk("p256", kid="rsa")]})
    assert one.version == same.version
    assert len({one.version, fewer.version, other.version}) == 3


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=10),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["keys", "kty", "crv", "n", "e", "x", "y", "kid", "alg", "use", "d"]), inner, max_size=6)))  # fmt: skip
def test_any_document_gives_keys_or_a_refusal(document: Any) -> None:
    with contextlib.suppress(IdentityError):
        assert KeySet.parse(json.dumps({"keys": [document]})).keys
