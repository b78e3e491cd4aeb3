"""What a client may not do, what the session remembers of its names, and what fails closed. No server here."""

from __future__ import annotations

import json

import pytest

from hostagent.inspectors.postgres.session import Session
from hostagent.model.command import Close
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Effect, Operation
from hostagent.model.verdict import Decision, Verdict
from hostagent.wire.postgres import backend as b
from hostagent.wire.postgres.backend import parse_fields
from hostagent.wire.postgres.frontend import build_query
from tests.gate.gate_rim import NOW, Rules, events, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, bind, close, describe, execute, parse, query

REFUSED = b"hostagent refused this statement"
IDLE = b.build_ready(b"I")
SYNTAX_ERROR = b.build_error({"S": "ERROR", "V": "ERROR", "C": "42601", "M": "syntax error"})


def _session(rules: object | None = None) -> Session:
    return make_session(make_context(rules or Rules(lambda _: Decision.ALLOW)))[1]


def _up(session: Session, data: bytes) -> bytes:
    return sent(session.feed(Side.CLIENT, data, NOW), Side.SERVER)


def _down(session: Session, data: bytes) -> bytes:
    return sent(session.feed(Side.SERVER, data, NOW), Side.CLIENT)


@pytest.mark.parametrize(
    "data",
    [
        b"p\0\0\0\x05x",  # a password after sign-in
        b"Q\0\0\0\x03",  # shorter than its own length
        b"Q\xff\xff\xff\xff",
        b"Q\x7f\xff\xff\xff",
        b"Q\0\0\0\x04",  # no string
        b"Q\0\0\0\x08a\0b\0",  # two strings
        b"S\0\0\0\x05x",
        b"X\0\0\0\x05x",
        b"D\0\0\0\x06X\0",
        b"B\0\0\0\x06\0\0",
        b"E\0\0\0\x08\0\0\0\0",
        b"\0\0\0\x08\x04\xd2\x16\x2f",  # SSLRequest in the middle of a session
        b"\x16\x03\x01\x02\0",
    ],
)
def test_a_broken_message_ends_the_session_with_the_protocols_own_error(data: bytes) -> None:
    session = _session()
    out = session.feed(Side.CLIENT, query("select 1") + data, NOW)
    assert sent(out, Side.SERVER) == query("select 1")
    fields = parse_fields(sent(out, Side.CLIENT)[5:])
    assert (fields["S"], fields["C"]) == ("FATAL", "08P01")
    assert isinstance(out[-1], Close)
    assert session.over
    kinds = [event.kind for event in events(out)]
    assert kinds == [EventKind.STATEMENT, EventKind.REFUSAL, EventKind.RESULT]


def test_unknown_statements_and_portals_are_refused_without_reaching_the_server() -> None:
    for data in (bind("nobody"), describe("S", "nobody"), describe("P", "nobody"), execute("nobody")):
        session = _session()
        out = session.feed(Side.CLIENT, data + SYNC, NOW)
        assert b"nobody" not in sent(out, Side.SERVER)
        assert REFUSED in sent(out, Side.SERVER)
        assert [event.kind for event in events(out)] == [EventKind.REFUSAL]
        answer = _down(session, SYNTAX_ERROR + IDLE)
        assert parse_fields(answer[5:-6])["C"] in ("26000", "34000")


def test_names_are_told_apart_by_their_first_63_bytes_as_the_server_does() -> None:
    session = _session(Rules(lambda op: Decision.DENY if op.verb.startswith("drop") else Decision.ALLOW))
    long = "x" * 63
    assert REFUSED not in _up(session, parse("select 1", long + "a") + bind(long + "b") + SYNC)


def test_reserved_names_are_ours() -> None:
    assert REFUSED in _up(_session(), parse("select 1", "hostagent:refused") + SYNC)
    assert REFUSED in _up(_session(), parse("select 1") + bind("", "hostagent:p") + SYNC)


def test_a_failed_parse_leaves_the_old_meaning_of_its_name() -> None:
    verbs: list[str] = []

    def note(operation: Operation) -> Decision:
        verbs.append(operation.text)
        return Decision.ALLOW

    session = _session(Rules(note, cacheable=False))
    _up(session, parse("select 'old'", "s") + SYNC)
    _down(session, b.PARSE_COMPLETE + IDLE)
    _up(session, parse("select 'new'", "s") + bind("s") + execute() + SYNC)
    _down(session, SYNTAX_ERROR + IDLE)
    verbs.clear()
    assert REFUSED not in _up(session, bind("s") + execute() + SYNC)
    assert set(verbs) == {"select 'old'"}


def test_portals_end_with_their_transaction_and_not_those_of_a_later_segment() -> None:
    session = _session()
    _up(session, parse("select 1", "s") + bind("s", "p") + SYNC + bind("s", "q") + SYNC)
    _down(session, b.PARSE_COMPLETE + b.BIND_COMPLETE + IDLE)
    assert REFUSED in _up(session, execute("p") + SYNC)
    session = _session()
    _up(session, parse("select 1", "s") + bind("s", "p") + SYNC + bind("s", "q"))
    _down(session, b.PARSE_COMPLETE + b.BIND_COMPLETE + IDLE)
    assert REFUSED not in _up(session, execute("q") + SYNC)


def test_closed_names_are_gone() -> None:
    session = _session()
    _up(session, parse("select 1", "s") + SYNC)
    _down(session, b.PARSE_COMPLETE + IDLE)
    assert REFUSED in _up(session, close("S", "s") + bind("s") + SYNC)
    for text in ("deallocate s", "deallocate all", "discard all"):
        session = _session()
        _up(session, parse("select 1", "s") + SYNC + query(text))
        assert REFUSED in _up(session, bind("s") + SYNC), text


def _only_read(operation: Operation) -> Decision:
    return Decision.ALLOW if operation.judged_effects <= {Effect.READ, Effect.SESSION} else Decision.DENY


@pytest.mark.parametrize(
    "text",
    [
        "execute nobody",
        "fetch all from nobody",
        "explain analyze execute nobody",
        "prepare d as delete from t where a = 1; execute d",
        "select 1; drop table t",
        "this is not sql",
        "select 1 \\; drop table t",
        "\ufeffselect 1; drop table t",
    ],
)
def test_what_is_not_understood_counts_as_every_effect(text: str) -> None:
    session = _session(Rules(_only_read))
    assert _up(session, query(text)) == query(REFUSED.decode())


def test_explain_execute_is_not_taken_for_the_unnamed_statement() -> None:
    session = _session(Rules(_only_read))
    _up(session, parse("select 1") + SYNC)
    _down(session, b.PARSE_COMPLETE + IDLE)
    assert _up(session, query("explain analyze execute nobody")) == query(REFUSED.decode())


def test_invalid_utf8_is_judged_as_every_effect() -> None:
    session = _session(Rules(_only_read))
    assert REFUSED in _up(session, build_query(b"select '\xff'"))


def test_numbers_do_not_share_a_judgement_where_they_change_the_meaning() -> None:
    def whole_tables(operation: Operation) -> Decision:
        return Decision.DENY if Effect.DELETE_ALL in operation.judged_effects else Decision.ALLOW

    session = _session(Rules(whole_tables))
    assert REFUSED not in _up(session, query("delete from t where 1 = 2"))
    assert REFUSED in _up(session, query("delete from t where 1 = 1"))
    assert REFUSED not in _up(session, query("delete from t where a = 12"))


def test_a_policy_that_raises_denies() -> None:
    class Broken:
        hash = "f" * 64

        def evaluate(self, *_: object) -> Verdict:
            raise ZeroDivisionError

    session = _session(Broken())
    out = session.feed(Side.CLIENT, query("select 1"), NOW)
    assert REFUSED in sent(out, Side.SERVER)
    (event,) = events(out)
    assert event.fields["decision"] == "deny"
    assert event.fields["reason"] == "the policy could not be evaluated (ZeroDivisionError)"


def test_records_are_json_and_never_hold_the_exact_text() -> None:
    session = _session()
    out = session.feed(Side.CLIENT, query("select 'hunter2', 4111111111111111"), NOW)
    out += session.feed(
        Side.CLIENT, parse("select $1::text") + bind("", "", (b"4111111111111111",)) + execute() + SYNC, NOW
    )
    lines = json.dumps([event.fields for event in events(out)])
    assert "hunter2" not in lines
    assert "4111111111111111" not in lines
    assert len(events(out)) == 2


def test_every_statement_gets_a_result_when_the_session_ends() -> None:
    session = _session()
    session.feed(Side.CLIENT, query("select 1; select 2") + query("select 3"), NOW)
    out = session.closed(Side.CLIENT, NOW)
    assert [event.fields["outcome"] for event in events(out)] == ["aborted"] * 3
    assert out[-1] == Close("the client closed the connection")
    assert session.closed(Side.SERVER, NOW) == []


def test_cut_is_a_fatal_error_of_the_protocol() -> None:
    session = _session()
    out = session.cut("identity expired", NOW)
    fields = parse_fields(sent(out, Side.CLIENT)[5:])
    assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "57P01", "hostagent: session ended: identity expired")
    assert out[-1] == Close("identity expired")
