"""Content detectors: what they take, what they leave, and that the cheap first scan never misses what they take."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.mask import DETECTORS, expand, scrub
from hostagent.mask.detectors import _TABLE, Hit, scanner
from hostagent.mask.validators import IBAN_LENGTHS, card_number, luhn

ALL = scanner(DETECTORS)
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc=\n-----END RSA PRIVATE KEY-----"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKE"

TAKEN = [
    ("card", "4111111111111111"),
    ("card", "4111 1111 1111 1111"),
    ("card", "4111-1111-1111-1111"),
    ("card", "378282246310005"),
    ("card", "3782 822463 10005"),
    ("card", "5555555555554444"),
    ("card", "2223003122003222"),
    ("card", "6011111111111117"),
    ("card", "3530111333300000"),
    ("card", "30569309025904"),
    ("card", "6212345678900000003"),
    ("card", "4222222222222"),
    ("card", "2200000000000004"),
    ("iban", "DE89370400440532013000"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432"),
    ("iban", "NO9386011117947"),
    ("iban", "MT84MALT011000012345MTLCAST001S"),
    ("email", "bob@example.com"),
    ("email", "first.last+tag@sub.example.co.uk"),
    ("email", "jürgen@müller.de"),
    ("email", "o'brien@example.org"),
    ("phone", "+14155552671"),
    ("phone", "+1 (415) 555-2671"),
    ("phone", "+44 20 7946 0018"),
    ("phone", "(415) 555-2671"),
    ("phone", "415-555-2671"),
    ("phone", "415.555.2671"),
    ("phone", "06 12 34 56 78"),
    ("phone", "020 7946 0018"),
    ("phone", "07700 900123"),
    ("phone", "089/12345678"),
    ("ssn-us", "721-07-4426"),
    ("ssn-us", "721 07 4426"),
    ("aws-access-key", "AKIAIOSFODNN7EXAMPLE"),
    ("github-token", "ghp_" + "a1B2" * 9),
    ("github-token", "github_pat_" + "a1B2" * 8),
    ("gitlab-token", "glpat-" + "a1B2" * 5),
    ("slack-token", "xoxb-123456789012-abcdefABCDEF"),
    ("google-api-key", "AIza" + "a1B2C" * 7),
    ("stripe-key", "sk_live_" + "a1B2" * 6),
    ("anthropic-key", "sk-ant-api03-" + "a1B2" * 10),
    ("openai-key", "sk-proj-" + "a1B2" * 10),
    ("private-key", PEM),
    ("jwt", JWT),
]

LEFT = [
    "4111111111111112",  # wrong check digit
    "1111111111111117",  # no network
    "41111111111111111111",  # twenty digits
    "0.4111111111111111",
    "4111111111111111.25",
    "550e8400-e29b-41d4-a716-446655440000",
    "deadbeef4111111111111111cafe",
    "DE89370400440532013001",
    "XX89370400440532013000",
    "bob@localhost",
    "package@1.2.3",
    "@decorator.name",
    "2024-01-02 03:04:05.123456+00",
    "2024-01-02T03:04:05+01:00",
    "192.168.100.200",
    "10.0.0.1:5432",
    "000-12-3456",
    "666-12-3456",
    "900-12-3456",
    "123-00-4567",
    "123-45-0000",
    "123-45-67890",
    "1700000000000",
    "1700000000000000",
    "eyJub3QiOiJhIGhlYWRlciJ9.eyJhIjoxfQ.abc",
    "sk-fading-circle-and-more-words",
    "AKIASHORT",
    "-----BEGIN PUBLIC KEY-----",
    "978-3-16-148410-0",
    "https://example.com/a:b@c",
    "555-0100",
]


@pytest.mark.parametrize(("name", "text"), TAKEN)
@pytest.mark.parametrize(("before", "behind"), [("", ""), ("see ", " now"), ("(", ")"), ('"', '"'), ("x=", ";"), ("\n", "\n")])
def test_sensitive_values_are_taken_whole(name: str, text: str, before: str, behind: str) -> None:
    data = (before + text + behind).encode()
    start = len(before.encode())
    assert ALL.hits(data) == [Hit(start, start + len(text.encode()), name)]


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_alike_is_left(text: str) -> None:
    assert ALL.hits(text.encode()) == []


def test_secrets_that_need_a_word_beside_them() -> None:
    assert scrub(f"aws_secret_access_key = {AWS_SECRET}") == "aws_secret_access_key = [masked:aws-secret-key]"
    assert scrub(f'{{"secret": "{AWS_SECRET}"}}') == '{"secret": "[masked:aws-secret-key]"}'
    assert scrub(f"digest {AWS_SECRET}") == f"digest {AWS_SECRET}"
    assert scrub("postgres://bob:hunter2@db/x") == "postgres://bob:[masked:url-password]@db/x"


def test_a_card_behind_other_groups_of_digits() -> None:
    assert scrub("12 4111 1111 1111 1111 99") == "12 [masked:card] 99"
    assert scrub("4111111111111111 5555555555554444") == "[masked:card] [masked:card]"


def test_a_private_key_without_its_end_goes_to_the_end() -> None:
    assert scrub("key: -----BEGIN PRIVATE KEY-----\nMIIE") == "key: [masked:private-key]"


def test_overlapping_values_become_one() -> None:
    assert scrub("https://u:p4ssw0rd@host.example.com") in (
        "https://u:[masked:url-password]",
        "https://u:[masked:email]",
    )


def test_names_globs_and_all_are_expanded_and_unknown_names_are_refused() -> None:
    assert expand(["card", "aws-*"]) == {"card", "aws-access-key", "aws-secret-key"}
    assert expand(["all"]) == DETECTORS == expand(["*"])
    with pytest.raises(ValueError, match="no content detector"):
        expand(["cards"])


digits = st.text("0123456789", min_size=12, max_size=18)


@settings(deadline=None)
@given(digits)
def test_every_number_has_exactly_one_check_digit(body: str) -> None:
    assert sum(luhn(f"{body}{check}".encode()) for check in range(10)) == 1


def _iban(country: str, body: str) -> str:
    number = int("".join(str(int(c, 36)) for c in body + country + "00"))
    return f"{country}{98 - number % 97:02d}{body}"


@st.composite
def sensitive(draw: st.DrawFn) -> bytes:
    """A value that some detector takes, most of them drawn, not copied."""
    choice = draw(st.integers(0, 5))
    if choice == 0:
        body = draw(st.sampled_from(["4", "51", "37", "6011", "3530", "62", "36"]))
        body += draw(st.text("0123456789", min_size=19, max_size=19))
        cut = draw(st.integers(13, 19))
        made = next(f"{body[: cut - 1]}{c}" for c in range(10) if luhn(f"{body[: cut - 1]}{c}".encode()))
        separator = draw(st.sampled_from(["", " ", "-"]))
        return separator.join(made[i : i + 4] for i in range(0, len(made), 4)).encode()
    if choice == 1:
        country = draw(st.sampled_from(sorted(IBAN_LENGTHS)))
        size = IBAN_LENGTHS[country] - 4
        made = _iban(country.decode(), draw(st.text("0123456789ABCXYZ", min_size=size, max_size=size)))
        return (" ".join(made[i : i + 4] for i in range(0, len(made), 4)) if draw(st.booleans()) else made).encode()
    if choice == 2:
        local = draw(st.text("abcXYZ019._%+-'é", min_size=1, max_size=80))
        return f"{local}@{draw(st.from_regex(r'[a-z0-9]{1,9}([.][a-z]{2,6}){1,3}', fullmatch=True))}".encode()
    if choice == 3:
        groups = draw(st.lists(st.text("0123456789", min_size=1, max_size=5), min_size=2, max_size=5))
        return ("+1" + draw(st.sampled_from(["", " ", "-", ") "])).join(groups)).encode()
    if choice == 4:
        return draw(st.from_regex(rb"[0-9]{3}-[0-9]{2}-[0-9]{4}", fullmatch=True))
    return draw(st.sampled_from([text.encode() for _, text in TAKEN]))


@settings(deadline=None)
@given(st.lists(st.one_of(sensitive(), st.binary(max_size=20), st.text(max_size=20).map(str.encode)), max_size=6))
def test_the_trigger_hits_inside_everything_that_a_detector_takes(parts: list[bytes]) -> None:
    data = b"".join(parts)
    for hit in ALL.hits(data):
        beside = hit.detector in ("aws-secret-key", "url-password")  # these need what stands beside them
        assert ALL.trigger.search(data if beside else data[hit.start : hit.end]) is not None


@settings(deadline=None)
@given(sensitive(), st.binary(max_size=8), st.binary(max_size=8))
def test_framing_bytes_beside_a_value_never_hide_it_from_the_trigger(value: bytes, before: bytes, behind: bytes) -> None:
    if ALL.hits(value):
        assert ALL.trigger.search(before + value + behind) is not None


@pytest.mark.parametrize("name", sorted(DETECTORS))
@settings(deadline=None)
@given(parts=st.lists(sensitive(), max_size=4))
def test_each_trigger_alone_covers_its_detector(name: str, parts: list[bytes]) -> None:
    one = scanner(frozenset({name}))
    data = b" ".join(parts)
    if one.hits(data):
        assert one.trigger.search(data) is not None


def test_false_positives_on_ordinary_values_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(7)
    rounds = 20_000
    kinds: dict[str, Callable[[], str]] = {
        "order ids, 8 to 12 digits": lambda: str(dice.randrange(10**7, 10**12)),
        "epoch milliseconds": lambda: str(dice.randrange(1_400_000_000_000, 1_900_000_000_000)),
        "epoch microseconds": lambda: str(dice.randrange(1_400_000_000_000_000, 1_900_000_000_000_000)),
        "snowflake ids": lambda: str(dice.randrange(10**18, 2 * 10**18)),
        "UUIDs": lambda: str(uuid.UUID(int=dice.getrandbits(128))),
        "SHA-256": lambda: f"{dice.getrandbits(256):064x}",
        "timestamps": lambda: f"20{dice.randrange(10, 30)}-{dice.randrange(1, 13):02d}-{dice.randrange(1, 29):02d} "
        f"{dice.randrange(24):02d}:{dice.randrange(60):02d}:{dice.randrange(60):02d}.{dice.randrange(10**6):06d}+00",
        "floats": lambda: repr(dice.random() * 10 ** dice.randrange(-3, 6)),
        "IPv4": lambda: ".".join(str(dice.randrange(256)) for _ in range(4)),
        "IPv6": lambda: ":".join(f"{dice.randrange(65536):x}" for _ in range(8)),
        "prices": lambda: f"{dice.randrange(10**6)}.{dice.randrange(100):02d}",
        "versions": lambda: f"{dice.randrange(20)}.{dice.randrange(20)}.{dice.randrange(2000)}",
        "Base64": lambda: "".join(dice.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=44)),
    }
    table = {}
    for title, make in kinds.items():
        table[title] = sum(bool(ALL.hits(make().encode())) for _ in range(rounds)) / rounds
    with capsys.disabled():
        print("\nfalse positives in 20000 ordinary values of each kind")
        for title, rate in table.items():
            print(f"  {title:28} {rate:8.4%}")
        cards = sum(bool(ALL.hits(str(dice.randrange(10**15, 10**16)).encode())) for _ in range(rounds)) / rounds
        print(f"  {'16 random digits (not bound)':28} {cards:8.4%}")
    assert max(table.values()) < 0.0005


def test_card_number_knows_networks_and_lengths() -> None:
    assert card_number(b"4111111111111111")
    assert not card_number(b"411111111111116")
    assert not card_number(b"")


def test_only_forms_of_bounded_length_are_searched_again_at_the_next_byte() -> None:
    again = [detector for detector in _TABLE if detector.overlapping]
    assert {detector.name for detector in again} == {"iban", "aws-secret-key"}
    assert not [detector for detector in again if re.search(rb"[+*](?![^\[]*\])|,\}", detector.form)]
