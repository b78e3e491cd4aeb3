"""Whole bodies: a value is masked however JSON, or JSON inside JSON, spells it, and nothing else is touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.mask import Masker
from hostagent.mask.detectors import DETECTORS, scanner
from hostagent.model.verdict import MaskContent

MASKER = Masker((MaskContent("all", frozenset({"all"})),), None, "", b"k" * 32)
SECRETS = {
    "card": "4111111111111111",
    "aws-access-key": "AKIAIOSFODNN7EXAMPLE",
    "aws-secret-key": "secret wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "slack-token": "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    "url-password": "postgres://u:pa55word@h/db",
    "ssn-us": "123-45-6789",
    "iban": "DE89370400440532013000",
    "email": "bob@example.com",
    "github-token": "ghp_" + "a1B2" * 9,
    "openai-key": "sk-" + "a1B2c3" * 8,
    "phone": "+491701234567",
    "google-api-key": "AIza" + "a1B2c" * 7,
}
SHOWN = {"aws-secret-key": "wJalr", "slack-token": "B00000000", "url-password": "pa55word"}


def masked(kind: str, text: str) -> str:
    """Return what passes of ``text``."""
    found = MASKER.document(kind, text.encode())
    assert found is not None
    return found[0].decode()


def _spelled(secret: str) -> list[str]:
    everything = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    return [
        json.dumps({"v": secret}),
        json.dumps({"v": f"a line\n{secret}"}),
        json.dumps({"v": f"x\t{secret}\ty \\ z"}),
        json.dumps([f'"{secret}"', "\u00e9\u4e2d"]),
        json.dumps({"v": secret}).replace("/", "\\/"),
        f'{{"v": "{everything}"}}',
        json.dumps({"v": json.dumps({"w": f"a\n{secret}"})}),
        json.dumps(json.dumps(json.dumps({"v": f"a\n{secret}"}))),
        json.dumps({"v": f'"{everything}"'}),
        json.dumps({"plain": secret, "v": json.dumps({"w": f"a\n{secret}"})}),
    ]


def _unpacked(value: object) -> str:
    for _ in range(6):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return " ".join(map(_unpacked, value))
        try:
            value = json.loads(str(value))
        except ValueError:
            break
    return str(value)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_found_however_json_spells_it_and_what_passes_is_json(name: str) -> None:
    shown = SHOWN.get(name, SECRETS[name])
    for text in _spelled(SECRETS[name]):
        assert shown in _unpacked(text)
        assert shown not in _unpacked(json.loads(masked("application/json", text))), text
        assert shown not in _unpacked(masked("text/plain", text)), text  # a client may read it as JSON all the same


def test_an_escape_inside_a_secret_is_replaced_with_it_and_its_neighbours_stay() -> None:
    text = '{"a\\u00e9": "x\\n\\u0034111111111111111\\u0021", "n": [1, -4111111111111111, 2], "b": "\\/ \\"bob\\u0040example.com\\""}'
    found = json.loads(masked("application/json", text))
    assert found == {"aé": "x\n[masked:card]!", "n": [1, 0, 2], "b": '/ "[masked:email]"'}


def test_a_secret_in_the_entities_of_markup_is_not_shown() -> None:
    for text in ("<p>bob&#64;example.com</p>", "<p>bob&commat;example.com</p>", "&#x34;111111111111111"):
        assert masked("text/html", text) == "[masked]"
        assert masked("text/html; charset=utf-8", text + " " * 20_000) == "[masked]"
    assert masked("text/html", "<p>a &amp; b &#64;</p>") == "<p>a &amp; b &#64;</p>"


@pytest.mark.parametrize(
    "kind", ["text/html; charset=utf-8; charset=utf-7", "text/html;charset = utf-7", "text/plain; charset*=utf-7''x", "text/plain; charset='utf-7'"]
)
def test_a_character_set_that_two_readers_could_take_differently_is_none(kind: str) -> None:
    assert MASKER.document(kind, b"+ADQ-111111111111111") is None


def test_lines_of_json_are_masked_together_and_one_that_hides_a_secret_goes_alone() -> None:
    for secret, line in (("ann@example.com", '{"b": "[masked:email]"}'), (json.dumps("x\nAKIAIOSFODNN7EXAMPLE"), '"[masked]"')):
        lines = [json.dumps({"a": 1}), json.dumps({"b": secret}), json.dumps({"c": 2})]
        assert masked("application/x-ndjson", "\n".join(lines)).split("\n") == [lines[0], line, lines[2]]


def test_a_number_with_an_exponent_is_looked_at_and_a_word_that_only_looks_like_one_is_not() -> None:
    assert masked("application/json", '[4.111111111111111e15]') == '"[masked]"'
    word = '["00004111111111111111e00", "a4111111111111111e10", "4.111111111111111e15b"]'
    assert masked("application/json", word) == word


def test_a_large_response_is_masked_in_place() -> None:
    people = [{"id": number, "mail": "bob@example.com" if number % 50 == 0 else "none", "note": "x" * 100} for number in range(6000)]
    found = json.loads(masked("application/json", json.dumps(people)))
    assert [each["mail"] for each in found[:51:50]] == ["[masked:email]"] * 2
    assert len(found) == 6000


_LEAVES = st.one_of(
    st.sampled_from([*SECRETS.values(), "a,b", "1.5e12", "x=1", "2026-01-02T03:04:05Z", "x\n", "\\", '"', "/", "é", "\U0001f600"]),
    st.text(max_size=5),
)
_TEXTS = st.lists(_LEAVES, max_size=4).map("; ".join)
_ALONE = scanner(DETECTORS - {"url-password", "aws-secret-key"})  # whose stand-ins look like what they stand for, or which need a word before them
_JSON = st.recursive(
    st.one_of(_TEXTS, st.integers(), st.just(4111111111111111), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(_JSON, st.booleans())
def test_what_passes_of_json_is_json_and_shows_nothing(value: object, ascii_only: bool) -> None:
    after = masked("application/json", json.dumps(value, ensure_ascii=ascii_only))
    assert [leaf for leaf in _leaves(json.loads(after)) if _ALONE.hits(leaf.encode("utf-8", "surrogatepass"))] == []


def _leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [leaf for pair in value.items() for item in pair for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [str(value)]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(_TEXTS, st.sampled_from(['"', ",", ":", " ", "-", "=", "1" * 40, "AB12 CD34 "])), max_size=60))
def test_a_large_text_is_scanned_as_a_small_one(pieces: list[str]) -> None:
    found = scanner(DETECTORS)
    data = "".join(pieces).encode()
    filler = b", ".join([b"filler"] * 1000) + b', "'
    small, large = found.hits(b', "' + data), found.hits(filler + data)
    assert [hit.detector for hit in small] == [hit.detector for hit in large]
    assert [hit.start - 3 for hit in small] == [hit.start - len(filler) for hit in large]
