from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.login import Login, LoginResult
from hostagent.model.command import CancelUpstream, Close, Command, Connect, Forward, Record, StartTLS
from hostagent.model.event import Event, EventKind
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.model.operation import Effect, Operation, Resource
from hostagent.model.target import Login as Account
from hostagent.model.target import Target, UpstreamTLS
from hostagent.model.verdict import Decision, HoldTerms, Verdict
from hostagent.wire.postgres.backend import build_error, build_notice, build_ready, build_status, parse_fields
from hostagent.wire.postgres.messages import HEADER
from hostagent.wire.postgres.scram import PLAIN, PLUS, ScramClient, ScramServer
from hostagent.wire.postgres.startup import (
    Authentication,
    AuthKind,
    BackendKey,
    Encryption,
    Negotiation,
    SaslInitial,
    StartupMessage,
    build_authentication,
    build_backend_key,
    build_cancel_request,
    build_encryption_request,
    build_mechanisms,
    build_negotiation,
    build_password,
    build_sasl_initial,
    build_sasl_response,
    build_startup_message,
    parse_authentication,
    read_startup,
)

FLOW = Flow("flow-1", "crm-bot", "leaf-1", Endpoint("10.0.0.9", 40000), Endpoint("10.0.0.2", 5432))
TARGET = Target("crm", "postgres", ("db.internal",), 5432, Account("app"), tls=UpstreamTLS.DISABLE)
ALLOW = Verdict(Decision.ALLOW, ("lets-in",), "", "f" * 64)
SSL = build_encryption_request(Encryption.SSL)
GSS = build_encryption_request(Encryption.GSS)
OK = build_authentication(Authentication(AuthKind.OK))
STATUSES = build_status(b"client_encoding", b"UTF8") + build_status(b"standard_conforming_strings", b"on")
GREETING = STATUSES + build_backend_key(BackendKey(77, b"real")) + build_ready(b"I")


def ask(minor: int = 0, *extra: tuple[str, str], extensions: tuple[str, ...] = ()) -> bytes:
    return build_startup_message(StartupMessage(minor, (("user", "ana"), ("database", "crm"), *extra), extensions))


@dataclass
class Entry:
    workload: str = "crm-bot"
    upstream: bytes | None = build_cancel_request(77, b"real")
    heard: list[float] = field(default_factory=list)

    def cancel(self, now: float) -> bytes | None:
        self.heard.append(now)
        return self.upstream


class Bench:
    """A login with everything around it recorded."""

    def __init__(self, target: Target = TARGET, verdict: Verdict = ALLOW, **options: Any) -> None:
        self.judged: list[Operation] = []
        self.registry = options.pop("registry", CancelRegistry())
        counter = itertools.count(1)
        self.entry = Entry()

        def judge(operation: Operation) -> Verdict:
            self.judged.append(operation)
            return verdict

        self.login = Login(
            flow=options.pop("flow", FLOW),
            target=target,
            judge=judge,
            random=lambda size: next(counter).to_bytes(size, "big"),
            cancel_registry=self.registry,
            cancel_entry=self.entry,
            wall_offset_ns=1_000,
            **{"secret": "s3cret", **options},
        )

    def client(self, data: bytes) -> list[Command]:
        return self.login.feed(Side.CLIENT, data, 5.0)

    def server(self, data: bytes) -> list[Command]:
        return self.login.feed(Side.SERVER, data, 5.0)


def login_event(outcome: str, reason: str, **fields: object) -> Record:
    base: dict[str, object] = {
        "outcome": outcome,
        "reason": reason,
        "rules": [],
        "policy": "",
        "database": "",
        "user": "",
        "upstream_user": "",
        "application": "",
        "tls_client": "",
        "tls_server": "",
    }
    assert set(fields) <= set(base)
    return Record(Event(EventKind.LOGIN, 5_000_001_000, "flow-1", "crm-bot", {**base, **fields}))


JUDGED: dict[str, object] = {"rules": ["lets-in"], "policy": "f" * 64, "database": "crm", "user": "ana"}
DIALLED: dict[str, object] = {**JUDGED, "upstream_user": "app"}


def ended(commands: list[Command]) -> tuple[Record, Mapping[str, str], Close]:
    """Return record, fields of the error and close of a login that was refused."""
    record, forward, close = commands[-3:]
    assert isinstance(record, Record)
    assert isinstance(forward, Forward)
    assert isinstance(close, Close)
    assert forward.side is Side.CLIENT
    kind, length = HEADER(forward.data)
    assert (chr(kind), length + 1) == ("E", len(forward.data))
    return record, parse_fields(forward.data[5:]), close


def outgoing(minor: int = 0, **settings_: str) -> bytes:
    parameters = {"user": "app", "database": "crm", **settings_}
    parameters |= {"client_encoding": "UTF8", "standard_conforming_strings": "on"}
    return build_startup_message(StartupMessage(minor, tuple(parameters.items())))


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


# -- our login at the target -----------------------------------------------------------------------------------------------

VERIFIED = replace(TARGET, tls=UpstreamTLS.VERIFY)


def dialled(target: Target = TARGET, **options: Any) -> Bench:
    bench = Bench(target, **options)
    bench.client(ask())
    bench.login.connected(5.0)
    return bench


def encrypted(**options: Any) -> Bench:
    bench = dialled(VERIFIED, **options)
    bench.server(b"S")
    bench.login.secured(Side.SERVER, 5.0, version="TLSv1.3", channel_binding=b"b" * 32)
    return bench


def test_target_is_asked_for_tls_first() -> None:
    bench = Bench(VERIFIED)
    bench.client(ask())
    assert bench.login.connected(5.0) == [Forward(Side.SERVER, SSL)]
    assert bench.server(b"S") == [StartTLS(Side.SERVER)]
    assert bench.login.secured(Side.SERVER, 5.0, version="TLSv1.3") == [Forward(Side.SERVER, outgoing())]
    [record, _] = bench.server(OK + GREETING)
    assert record == login_event("ok", "", **{**DIALLED, "tls_server": "TLSv1.3"})


@pytest.mark.parametrize("answer", [b"N", build_error({"S": "FATAL", "C": "XX000", "M": "injected"}), b"x"])
def test_target_without_tls_is_refused_and_its_words_are_not_believed(answer: bytes) -> None:
    _, fields, _ = ended(dialled(VERIFIED).server(answer))
    assert "TLS" in fields["M"]
    assert "injected" not in str(fields)


def test_data_behind_the_target_s_answer_is_refused() -> None:
    assert "unencrypted data" in ended(dialled(VERIFIED).server(b"S" + OK))[1]["M"]


def test_server_that_speaks_before_it_is_asked_is_refused() -> None:
    bench = Bench()
    bench.client(ask())
    assert "before its turn" in ended(bench.server(OK))[1]["M"]


def test_scram_plus_is_used_when_the_channel_can_be_bound() -> None:
    bench = encrypted()
    server = ScramServer("s3cret", b"s" * 18, b"salt", b"b" * 32)
    [first] = bench.server(build_authentication(Authentication(AuthKind.SASL, build_mechanisms((PLUS, PLAIN)))))
    assert isinstance(first, Forward)
    answer = server.first(PLUS, first.data[5 + len(PLUS) + 1 + 4 :])
    [final] = bench.server(build_authentication(Authentication(AuthKind.SASL_CONTINUE, answer)))
    assert isinstance(final, Forward)
    proof = build_authentication(Authentication(AuthKind.SASL_FINAL, server.final(final.data[5:])))
    assert bench.server(proof + OK + GREETING)[0] == login_event("ok", "", **{**DIALLED, "tls_server": "TLSv1.3"})


def begun_scram() -> Bench:
    bench = dialled()
    bench.server(build_authentication(Authentication(AuthKind.SASL, build_mechanisms((PLAIN,)))))
    return bench


def test_server_that_skips_its_own_proof_is_refused() -> None:
    assert "skipped its own proof" in ended(begun_scram().server(OK))[1]["M"]


def test_server_that_cannot_prove_itself_is_refused() -> None:
    bench = begun_scram()
    server = ScramServer("another", b"s" * 18, b"salt", b"")
    first = ScramClient("s3cret", b"\0" * 17 + b"\1", PLAIN, b"").first()
    answer = server.first(PLAIN, first)
    bench.server(build_authentication(Authentication(AuthKind.SASL_CONTINUE, answer)))
    lie = Authentication(AuthKind.SASL_FINAL, b"v=" + b"A" * 43 + b"=")
    assert "does not know the password" in ended(bench.server(build_authentication(lie)))[1]["M"]


@pytest.mark.parametrize(
    "request_",
    [
        Authentication(AuthKind.SASL_CONTINUE, b"r=x"),
        Authentication(AuthKind.SASL_FINAL, b"v=x"),
        Authentication(AuthKind.SASL, build_mechanisms(("OAUTHBEARER",))),
        Authentication(AuthKind.CLEARTEXT),
        Authentication(7),
        Authentication(99),
    ],
    ids=["continue", "final", "oauth", "clear", "gss", "unknown"],
)
def test_other_authentication_is_refused(request_: Authentication) -> None:
    record, fields, _ = ended(dialled().server(build_authentication(request_)))
    assert record.event.fields["outcome"] == "failed"
    assert "s3cret" not in str(fields) + str(record)


def test_cleartext_password_is_sent_inside_tls_only() -> None:
    clear = build_authentication(Authentication(AuthKind.CLEARTEXT))
    assert encrypted().server(clear) == [Forward(Side.SERVER, build_password(b"s3cret"))]


def test_md5_is_answered() -> None:
    md5 = build_authentication(Authentication(AuthKind.MD5, b"salt"))
    [forward] = dialled().server(md5)
    assert isinstance(forward, Forward)
    assert forward.data[5:8] == b"md5"


def test_second_request_for_a_password_is_refused() -> None:
    bench = dialled()
    md5 = build_authentication(Authentication(AuthKind.MD5, b"salt"))
    bench.server(md5)
    assert "asked twice" in ended(bench.server(md5))[1]["M"]


def test_missing_credential_is_said_clearly() -> None:
    bench = dialled(secret=None)
    fields = ended(bench.server(build_authentication(Authentication(AuthKind.MD5, b"salt"))))[1]
    assert fields["M"] == 'hostagent: target "crm" asks for a password, but its document names no credential'


def test_refused_credential_reveals_neither_account_nor_secret() -> None:
    answer = build_error({"S": "FATAL", "C": "28P01", "M": 'password authentication failed for user "app"'})
    record, fields, _ = ended(dialled().server(answer))
    assert (fields["S"], fields["C"]) == ("FATAL", "28P01")
    assert "hostagent itself" in fields["M"]
    assert '"app"' not in str(fields)
    assert record.event.fields["outcome"] == "failed"


def test_other_refusals_of_the_server_are_passed_on_scrubbed() -> None:
    answer = build_error({"S": "FATAL", "V": "FATAL", "C": "3D000", "M": "no 4111 here", "D": "d 4111", "H": "h"})
    bench = dialled(scrub=lambda text: text.replace("4111", "****"))
    record, fields, _ = ended(bench.server(OK + answer))
    assert fields == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "3D000",
        "M": 'hostagent: target "crm": no **** here',
        "D": "d ****",
        "H": "h",
    }
    assert record == login_event("failed", 'target "crm": no **** here', **DIALLED)


def test_notices_reach_the_client_after_authentication_ok() -> None:
    notice = build_notice({"S": "NOTICE", "C": "00000", "M": "hello"})
    bench = dialled()
    commands = bench.server(notice + OK + GREETING)
    assert isinstance(commands[1], Forward)
    assert commands[1].data.startswith(OK + notice + STATUSES)


def test_bytes_that_came_early_are_left_for_the_session() -> None:
    bench = dialled()
    assert bench.client(b"X\0\0\0\4") == []
    bench.server(OK + GREETING + build_notice({"M": "later"}))
    assert bench.login.done is not None
    assert bench.login.done.leftover_client == b"X\0\0\0\4"
    assert bench.login.done.leftover_server == build_notice({"M": "later"})


def test_client_may_not_send_without_end_before_it_is_let_in() -> None:
    bench = dialled()
    bench.client(b"x" * 65_536)
    assert ended(bench.client(b"x"))[1]["C"] == "08P01"


@pytest.mark.parametrize(
    "greeting",
    [
        build_ready(b"I"),
        build_status(b"client_encoding", b"LATIN1") + build_status(b"standard_conforming_strings", b"on") + build_ready(b"I"),
        build_status(b"client_encoding", b"UTF8") + build_status(b"standard_conforming_strings", b"off") + build_ready(b"I"),
        STATUSES + build_ready(b"T"),
        STATUSES + OK,
        STATUSES + build_negotiation(Negotiation(0, ())),
        build_backend_key(BackendKey(1, b"abcd")) * 2,
        b"D\0\0\0\4",
        build_ready(b"Q"),
    ],
)
def test_greeting_that_cannot_be_trusted_is_refused(greeting: bytes) -> None:
    bench = dialled()
    assert ended(bench.server(OK + greeting))[0].event.fields["outcome"] == "failed"
    assert bench.login.done is None


def test_server_without_cancel_keys_gets_its_clients_none() -> None:
    bench = dialled()
    bench.server(OK + STATUSES + build_ready(b"I"))
    assert bench.login.done is not None
    assert (bench.login.done.client_key, len(bench.registry)) == (None, 0)


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


# -- cancel requests -------------------------------------------------------------------------------------------------------


def registered(upstream: bytes | None = build_cancel_request(77, b"real"), workload: str = "crm-bot") -> tuple[Bench, Entry]:
    bench = Bench()
    entry = Entry(workload, upstream)
    bench.registry.mint(lambda size: b"\1" * size, 0, entry, "flow-9")
    return bench, entry


GOOD_CANCEL = build_cancel_request(0x01010101, b"\1\1\1\1")


def test_cancel_goes_upstream_under_the_real_key() -> None:
    bench, entry = registered()
    assert bench.client(GOOD_CANCEL) == [
        login_event("ok", "cancel request for flow flow-9"),
        CancelUpstream(build_cancel_request(77, b"real")),
        Close("cancel request for flow flow-9"),
    ]
    assert entry.heard == [5.0]


def test_cancel_that_the_session_used_up_does_not_go_upstream() -> None:
    bench, _ = registered(None)
    record, close = bench.client(GOOD_CANCEL)
    assert isinstance(record, Record)
    assert record.event.fields["outcome"] == "ok"
    assert isinstance(close, Close)


@pytest.mark.parametrize(
    ("data", "workload"),
    [
        (build_cancel_request(0x01010101, b"\1\1\1\2"), "crm-bot"),
        (build_cancel_request(0x01010101, b"\1\1\1\1\1"), "crm-bot"),
        (build_cancel_request(2, b"\1\1\1\1"), "crm-bot"),
        (build_cancel_request(77, b"real"), "crm-bot"),
        (GOOD_CANCEL, "another"),
    ],
    ids=["key", "longer key", "pid", "the server's own", "workload"],
)
def test_cancel_that_is_not_ours_does_nothing_and_says_nothing(data: bytes, workload: str) -> None:
    bench, entry = registered(workload=workload)
    record, close = bench.client(data)
    assert isinstance(record, Record)
    assert record.event.fields["outcome"] == "denied"
    assert isinstance(close, Close)
    assert entry.heard == []


def test_cancel_after_the_session_ended_finds_nothing() -> None:
    bench, entry = registered()
    bench.registry.forget(BackendKey(0x01010101, b"\1\1\1\1"))
    bench.registry.forget(None)
    bench.client(GOOD_CANCEL)
    assert entry.heard == []


def test_cancel_may_come_inside_tls() -> None:
    bench, entry = registered()
    bench.client(SSL)
    bench.login.secured(Side.CLIENT, 5.0, version="TLSv1.3")
    bench.client(GOOD_CANCEL)
    assert entry.heard == [5.0]


def test_minted_keys_are_never_shared() -> None:
    registry = CancelRegistry()
    draws = iter([b"\0\0\0\0", b"\0\0\0\7", b"key1", b"\x80\0\0\7", b"\0\0\0\7", b"\0\0\0\x08", b"key2"])
    first = registry.mint(lambda _: next(draws), 0, Entry(), "a")
    second = registry.mint(lambda _: next(draws), 0, Entry(), "b")
    assert (first, second) == (BackendKey(7, b"key1"), BackendKey(8, b"key2"))
    with pytest.raises(RuntimeError):
        registry.mint(lambda size: b"\0" * size, 0, Entry(), "c")


# -- ends ------------------------------------------------------------------------------------------------------------------


def test_unreachable_target_is_reported() -> None:
    bench = Bench()
    bench.client(ask())
    reason = 'target "crm" cannot be reached: connection refused'
    record, fields, close = ended(bench.login.connect_failed("connection refused", 5.0))
    assert record == login_event("failed", reason, **DIALLED)
    assert fields == {"S": "FATAL", "V": "FATAL", "C": "08006", "M": f"hostagent: {reason}"}
    assert close == Close(f"login failed: {reason}")


def test_server_that_closes_is_reported() -> None:
    assert ended(dialled().login.closed(Side.SERVER, 5.0))[1]["C"] == "08006"


def test_client_that_leaves_is_recorded() -> None:
    bench = dialled()
    reason = "the client left during the login"
    assert bench.login.closed(Side.CLIENT, 5.0) == [
        login_event("failed", reason, **DIALLED),
        Close(f"login failed: {reason}"),
    ]


def test_cut_login_ends_with_an_error() -> None:
    record, fields, _ = ended(dialled().login.cut("identity expired", 5.0))
    assert (fields["C"], record.event.fields["reason"]) == ("57P01", "identity expired")


def test_no_error_is_written_into_a_tls_handshake() -> None:
    bench = Bench()
    bench.client(SSL)
    assert [type(c) for c in bench.login.cut("stop", 5.0)] == [Record, Close]


@pytest.mark.parametrize(
    "act",
    [
        lambda login: login.feed(Side.CLIENT, b"x", 6.0),
        lambda login: login.feed(Side.SERVER, b"x", 6.0),
        lambda login: login.connected(6.0),
        lambda login: login.secured(Side.CLIENT, 6.0),
        lambda login: login.connect_failed("x", 6.0),
        lambda login: login.closed(Side.CLIENT, 6.0),
        lambda login: login.cut("x", 6.0),
    ],
)
def test_nothing_happens_after_the_end(act: Callable[[Login], list[Command]]) -> None:
    bench = Bench()
    bench.login.cut("stop", 5.0)
    assert act(bench.login) == []


# -- every way of splitting the input --------------------------------------------------------------------------------------


def gathered(commands: list[Command]) -> list[object]:
    """Return events and other commands in order, with neighbouring bytes to one side put together."""
    found: list[object] = []
    for command in commands:
        last = found[-1] if found else None
        if isinstance(command, Forward) and isinstance(last, Forward) and last.side is command.side:
            found[-1] = Forward(last.side, last.data + command.data)
        else:
            found.append(command)
    return found


def scripted(pieces: Callable[[bytes], list[bytes]]) -> list[object]:
    """A whole login with SCRAM on both sides and every message that may occur, fed in pieces."""
    bench = Bench(demand_scram=True)
    out: list[Command] = []

    def feed(side: Side, data: bytes) -> list[Command]:
        new: list[Command] = []
        for piece in pieces(data):
            new += bench.login.feed(side, piece, 5.0)
        out.extend(new)
        return new

    feed(Side.CLIENT, GSS + ask(7, ("options", "-c geqo=off"), extensions=("_pq_.x",)))
    client = ScramClient("hostagent", b"c" * 18, PLAIN, b"")
    [challenge] = feed(Side.CLIENT, build_sasl_initial(SaslInitial(PLAIN, client.first())))
    assert isinstance(challenge, Forward)
    final = client.final(parse_authentication(challenge.data[5:]).data)
    feed(Side.CLIENT, build_sasl_response(final) + b"Q\0\0\0\x06;\0")
    out.extend(bench.login.connected(5.0))
    server = ScramServer("s3cret", b"s" * 18, b"salt", b"")
    notice = build_notice({"S": "NOTICE", "M": "n"})
    offer = build_authentication(Authentication(AuthKind.SASL, build_mechanisms((PLUS, PLAIN))))
    [first] = feed(Side.SERVER, build_negotiation(Negotiation(0, ())) + notice + offer)
    assert isinstance(first, Forward)
    answer = server.first(PLAIN, first.data[5 + len(PLAIN) + 1 + 4 :])
    [proof] = feed(Side.SERVER, build_authentication(Authentication(AuthKind.SASL_CONTINUE, answer)))
    assert isinstance(proof, Forward)
    verified = build_authentication(Authentication(AuthKind.SASL_FINAL, server.final(proof.data[5:])))
    feed(Side.SERVER, verified + OK + notice + GREETING)
    assert bench.login.done is not None
    return [*gathered(out), bench.login.done]


WHOLE = scripted(lambda data: [data])


def test_login_fed_byte_by_byte_is_the_same() -> None:
    assert scripted(lambda data: [data[i : i + 1] for i in range(len(data))]) == WHOLE


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60))
def test_login_fed_in_any_pieces_is_the_same(first: int, size: int) -> None:
    def pieces(data: bytes) -> list[bytes]:
        return [data[:first], *(data[i : i + size] for i in range(first, len(data), size))]

    assert scripted(pieces) == WHOLE


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_end_in_an_answer_or_in_waiting(client: bytes, server: bytes) -> None:
    bench = Bench()
    for command in bench.client(client):
        assert not isinstance(command, Connect) or bench.judged
    bench = dialled()
    bench.server(server)
    assert bench.login.done is None
