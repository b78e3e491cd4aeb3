"""The same bytes give the same commands, however they are split on the way.

Real conversations with a real PostgreSQL are recorded once and then replayed, cut at every kind of place.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostagent.gate import Gate
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.conversation import Kind
from hostagent.inspectors.postgres.session import Session
from hostagent.model.command import Command, Connect, Forward, Record
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision, MaskContent
from hostagent.wire.postgres.backend import (
    BIND_COMPLETE,
    PARSE_COMPLETE,
    Column,
    build_command_complete,
    build_data_row,
    build_ready,
    build_row_description,
)
from hostagent.wire.postgres.frontend import COPY_DONE, TERMINATE, build_copy_data
from tests.gate.gate_rim import NOW, Relay, Rules, Source, events, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, RawClient, bind, close, describe, execute, parse, query, run

DETECT = (MaskContent("detect", frozenset({"email"})),)


def _decide(operation: Operation) -> Decision:
    return Decision.DENY if "secret" in operation.text else Decision.ALLOW


def _rules(masked: bool) -> Rules:
    return Rules(_decide, DETECT if masked else ())


def _rounds(client: RawClient) -> None:
    """What drivers send again and again, which is taken as one (``rounds``), and everything that may come between."""
    client.ask(parse("select $1::int / $2::int as x, a, b from t order by a limit 3", "r", 23, 23) + SYNC)
    client.ask(parse("select 7 as seven", "q") + SYNC)
    client.ask(parse("select a from t where false", "none") + SYNC)

    def round_of(*values: bytes | None, name: str = "r") -> bytes:
        return bind(name, "", values) + describe("P") + execute() + SYNC

    seven = round_of(name="q")
    for _ in range(3):
        client.ask(round_of(b"10", b"5"))
        client.ask(query("select 7 as seven"))
        client.ask(seven)
        client.ask(round_of(name="none"))
    client.ask(round_of(b"1", b"1") + round_of(b"1", b"0") + seven + round_of(None, b"1"), 4)
    client.ask(parse("select nothing from nowhere", "bad") + bind("bad") + seven + seven, 2)
    client.ask(query("begin"))
    client.ask(seven)
    client.ask(execute() + SYNC)  # the unnamed portal lives on: it has run to its end
    client.ask(bind("q", "p") + describe("P", "p") + execute("p") + SYNC + seven, 2)
    client.ask(round_of(b"1", b"0"))
    client.ask(seven + execute() + SYNC, 2)
    client.ask(query("rollback") + seven + execute() + SYNC, 3)
    client.ask(seven + query("create temporary table u (n int)") + seven, 3)
    client.ask(query("select 7 as seven; select 7 as seven") + query("drop table u; select 7 as seven"), 2)


def _converse(client: RawClient) -> None:
    client.ask(query("create temporary table t (a int, b text)"))
    client.send(query("copy t from stdin"))
    while client.message()[0] != "G":
        pass
    for number in range(50):
        client.send(build_copy_data(b"%d\tuser%d@example.com\n" % (number, number)))
    client.ask(COPY_DONE)
    client.ask(query("select 1; select 'secret'"))
    client.ask(query("select * from t; select 2; begin; select 1/0"))
    client.ask(run("select 'secret'") + run("select 3") + SYNC)
    client.ask(query("rollback") + query(""), 2)
    client.ask(query("copy t to stdout"))
    client.ask(
        parse("select * from t where a > $1", "s", 23)
        + describe("S", "s")
        + bind("s", "p", (b"10",))
        + execute("p", 7)
        + execute("p", 7)
        + close("P", "p")
        + SYNC
    )
    client.ask(bind("s", "", (b"40",), binary=True) + describe("P") + execute() + SYNC)
    client.ask(query("prepare x as select 'me@example.com'::text; execute x; deallocate x; execute x"))
    client.ask(bind("nowhere") + execute() + SYNC + query("listen c; notify c, 'a@example.com'"), 2)
    _rounds(client)
    client.send(TERMINATE)


def _replay(pieces: list[tuple[Side, bytes]], masked: bool) -> tuple[dict[Side, bytes], list[object]]:
    gate = Gate(make_context(_rules(masked), cancel_keys=CancelRegistry(), tls=False))
    written = {Side.CLIENT: b"", Side.SERVER: b""}
    rest: list[object] = []
    for side, data in pieces:
        commands: list[Command] = gate.feed(side, data, NOW) if data else gate.closed(side, NOW)
        if any(isinstance(command, Connect) for command in commands):
            commands = commands + gate.connected(NOW)
        for command in commands:
            if isinstance(command, Forward):
                written[command.side] += command.data
            else:
                rest.append(command.event if isinstance(command, Record) else command)
    return written, rest


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "masked"])
def recorded(request: pytest.FixtureRequest, postgres_port: int) -> tuple[bool, list[tuple[Side, bytes]]]:
    masked = bool(request.param)
    with Relay(postgres_port, lambda: make_context(_rules(masked))) as relay, RawClient(relay.port) as client:
        _converse(client)
        relay.ended.wait(10)
    return masked, relay.fed


def test_byte_by_byte_is_the_same_as_whole(recorded: tuple[bool, list[tuple[Side, bytes]]]) -> None:
    masked, pieces = recorded
    single = [(side, data[at : at + 1]) for side, data in pieces for at in range(len(data))] + [
        piece for piece in pieces if not piece[1]
    ]
    assert _replay(single, masked) == _replay(pieces, masked)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=40))
def test_any_split_is_the_same_as_whole(recorded: tuple[bool, list[tuple[Side, bytes]]], sizes: list[int]) -> None:
    masked, pieces = recorded
    cut: list[tuple[Side, bytes]] = []
    turn = 0
    for side, data in pieces:
        if not data:
            cut.append((side, data))
        while data:
            size = sizes[turn % len(sizes)]
            turn += 1
            cut.append((side, data[:size]))
            data = data[size:]
    assert _replay(cut, masked) == _replay(pieces, masked)


def test_the_conversation_is_a_rich_one(recorded: tuple[bool, list[tuple[Side, bytes]]]) -> None:
    masked, pieces = recorded
    written, rest = _replay(pieces, masked)
    assert (b"user7@example.com" in written[Side.CLIENT]) is not masked
    assert (b"a@example.com" in written[Side.CLIENT]) is not masked
    assert b"42501" in written[Side.CLIENT]
    assert len(rest) > 30


def test_what_drivers_repeat_is_taken_as_one() -> None:
    context = make_context(Rules(lambda _: Decision.ALLOW))
    _, session = make_session(context)
    talk = session._talk
    shape = build_row_description((Column(b"a", 0, 0, 23, 4, -1, 0),))
    rest = shape + build_data_row((b"1",)) + build_command_complete("SELECT 1") + build_ready(b"I")
    session.feed(Side.CLIENT, parse("select 1", "s") + SYNC, NOW)
    session.feed(Side.SERVER, PARSE_COMPLETE + build_ready(b"I"), NOW)
    asked = bind("s") + describe("P") + execute() + SYNC
    kinds = []
    for _ in range(2):
        out = session.feed(Side.CLIENT, asked, NOW)
        assert sent(out, Side.SERVER) == asked
        kinds.append([entry.kind for entry in talk.queue])
        out = session.feed(Side.SERVER, BIND_COMPLETE + rest, NOW)
        assert sent(out, Side.CLIENT) == BIND_COMPLETE + rest
        (result,) = events(out, EventKind.RESULT)
        assert (result.fields["tag"], result.fields["rows"], talk.names.portals) == ("SELECT 1", 1, {})
    assert kinds == [[Kind.ROUND], [Kind.ROUND]]
    assert talk.names.statements[b"s"].subject.ruling.answer is not None  # type: ignore[union-attr]


def test_a_round_under_a_ruling_that_is_no_longer_good_is_judged_message_by_message() -> None:
    source = Source(Rules(lambda _: Decision.ALLOW))
    _, session = make_session(make_context(source))
    session.feed(Side.CLIENT, parse("select 1", "s") + SYNC, NOW)
    session.feed(Side.SERVER, PARSE_COMPLETE + build_ready(b"I"), NOW)
    source.current = Rules(lambda _: Decision.DENY)  # type: ignore[assignment]
    out = session.feed(Side.CLIENT, bind("s") + describe("P") + execute() + SYNC, NOW)
    assert [event.fields["decision"] for event in events(out, EventKind.STATEMENT)] == ["deny"]
    assert b"select 1" not in sent(out, Side.SERVER)
    assert [entry.kind for entry in session._talk.queue] == [Kind.PARSE, Kind.SYNC]


ROUND_TAIL = describe("P") + execute() + SYNC
ONE = build_row_description((Column(b"a", 0, 0, 23, 4, -1, 0),))


def test_a_bind_without_a_body_is_the_protocol_violation_that_it_is() -> None:
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    session.feed(Side.CLIENT, parse("select 1") + SYNC, NOW)
    session.feed(Side.SERVER, PARSE_COMPLETE + build_ready(b"I"), NOW)
    out = session.feed(Side.CLIENT, b"B\0\0\0\x04" + ROUND_TAIL, NOW)
    assert sent(out, Side.SERVER) == b""
    assert b"08P01" in sent(out, Side.CLIENT)
    assert len(events(out, EventKind.REFUSAL)) == 1


def _asked_twice() -> Session:
    """Return a session that has seen what ``select 1`` answers, and asked it again."""
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    whole = ONE + build_data_row((b"1",)) + build_command_complete("SELECT 1") + build_ready(b"I")
    session.feed(Side.CLIENT, query("select 1"), NOW)
    session.feed(Side.SERVER, whole, NOW)
    session.feed(Side.CLIENT, query("select 1"), NOW)
    return session


def test_rows_before_a_second_description_are_counted_too() -> None:
    session = _asked_twice()
    session.feed(Side.SERVER, ONE + build_data_row((b"1",)), NOW)
    rest = ONE + build_data_row((b"2",)) + build_command_complete("SELECT 1") + build_ready(b"I")
    (result,) = events(session.feed(Side.SERVER, rest, NOW), EventKind.RESULT)
    assert (result.fields["rows"], result.fields["bytes"]) == (2, 2 * len(build_data_row((b"1",))))


def test_what_came_before_a_broken_completion_reaches_the_client() -> None:
    session = _asked_twice()
    out = session.feed(Side.SERVER, ONE + build_command_complete("SELECT\0 1") + build_ready(b"I"), NOW)
    assert sent(out, Side.CLIENT).startswith(ONE)
    assert b"08P01" in sent(out, Side.CLIENT)
