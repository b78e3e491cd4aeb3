from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.model.errors import RemoteWireError
from hostagent.wire.postgres import startup
from hostagent.wire.postgres.messages import Server
from hostagent.wire.postgres.options import parse_boolean, parse_options, split_options
from hostagent.wire.postgres.startup import (
    LOGIN_SERVER_CAPS,
    Authentication,
    AuthKind,
    BackendKey,
    CancelRequest,
    Encryption,
    Negotiation,
    SaslInitial,
    StartupMessage,
    read_message,
    read_startup,
)

STARTUP = [
    (Encryption.SSL, bytes.fromhex("0000000804d2162f")),
    (Encryption.GSS, bytes.fromhex("0000000804d21630")),
    (CancelRequest(258, b"\1\2\3\4"), bytes.fromhex("0000001004d2162e0000010201020304")),
    (CancelRequest(1, b"k" * 32), bytes.fromhex("0000002c04d2162e00000001") + b"k" * 32),
    (
        StartupMessage(0, (("user", "ana"), ("database", "crm"))),
        b"\0\0\0\x1f\0\x03\0\0user\0ana\0database\0crm\0\0",
    ),
    (StartupMessage(2, (("user", "ü"), ("user", "b"))), b"\0\0\0\x18\0\x03\0\x02user\0\xc3\xbc\0user\0b\0\0"),
    (StartupMessage(0, ()), b"\0\0\0\x09\0\x03\0\0\0"),
]


def build(packet: startup.StartupPacket) -> bytes:
    match packet:
        case Encryption():
            return startup.build_encryption_request(packet)
        case CancelRequest(pid, key):
            return startup.build_cancel_request(pid, key)
        case _:
            return startup.build_startup_message(packet)


@pytest.mark.parametrize(("packet", "data"), STARTUP)
def test_startup_packets_both_ways(packet: startup.StartupPacket, data: bytes) -> None:
    assert build(packet) == data
    assert read_startup(data) == (packet, len(data))
    assert read_startup(data + b"more") == (packet, len(data))
    assert [read_startup(data[:n]) for n in range(len(data))] == [None] * len(data)


def test_protocol_extensions_are_kept_apart() -> None:
    message = StartupMessage(9999, (("user", "a"),), ("_pq_.test",))
    assert read_startup(build(message)) == (message, len(build(message)))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\0\0\x07", "08P01"),
        (b"\0\0\0\0", "08P01"),
        (b"\xff\xff\xff\xff", "08P01"),
        (b"\x80\0\0\0", "08P01"),
        (b"\0\0\x27\x15", "08P01"),  # 10,005
        (b"GET / HT", "08P01"),
        (b"\0\0\0\x09\x04\xd2\x16\x2fx", "08P01"),  # SSLRequest with something in it
        (b"\0\0\0\x0c\x04\xd2\x16\x2e\0\0\0\1", "08P01"),  # CancelRequest without a key
        (b"\0\0\0\x0f\x04\xd2\x16\x2e\0\0\0\1abc", "08P01"),
        (b"\0\0\1\x0d\x04\xd2\x16\x2e\0\0\0\1" + b"k" * 257, "08P01"),
        (b"\0\0\0\x08\0\x02\0\0", "0A000"),
        (b"\0\0\0\x08\0\x04\0\0", "0A000"),
        (b"\0\0\0\x08\0\x03\0\0", "08P01"),  # no terminator
        (b"\0\0\0\x0e\0\x03\0\0user\0\0", "08P01"),
        (b"\0\0\0\x0d\0\x03\0\0user\0", "08P01"),
        (b"\0\0\0\x0b\0\x03\0\0\0xx", "08P01"),
        (b"\0\0\0\x10\0\x03\0\0user\0\xff\0\0", "22021"),
    ],
)
def test_impossible_startup_packets_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(RemoteWireError) as caught:
        read_startup(data)
    assert caught.value.code == code


def test_longest_startup_packet_is_ten_thousand_bytes_of_body() -> None:
    fits = startup.build_startup_message(StartupMessage(0, (("user", "x" * (10_000 - 4 - 7)),)))
    assert len(fits) == 10_004
    assert read_startup(fits) is not None
    with pytest.raises(RemoteWireError):
        read_startup(startup.build_startup_message(StartupMessage(0, (("user", "x" * (10_000 - 4 - 6)),))))


MESSAGES: list[tuple[Callable[[Any], bytes], Callable[[bytes], Any], Any, bytes]] = [
    (startup.build_authentication, startup.parse_authentication, Authentication(AuthKind.OK), b"R\0\0\0\x08\0\0\0\0"),
    (
        startup.build_authentication,
        startup.parse_authentication,
        Authentication(AuthKind.MD5, b"salt"),
        b"R\0\0\0\x0c\0\0\0\x05salt",
    ),
    (
        startup.build_authentication,
        startup.parse_authentication,
        Authentication(AuthKind.SASL_FINAL, b"v=x"),
        b"R\0\0\0\x0b\0\0\0\x0cv=x",
    ),
    (startup.build_password, startup.parse_password, b"secret", b"p\0\0\0\x0bsecret\0"),
    (
        startup.build_sasl_initial,
        startup.parse_sasl_initial,
        SaslInitial("SCRAM-SHA-256", b"n,,"),
        b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,",
    ),
    (
        startup.build_sasl_initial,
        startup.parse_sasl_initial,
        SaslInitial("X", None),
        b"p\0\0\0\x0aX\0\xff\xff\xff\xff",
    ),
    (startup.build_sasl_response, lambda body: body, b"c=", b"p\0\0\0\x06c="),
    (startup.build_backend_key, startup.parse_backend_key, BackendKey(7, b"abcd"), b"K\0\0\0\x0c\0\0\0\x07abcd"),
    (
        startup.build_backend_key,
        startup.parse_backend_key,
        BackendKey(7, b"k" * 256),
        b"K\0\0\1\x08\0\0\0\x07" + b"k" * 256,
    ),
    (
        startup.build_negotiation,
        startup.parse_negotiation,
        Negotiation(2, ("_pq_.a", "_pq_.b")),
        b"v\0\0\0\x1a\0\x03\0\x02\0\0\0\x02_pq_.a\0_pq_.b\0",
    ),
]


@pytest.mark.parametrize(("make", "parse", "value", "data"), MESSAGES)
def test_login_messages_both_ways(
    make: Callable[[Any], bytes], parse: Callable[[bytes], Any], value: Any, data: bytes
) -> None:
    assert make(value) == data
    assert parse(data[5:]) == value


def test_mechanisms_both_ways() -> None:
    assert startup.build_mechanisms(("A", "B")) == b"A\0B\0\0"
    assert startup.parse_mechanisms(b"A\0B\0\0") == ("A", "B")


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (startup.parse_authentication, b"\0\0\0"),
        (startup.parse_authentication, b"\0\0\0\0x"),
        (startup.parse_authentication, b"\0\0\0\x05sal"),
        (startup.parse_password, b"secret"),
        (startup.parse_password, b"secret\0x"),
        (startup.parse_sasl_initial, b"X\0\0\0\0\x05n,,"),
        (startup.parse_sasl_initial, b"X\0\xff\xff\xff\xfe"),
        (startup.parse_backend_key, b"\0\0\0\1abc"),
        (startup.parse_backend_key, b"\0\0\0\1" + b"k" * 257),
        (startup.parse_negotiation, b"\0\x04\0\0\0\0\0\0"),
        (startup.parse_negotiation, b"\0\x03\0\0\xff\xff\xff\xff"),
        (startup.parse_negotiation, b"\0\x03\0\0\x7f\xff\xff\xff"),
        (startup.parse_mechanisms, b"A\0"),
        (startup.parse_mechanisms, b"A\0\0x"),
    ],
)
def test_broken_login_messages_are_refused(parse: Callable[[bytes], Any], body: bytes) -> None:
    with pytest.raises(RemoteWireError):
        parse(body)


def test_message_is_read_only_when_complete() -> None:
    data = startup.build_backend_key(BackendKey(7, b"abcd"))
    message = read_message(data + b"Z", LOGIN_SERVER_CAPS)
    assert message == startup.Message(Server.BACKEND_KEY, data[5:], len(data))
    assert [read_message(data[:n], LOGIN_SERVER_CAPS) for n in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("data", [b"Q", b"D\0\0\0\4", b"R\0\0\0\3", b"R\xff\xff\xff\xff", b"R\0\0\xff\xff", b"Z\0\0\0\6"])
def test_message_outside_the_login_is_refused_at_its_header(data: bytes) -> None:
    with pytest.raises(RemoteWireError):
        read_message(data, LOGIN_SERVER_CAPS)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_refused_or_waited_for(data: bytes) -> None:
    for read in (read_startup, lambda b: read_message(b, LOGIN_SERVER_CAPS)):
        try:
            read(data)
        except RemoteWireError as error:
            assert len(error.code) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  ", ()),
        ("-c a=b", ("-c", "a=b")),
        ("-c a=b\\ c\t--d=e", ("-c", "a=b c", "--d=e")),
        ("a\\\\b \\", ("a\\b", "")),
    ],
)
def test_options_are_split_as_pg_split_opts_does(text: str, words: tuple[str, ...]) -> None:
    assert split_options(text) == words


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("-c geqo=off", (("geqo", "off"),)),
        ("-cgeqo=off --statement-timeout=5s", (("geqo", "off"), ("statement_timeout", "5s"))),
        ("-c search_path=a,b\\ c", (("search_path", "a,b c"),)),
        ("-c a=b=c --d=", (("a", "b=c"), ("d", ""))),
    ],
)
def test_options_are_read_as_settings(text: str, settings: tuple[tuple[str, str], ...]) -> None:
    assert parse_options(text) == settings


@pytest.mark.parametrize("text", ["-c", "-c a", "--a", "--", "-", "-e", "-d 5", "-S 1000", "x", "-c =b", "\\-x", "-C a=b"])
def test_any_other_switch_is_refused(text: str) -> None:
    with pytest.raises(RemoteWireError):
        parse_options(text)


@pytest.mark.parametrize("text", ["1", "on", "ON", "t", "tr", "true", "TRUE", "y", "yes", "Ye"])
def test_every_spelling_of_true(text: str) -> None:
    assert parse_boolean(text) is True


@pytest.mark.parametrize("text", ["0", "off", "of", "f", "false", "FALSE", "n", "no"])
def test_every_spelling_of_false(text: str) -> None:
    assert parse_boolean(text) is False


@pytest.mark.parametrize("text", ["", "o", "2", "10", "truee", "yess", "onn", "offf", " on", "database"])
def test_everything_else_is_no_boolean(text: str) -> None:
    assert parse_boolean(text) is None
