"""How a client is let in or refused: startup, encryption requests, protocol versions, proof of the placeholder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.inspectors.postgres.login import LoginResult
from hostagent.model.command import Close, Command, Connect, Forward, StartTLS
from hostagent.model.flow import Side
from hostagent.model.operation import Effect, Operation, Resource
from hostagent.model.target import Target
from hostagent.model.verdict import Decision, HoldTerms, Verdict
from hostagent.wire.postgres.backend import build_ready
from hostagent.wire.postgres.scram import PLAIN, PLUS, ScramClient
from hostagent.wire.postgres.startup import (
    Authentication,
    AuthKind,
    BackendKey,
    Negotiation,
    SaslInitial,
    StartupMessage,
    build_authentication,
    build_backend_key,
    build_mechanisms,
    build_negotiation,
    build_password,
    build_sasl_initial,
    build_sasl_response,
    build_startup_message,
    parse_authentication,
    read_startup,
)
from tests.inspectors.login import (
    DIALLED,
    GREETING,
    GSS,
    OK,
    SSL,
    STATUSES,
    TARGET,
    Bench,
    ask,
    dialled,
    ended,
    login_event,
    outgoing,
)


def test_client_without_a_password_is_let_in_with_our_own_login() -> None:
    bench = Bench()
    assert bench.client(ask(0, ("application_name", "job"))) == [Connect("crm")]
    assert bench.login.connected(5.0) == [Forward(Side.SERVER, outgoing(application_name="job"))]
    commands = bench.server(OK + GREETING)
    minted = BackendKey(2, b"\0\0\0\3")  # the first draw was the nonce
    greeting = OK + STATUSES + build_backend_key(minted) + build_ready(b"I")
    assert commands == [
        login_event("ok", "", **{**DIALLED, "application": "job"}),
        Forward(Side.CLIENT, greeting),
    ]
    assert bench.login.done == LoginResult(
        user="ana",
        upstream_user="app",
        database="crm",
        application="job",
        minor=0,
        parameters={"application_name": "job", "client_encoding": "UTF8", "standard_conforming_strings": "on"},
        reported={"client_encoding": "UTF8", "standard_conforming_strings": "on"},
        client_key=minted,
        upstream_key=BackendKey(77, b"real"),
        tls_client="",
        tls_server="",
        leftover_client=b"",
        leftover_server=b"",
    )


def test_policy_judges_the_connect_operation() -> None:
    bench = Bench()
    bench.client(ask(0, ("application_name", "job"), ("TimeZone", "UTC")))
    assert bench.judged == [
        Operation(
            "postgres",
            "connect",
            frozenset({Effect.CONNECT}),
            (
                Resource("database", "crm"),
                Resource("role", "ana"),
                Resource("setting", "application_name"),
                Resource("setting", "timezone"),
            ),
            attributes={"database": "crm", "user": "ana", "application": "job"},
        )
    ]


def test_database_defaults_to_the_user_that_was_named() -> None:
    bench = Bench()
    bench.client(build_startup_message(StartupMessage(0, (("user", "ana"),))))
    [forward] = bench.login.connected(5.0)
    assert isinstance(forward, Forward)
    found = read_startup(forward.data)
    assert found is not None
    assert isinstance(found[0], StartupMessage)
    assert dict(found[0].parameters)["database"] == "ana"


DENIED = Verdict(Decision.DENY, ("no-bots", "other"), "not at night", "e" * 64, hint="come back at eight")


def test_denied_login_ends_with_rule_reason_and_hint() -> None:
    bench = Bench(verdict=DENIED)
    record, fields, close = ended(bench.client(ask()))
    reason = "login denied by rule no-bots: not at night"
    assert fields == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "42501",
        "M": f"hostagent: {reason}",
        "D": "Matching rules: no-bots, other; policy eeeeeeeeeeee.",
        "H": "come back at eight",
    }
    assert record == login_event(
        "denied", reason, rules=["no-bots", "other"], policy="e" * 64, database="crm", user="ana"
    )
    assert close == Close(f"login denied: {reason}")
    assert bench.login.over
    assert bench.login.done is None


def test_login_without_a_matching_rule_is_denied_by_default() -> None:
    bench = Bench(verdict=Verdict(Decision.DENY, (), "no rule allows connect", "e" * 64))
    assert ended(bench.client(ask()))[1]["M"] == "hostagent: login denied by default: no rule allows connect"


def test_login_cannot_be_held() -> None:
    verdict = Verdict(Decision.HOLD, ("wait",), "", "e" * 64, hold=HoldTerms("wait", "ops", 60))
    record, fields, _ = ended(Bench(verdict=verdict).client(ask()))
    assert record.event.fields["outcome"] == "denied"
    assert fields["C"] == "42501"


@pytest.mark.parametrize("value", ["1", "on", "true", "T", "yes", "y", "database"])
def test_replication_is_judged_as_such_and_refused_in_every_spelling(value: str) -> None:
    bench = Bench()
    _, fields, _ = ended(bench.client(ask(0, ("replication", value))))
    assert fields["C"] == "0A000"
    assert bench.judged[0].effects == {Effect.CONNECT, Effect.REPLICATION}


@pytest.mark.parametrize("value", ["0", "off", "false", "no"])
def test_no_replication_is_an_ordinary_login(value: str) -> None:
    assert Bench().client(ask(0, ("replication", value))) == [Connect("crm")]


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (("search_path", "evil"), "search_path"),
        (("Role", "postgres"), "role"),
        (("options", "-c session_replication_role=replica"), "session_replication_role"),
        (("options", "--search-path=evil"), "search_path"),
        (("client_encoding", "SJIS"), "client_encoding"),
        (("options", "-c Client-Encoding=BIG5"), "client_encoding"),
        (("standard_conforming_strings", "off"), "standard_conforming_strings"),
        (("my.setting", "x"), "my.setting"),
    ],
)
def test_parameter_that_is_not_allowed_is_refused_by_name(extra: tuple[str, str], name: str) -> None:
    record, fields, _ = ended(Bench().client(ask(0, extra)))
    assert (fields["S"], fields["C"]) == ("FATAL", "42501")
    assert f'start-up parameter "{name}"' in fields["M"]
    assert record.event.fields["outcome"] == "denied"


def test_refusal_names_the_key_of_the_target_document() -> None:
    fields = ended(Bench().client(ask(0, ("search_path", "x"))))[1]
    assert fields["M"] == 'hostagent: start-up parameter "search_path" is not allowed at target "crm"'
    assert '"parameters" of target crm' in fields["H"]


@pytest.mark.parametrize("name", ["client_encoding", "standard_conforming_strings"])
def test_target_cannot_unpin_what_reading_rests_on(name: str) -> None:
    target = replace(TARGET, parameters=frozenset({name}))
    assert ended(Bench(target).client(ask(0, (name, "off"))))[1]["C"] == "42501"


@pytest.mark.parametrize("value", ["UTF8", "utf-8", "'utf-8'", "unicode", "SQL_ASCII"])
def test_client_encoding_is_pinned_whatever_name_it_goes_by(value: str) -> None:
    bench = Bench()
    bench.client(ask(0, ("client_encoding", value)))
    assert bench.login.connected(5.0) == [Forward(Side.SERVER, outgoing())]


def test_parameter_that_the_target_names_goes_upstream() -> None:
    bench = Bench(replace(TARGET, parameters=frozenset({"search_path"})))
    bench.client(ask(0, ("options", "-c search_path=a -c geqo=off"), ("Search_Path", "b")))
    assert bench.login.connected(5.0) == [Forward(Side.SERVER, outgoing(search_path="b", geqo="off"))]


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (replace(TARGET, databases=frozenset({"sales"})), "databases"),
        (replace(TARGET, users=frozenset({"bob"})), "users"),
    ],
)
def test_database_and_user_must_be_offered(target: Target, word: str) -> None:
    record, fields, _ = ended(Bench(target).client(ask()))
    assert f'"{word}" of target crm' in fields["H"]
    assert record.event.fields["outcome"] == "denied"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (build_startup_message(StartupMessage(0, (("database", "crm"),))), "28000"),
        (build_startup_message(StartupMessage(0, (("user", "a" * 64),))), "42622"),
        (build_startup_message(StartupMessage(0, (("user", "ü" * 32),))), "42622"),
        (ask(0, ("replication", "maybe")), "22023"),
        (ask(0, ("options", "-d 5")), "42601"),
        (ask(0, ("application_name", "x" * 1025)), "22023"),
        (b"\0\0\0\x08\0\x02\0\0", "0A000"),
        (b"GET / HTTP/1.1\r\n\r\n", "08P01"),
    ],
)
def test_startup_that_makes_no_sense_fails_with_postgresql_s_own_code(data: bytes, code: str) -> None:
    record, fields, _ = ended(Bench().client(data))
    assert (fields["S"], fields["C"]) == ("FATAL", code)
    assert record.event.fields["outcome"] == "failed"


# -- encryption requests ---------------------------------------------------------------------------------------------------


def test_ssl_request_is_accepted_and_startup_follows_inside() -> None:
    bench = Bench()
    assert bench.client(SSL) == [Forward(Side.CLIENT, b"S"), StartTLS(Side.CLIENT, "postgresql")]
    assert bench.login.secured(Side.CLIENT, 5.0, version="TLSv1.3", channel_binding=b"x") == []
    assert bench.client(ask()) == [Connect("crm")]


def test_ssl_request_is_declined_where_tls_cannot_be_served() -> None:
    bench = Bench(tls=False)
    assert bench.client(SSL) == [Forward(Side.CLIENT, b"N")]
    assert bench.client(ask()) == [Connect("crm")]


def test_gss_request_is_declined_and_ssl_may_follow() -> None:
    bench = Bench()
    assert bench.client(GSS) == [Forward(Side.CLIENT, b"N")]
    assert bench.client(SSL) == [Forward(Side.CLIENT, b"S"), StartTLS(Side.CLIENT, "postgresql")]


@pytest.mark.parametrize("data", [SSL + ask(), SSL + b"\x16\x03\x01"])
def test_plaintext_behind_an_ssl_request_is_refused(data: bytes) -> None:
    bench = Bench()
    _, fields, _ = ended(bench.client(data))
    assert fields["M"] == "hostagent: received unencrypted data after SSL request"


@pytest.mark.parametrize("request_", [SSL, GSS])
def test_encryption_request_inside_tls_is_refused(request_: bytes) -> None:
    bench = Bench()
    bench.client(SSL)
    bench.login.secured(Side.CLIENT, 5.0, version="TLSv1.3")
    assert ended(bench.client(request_))[1]["C"] == "0A000"


@pytest.mark.parametrize("request_", [SSL, GSS])
def test_second_encryption_request_of_a_kind_is_refused(request_: bytes) -> None:
    bench = Bench(tls=False)
    assert bench.client(request_) == [Forward(Side.CLIENT, b"N")]
    assert ended(bench.client(request_))[1]["C"] == "0A000"


def hello(alpn: bytes) -> bytes:
    extensions = b""
    if alpn:
        names = bytes([len(alpn)]) + alpn
        extensions = b"\0\x10" + (len(names) + 2).to_bytes(2, "big") + len(names).to_bytes(2, "big") + names
    body = b"\3\3" + b"\x11" * 32 + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def test_direct_tls_begins_when_the_hello_is_complete() -> None:
    data = hello(b"postgresql")
    bench = Bench()
    assert [bench.client(data[i : i + 1]) for i in range(len(data) - 1)] == [[]] * (len(data) - 1)
    assert bench.client(data[-1:]) == [StartTLS(Side.CLIENT, "postgresql", data)]
    bench.login.secured(Side.CLIENT, 5.0, version="TLSv1.3")
    assert bench.client(ask()) == [Connect("crm")]


@pytest.mark.parametrize("alpn", [b"", b"h2"])
def test_direct_tls_without_postgresql_s_alpn_is_refused(alpn: bytes) -> None:
    assert ended(Bench().client(hello(alpn)))[1]["M"] == "hostagent: direct TLS needs ALPN 'postgresql'"


@pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER])
def test_tls_that_nobody_began_is_refused(side: Side) -> None:
    bench = Bench()
    bench.client(ask())
    assert ended(bench.login.secured(side, 5.0))[0].event.fields["outcome"] == "failed"


# -- protocol versions -----------------------------------------------------------------------------------------------------


def test_protocol_3_2_gets_a_long_key_and_is_asked_for_upstream() -> None:
    bench = Bench()
    assert bench.client(ask(2)) == [Connect("crm")]
    assert bench.login.connected(5.0) == [Forward(Side.SERVER, outgoing(2))]
    older = build_negotiation(Negotiation(0, ()))
    bench.server(older + OK + GREETING)
    assert bench.login.done is not None
    assert bench.login.done.client_key == BackendKey(2, b"\0" * 31 + b"\3")
    assert bench.login.done.minor == 2


def test_newer_protocol_and_unknown_extensions_are_negotiated_down() -> None:
    bench = Bench()
    commands = bench.client(ask(9999, extensions=("_pq_.a", "_pq_.b")))
    assert commands == [
        Forward(Side.CLIENT, build_negotiation(Negotiation(2, ("_pq_.a", "_pq_.b")))),
        Connect("crm"),
    ]
    assert bench.login.connected(5.0) == [Forward(Side.SERVER, outgoing(2))]


def test_unknown_extension_on_3_0_is_negotiated_too() -> None:
    commands = Bench().client(ask(0, extensions=("_pq_.a",)))
    assert commands[0] == Forward(Side.CLIENT, build_negotiation(Negotiation(0, ("_pq_.a",))))


def test_server_may_not_negotiate_upwards() -> None:
    bench = dialled()
    assert "newer protocol" in ended(bench.server(build_negotiation(Negotiation(2, ()))))[1]["M"]


# -- clients that demand SCRAM ---------------------------------------------------------------------------------------------


def prove(bench: Bench, password: str, mechanism: str, binding: bytes) -> list[Command]:
    client = ScramClient(password, b"c" * 18, mechanism, binding)
    [challenge] = bench.client(build_sasl_initial(SaslInitial(mechanism, client.first())))
    assert isinstance(challenge, Forward)
    server_first = parse_authentication(challenge.data[5:]).data
    return bench.client(build_sasl_response(client.final(server_first)))


@pytest.mark.parametrize("encrypted_", [False, True])
def test_client_proves_the_placeholder_and_is_let_in(encrypted_: bool) -> None:
    bench = Bench(demand_scram=True)
    binding = b"b" * 32 if encrypted_ else b""
    if encrypted_:
        bench.client(SSL)
        bench.login.secured(Side.CLIENT, 5.0, version="TLSv1.3", channel_binding=binding)
    [offer] = bench.client(ask())
    names = (PLUS, PLAIN) if encrypted_ else (PLAIN,)
    assert offer == Forward(
        Side.CLIENT, build_authentication(Authentication(AuthKind.SASL, build_mechanisms(names)))
    )
    final, connect = prove(bench, "hostagent", names[0], binding)
    assert isinstance(final, Forward)
    assert parse_authentication(final.data[5:]).code == AuthKind.SASL_FINAL
    assert connect == Connect("crm")


def test_client_with_another_password_is_told_about_the_placeholder() -> None:
    bench = Bench(demand_scram=True)
    bench.client(ask())
    _, fields, _ = ended(prove(bench, "wrong", PLAIN, b""))
    assert fields["C"] == "28P01"
    assert "hostagent target list" in fields["H"]


@pytest.mark.parametrize("data", [b"Q\0\0\0\4", b"p\0\0\0\4", build_password(b"plain"), b"p\0\1\0\0"])
def test_anything_but_a_proof_is_refused(data: bytes) -> None:
    bench = Bench(demand_scram=True)
    bench.client(ask())
    assert ended(bench.client(data))[1]["C"] == "08P01"
