from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.model.errors import RemoteWireError
from hostagent.wire.postgres import scram
from hostagent.wire.postgres.scram import PLAIN, PLUS, Rejected, ScramClient, ScramServer

# RFC 7677 §3
RFC_USER_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_client_agrees_with_rfc_7677() -> None:
    client = ScramClient("pencil", b"x" * 18, PLAIN, b"")
    client._nonce = b"rOprNGfwEbeRWgbNEkqO"
    client._first_bare = RFC_USER_FIRST[3:]
    assert client.first() == RFC_USER_FIRST
    assert client.final(RFC_SERVER_FIRST) == RFC_CLIENT_FINAL
    client.verify(RFC_SERVER_FINAL)


def test_server_agrees_with_rfc_7677() -> None:
    server = ScramServer("pencil", b"x" * 18, base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), b"")
    server._nonce = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert server.first(PLAIN, RFC_USER_FIRST) == RFC_SERVER_FIRST
    assert server.final(RFC_CLIENT_FINAL) == RFC_SERVER_FINAL


def exchange(password: str, known: str, mechanism: str, client_binding: bytes, server_binding: bytes) -> None:
    client = ScramClient(password, b"c" * 18, mechanism, client_binding)
    server = ScramServer(known, b"s" * 18, b"salt" * 4, server_binding)
    first = server.first(mechanism, client.first())
    client.verify(server.final(client.final(first)))


@pytest.mark.parametrize(
    ("mechanism", "binding"), [(PLAIN, b""), (PLUS, b"\1" * 32), (PLUS, b"\2" * 48)], ids=["plain", "plus", "sha384"]
)
def test_both_roles_agree(mechanism: str, binding: bytes) -> None:
    exchange("geheim ü", "geheim ü", mechanism, binding, binding)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_password_proves_itself(password: str) -> None:
    scram._keys.cache_clear()
    exchange(password, password, PLAIN, b"", b"")


def test_wrong_password_is_rejected() -> None:
    with pytest.raises(Rejected, match="password authentication failed"):
        exchange("a", "b", PLAIN, b"", b"")


def test_other_channel_is_rejected() -> None:
    with pytest.raises(Rejected, match="channel binding"):
        exchange("a", "a", PLUS, b"\1" * 32, b"\2" * 32)


def test_client_that_was_cheated_out_of_channel_binding_is_refused() -> None:
    with pytest.raises(RemoteWireError, match="negotiation"):
        exchange("a", "a", PLAIN, b"\1" * 32, b"\1" * 32)


def test_client_without_binding_may_use_plain_where_plus_was_offered() -> None:
    exchange("a", "a", PLAIN, b"", b"\1" * 32)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n,,",
        b"n,a=other,n=,r=abc",
        b"p=tls-unique,,n=,r=abc",
        b"x,,n=,r=abc",
        b"n,,m=ext,n=,r=abc",
        b"n,,n=,r=",
        b"n,,n=,r=" + b"a" * 513,
        b"n,,n=,r=a\x7fb",
        b"n,,r=abc,n=",
    ],
)
def test_server_refuses_a_malformed_first_message(first: bytes) -> None:
    with pytest.raises(RemoteWireError):
        ScramServer("a", b"s" * 18, b"salt", b"").first(PLAIN, first)


@pytest.mark.parametrize("mechanism", ["", "SCRAM-SHA-1", PLUS])
def test_server_refuses_a_mechanism_it_did_not_offer(mechanism: str) -> None:
    with pytest.raises(RemoteWireError):
        ScramServer("a", b"s" * 18, b"salt", b"").first(mechanism, b"n,,n=,r=abc")


@pytest.mark.parametrize(
    "final", [b"", b"c=biws", b"c=biws,r=x,p=!!", b"c=biws,r=x,p=AAAA", b"c=biws,r=x,x=1,p=" + b"A" * 43 + b"="]
)
def test_server_refuses_a_malformed_final_message(final: bytes) -> None:
    server = ScramServer("a", b"s" * 18, b"salt", b"")
    server.first(PLAIN, b"n,,n=,r=abc")
    with pytest.raises(RemoteWireError):
        server.final(final)


def test_server_reads_one_exchange_only() -> None:
    server = ScramServer("a", b"s" * 18, b"salt", b"")
    with pytest.raises(RemoteWireError, match="out of order"):
        server.final(b"c=biws,r=x,p=AAAA")


NONCE = base64.b64encode(b"c" * 18)


@pytest.mark.parametrize(
    "server_first",
    [
        b"",
        b"r=" + NONCE + b"x,s=c2FsdA==",
        b"m=ext,r=" + NONCE + b"x,s=c2FsdA==,i=4096",
        b"r=" + NONCE + b",s=c2FsdA==,i=4096",
        b"r=other,s=c2FsdA==,i=4096",
        b"r=" + NONCE + b"x" * 600 + b",s=c2FsdA==,i=4096",
        b"r=" + NONCE + b"x,s=,i=4096",
        b"r=" + NONCE + b"x,s=???,i=4096",
        b"r=" + NONCE + b"x,s=c2FsdA==,i=0",
        b"r=" + NONCE + b"x,s=c2FsdA==,i=-1",
        b"r=" + NONCE + b"x,s=c2FsdA==,i=600001",
        b"r=" + NONCE + b"x,s=c2FsdA==,i=99999999999999999999",
    ],
)
def test_client_refuses_a_hostile_first_message(server_first: bytes) -> None:
    with pytest.raises(RemoteWireError):
        ScramClient("a", b"c" * 18, PLAIN, b"").final(server_first)


@pytest.mark.parametrize("final", [b"", b"e=other-error", b"v=AAAA", b"v=" + b"A" * 43 + b"=", b"x=1"])
def test_client_refuses_a_server_that_does_not_know_the_password(final: bytes) -> None:
    client = ScramClient("a", b"c" * 18, PLAIN, b"")
    client.final(b"r=" + NONCE + b"x,s=c2FsdA==,i=4096")
    with pytest.raises(RemoteWireError):
        client.verify(final)


def test_client_verifies_nothing_before_its_proof() -> None:
    with pytest.raises(RemoteWireError):
        ScramClient("a", b"c" * 18, PLAIN, b"").verify(b"v=")


@pytest.mark.parametrize(
    ("offered", "binding", "chosen"),
    [
        ((PLUS, PLAIN), b"x", PLUS),
        ((PLUS, PLAIN), b"", PLAIN),
        ((PLAIN,), b"x", PLAIN),
        ((PLUS,), b"", ""),
        (("OAUTHBEARER",), b"x", ""),
    ],
)
def test_strongest_mechanism_is_chosen(offered: tuple[str, ...], binding: bytes, chosen: str) -> None:
    assert scram.choose_mechanism(offered, binding) == chosen


@pytest.mark.parametrize(
    ("raw", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 §3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", "\u0007"),  # prohibited: used as it is
        ("\u0627\u0031", "\u0627\u0031"),  # breaks the bidirectional rule: used as it is
        ("a\u00a0b", "a b"),
        ("\u00ad", "\u00ad"),  # nothing would be left
    ],
)
def test_saslprep_examples(raw: str, prepared: str) -> None:
    assert scram.saslprep(raw) == prepared


def test_md5_answer_hashes_password_and_user_then_the_salt() -> None:
    stored = hashlib.md5(b"secretapp").hexdigest().encode()
    expected = b"md5" + hashlib.md5(stored + b"\1\2\3\4").hexdigest().encode()
    assert scram.md5_answer("secret", "app", b"\1\2\3\4") == expected
