"""How a login ends: cancel requests, whoever leaves, and that any way of splitting the input gives the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.login import Login
from hostagent.model.command import CancelUpstream, Close, Command, Connect, Forward, Record
from hostagent.model.flow import Side
from hostagent.wire.postgres.backend import build_notice
from hostagent.wire.postgres.scram import PLAIN, PLUS, ScramClient, ScramServer
from hostagent.wire.postgres.startup import (
    Authentication,
    AuthKind,
    BackendKey,
    Negotiation,
    SaslInitial,
    build_authentication,
    build_cancel_request,
    build_mechanisms,
    build_negotiation,
    build_sasl_initial,
    build_sasl_response,
    parse_authentication,
)
from tests.inspectors.login import (
    DIALLED,
    GREETING,
    GSS,
    OK,
    SSL,
    Bench,
    Entry,
    ask,
    dialled,
    ended,
    login_event,
)

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
