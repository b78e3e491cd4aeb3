"""Our own login at the target."""

from __future__ import annotations

import pytest

from hostagent.model.command import Forward, StartTLS
from hostagent.model.flow import Side
from hostagent.wire.postgres.backend import build_error, build_notice, build_ready, build_status
from hostagent.wire.postgres.scram import PLAIN, PLUS, ScramClient, ScramServer
from hostagent.wire.postgres.startup import (
    Authentication,
    AuthKind,
    BackendKey,
    Negotiation,
    build_authentication,
    build_backend_key,
    build_mechanisms,
    build_negotiation,
    build_password,
)
from tests.inspectors.login import (
    DIALLED,
    GREETING,
    OK,
    SSL,
    STATUSES,
    VERIFIED,
    Bench,
    ask,
    dialled,
    encrypted,
    ended,
    login_event,
    outgoing,
)

# -- our login at the target -----------------------------------------------------------------------------------------------


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
