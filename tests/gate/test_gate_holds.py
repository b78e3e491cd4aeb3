"""A held operation is paused in place and released exactly once, for exactly what the human saw."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import psycopg
import pytest

from hostagent.approval import render
from hostagent.gate.desk import GateDesk
from hostagent.gate.gate import Gate
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.inspectors.postgres.client import HOLD_BUFFER
from hostagent.inspectors.postgres.session import Session
from hostagent.model.command import Close, Command, Forward, Hold, Withdraw
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision
from hostagent.wire.postgres import backend as b
from hostagent.wire.postgres.backend import parse_fields
from hostagent.wire.postgres.frontend import TERMINATE
from tests.gate.gate_rim import NOW, Relay, Rules, Source, events, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, RawClient, bind, execute, parse, query, run

T = TypeVar("T")


def _hold(operation: Operation) -> Decision:
    return Decision.HOLD if "delete" in operation.verb or "delete" in operation.text.lower() else Decision.ALLOW


def _relay(port: int) -> Relay:
    return Relay(port, lambda: make_context(Rules(_hold)))


def _connect(port: int, **options: object) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres", **options)  # type: ignore[arg-type]


def _meanwhile(step: Callable[[], T]) -> tuple[threading.Thread, list[T | BaseException]]:
    found: list[T | BaseException] = []

    def body() -> None:
        try:
            found.append(step())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, found


@pytest.fixture
def table(postgres_port: int) -> str:
    with _connect(postgres_port, autocommit=True) as direct:
        direct.execute("drop table if exists held")
        direct.execute("create table held (a int)")
        direct.execute("insert into held values (1), (2), (3)")
    return "held"


def test_approved_delete_commits_in_the_same_transaction(postgres_port: int, table: str) -> None:
    with _relay(postgres_port) as relay:
        notices: list[str] = []
        connection = _connect(relay.port)
        connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))
        connection.execute("insert into held values (4)")
        thread, found = _meanwhile(lambda: connection.execute("delete from held").rowcount)
        relay.answer(granted=True)
        thread.join(10)
        connection.commit()
        connection.close()
        relay.ended.wait(10)
    assert found == [4]
    assert [notice.partition(", ticket ")[0] for notice in notices] == [
        "hostagent: held by rule hold-rule, waiting for approval by group approvers"
    ]
    with _connect(postgres_port) as direct:
        assert direct.execute("select count(*) from held").fetchone() == (0,)
    story = [
        (event.kind.value, event.fields.get("decision") or event.fields.get("granted") or event.fields.get("tag"))
        for event in relay.events()
        if event.kind is not EventKind.LOGIN
    ]
    assert story == [
        ("statement", "allow"),
        ("result", "BEGIN"),
        ("statement", "allow"),
        ("result", "INSERT 0 1"),
        ("statement", "hold"),
        ("hold", None),
        ("answer", True),
        ("result", "DELETE 4"),
        ("statement", "allow"),
        ("result", "COMMIT"),
    ]


def test_bind_values_are_shown_and_a_refusal_leaves_the_session_alive(postgres_port: int, table: str) -> None:
    with _relay(postgres_port) as relay:
        connection = _connect(relay.port, autocommit=True)
        thread, found = _meanwhile(lambda: connection.execute("delete from held where a = %s or a = %b", (7, 1)))
        relay.answer(granted=False, reason="not today")
        thread.join(10)
        assert isinstance(found[0], psycopg.errors.InsufficientPrivilege)
        assert str(found[0]).startswith("hostagent: denied by alice: not today")
        assert connection.execute("select count(*) from held").fetchone() == (3,)
        connection.close()
        relay.ended.wait(10)
    (ticket,) = relay.tickets
    assert [(each.text, each.parameters) for each in ticket.operations] == [
        ("delete from held where a = $1 or a = $2", ("7", "1"))
    ]
    assert (ticket.target, ticket.database, ticket.user, ticket.rule, ticket.approvers) == (
        "crm",
        "postgres",
        "postgres",
        "hold-rule",
        "approvers",
    )
    results = [event.fields for event in relay.events(EventKind.RESULT)]
    assert [(result["outcome"], result["sqlstate"]) for result in results] == [("denied", "42501"), ("ok", "")]


def test_cancel_request_withdraws_the_ticket_and_ends_the_statement(postgres_port: int, table: str) -> None:
    with _relay(postgres_port) as relay:
        connection = _connect(relay.port)
        connection.execute("select 1")
        thread, found = _meanwhile(lambda: connection.execute("delete from held"))
        assert relay.held.wait(10)
        connection.cancel_safe(timeout=10)
        thread.join(10)
        assert isinstance(found[0], psycopg.errors.QueryCanceled)
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
        connection.rollback()
        assert connection.execute("select count(*) from held").fetchone() == (3,)
        connection.close()
        relay.ended.wait(10)
    assert [command.reason for command in relay.commands if isinstance(command, Withdraw)] == [
        "cancelled by the client"
    ]
    assert "cancelled" in [event.fields["outcome"] for event in relay.events(EventKind.RESULT)]


def test_cancel_reaches_a_running_statement(postgres_port: int) -> None:
    with _relay(postgres_port) as relay:
        connection = _connect(relay.port, autocommit=True)
        thread, found = _meanwhile(lambda: connection.execute("select pg_sleep(30)"))
        with _connect(postgres_port, autocommit=True) as direct:
            for _ in range(2000):
                active = (
                    "select count(*) from pg_stat_activity where query = 'select pg_sleep(30)' and state = 'active'"
                )
                if direct.execute(active).fetchone() == (1,):
                    break
        connection.cancel_safe(timeout=10)
        thread.join(10)
        assert isinstance(found[0], psycopg.errors.QueryCanceled)
        connection.close()
        relay.ended.wait(10)
    assert [event.fields["outcome"] for event in relay.events(EventKind.RESULT)] == ["cancelled"]


def test_client_that_leaves_voids_the_ticket_and_nothing_runs(postgres_port: int, table: str) -> None:
    with _relay(postgres_port) as relay:
        client = RawClient(relay.port)
        client.send(query("delete from held"))
        assert relay.held.wait(10)
        client.sock.close()
        assert relay.ended.wait(10)
    assert [type(command).__name__ for command in relay.commands if isinstance(command, Withdraw | Close)] == [
        "Withdraw",
        "Close",
    ]
    assert [event.fields["outcome"] for event in relay.events(EventKind.RESULT)] == ["withdrawn"]
    assert [event.fields["granted"] for event in relay.events(EventKind.ANSWER)] == [False]
    with _connect(postgres_port) as direct:
        assert direct.execute("select count(*) from held").fetchone() == (3,)


def test_pipeline_around_a_hold_keeps_its_order(postgres_port: int, table: str) -> None:
    with _relay(postgres_port) as relay, RawClient(relay.port) as client:
        client.send(
            query("select 1") + query("delete from held") + query("select count(*) from held") + run("select 2") + SYNC
        )
        first = client.until_ready()
        assert [kind for kind, _ in first] == ["N", "T", "D", "C", "Z"]
        relay.answer(granted=True)
        rest = client.until_ready(3)
        assert [kind for kind, _ in rest] == ["C", "Z", "T", "D", "C", "Z", "1", "2", "D", "C", "Z"]
        assert rest[3][1].endswith(b"0")
        client.send(TERMINATE)


def test_execute_is_held_after_parse_and_bind_went_through(postgres_port: int, table: str) -> None:
    with _relay(postgres_port) as relay, RawClient(relay.port) as client:
        client.send(parse("delete from held where a > $1", "d", 23) + bind("d", "", (b"1",)) + execute() + SYNC)
        assert client.message()[0] == "N"
        relay.answer(granted=True)
        answer = client.until_ready()
        assert [kind for kind, _ in answer] == ["1", "2", "C", "Z"]
        assert answer[2][1] == b"DELETE 2\0"
        client.send(TERMINATE)


# -- without a server: time, limits, policy that changes -----------------------------------------------------------------


def _gate(rules: object) -> tuple[Gate, GateDesk, Session]:
    """Return a gate whose sign-in is behind it."""
    context = make_context(rules, cancel_keys=CancelRegistry())
    desk, session = make_session(context)
    gate = Gate(context)
    gate._desk = desk
    gate._inspector = _Signed(session)  # type: ignore[assignment]
    return gate, desk, session


class _Signed:
    """What a gate needs of an inspector, for a session that is signed in."""

    def __init__(self, session: Session) -> None:
        self.release = session.release
        self.notice = session.notice

    def cancel_wanted(self) -> bool:
        return False


def _due(gate: Gate) -> float | None:
    return gate.deadline


def _ticket(commands: list[Command]) -> str:
    return next(command.ticket.ticket_id for command in commands if isinstance(command, Hold))


def test_notices_come_at_once_and_every_five_seconds_and_then_it_times_out() -> None:
    gate, _desk, session = _gate(Rules(_hold))
    out = session.feed(Side.CLIENT, query("delete from t"), NOW)
    assert [type(command).__name__ for command in out] == ["Record", "Record", "Hold", "Forward"]
    assert sent(out, Side.SERVER) == b""
    assert gate.deadline == NOW + 5
    assert gate.tick(NOW + 1) == []
    told = gate.tick(NOW + 5)
    assert parse_fields(sent(told, Side.CLIENT)[5:])["M"].endswith("it ends in 55 s")
    assert gate.deadline == NOW + 10
    out = gate.tick(NOW + 60)
    assert [type(command).__name__ for command in out] == ["Record", "Withdraw", "Forward"]
    assert b"refused" in sent(out, Side.SERVER)
    assert b"delete" not in sent(out, Side.SERVER)
    assert not _due(gate)
    syntax = b.build_error({"S": "ERROR", "V": "ERROR", "C": "42601", "M": "syntax error"})
    answer = session.feed(Side.SERVER, syntax + b.build_ready(b"I"), NOW + 60)
    fields = parse_fields(sent(answer, Side.CLIENT)[5:-6])
    assert (fields["C"], fields["M"]) == ("42501", "hostagent: denied: held, and nobody answered in time")


def test_an_answer_counts_once_and_only_for_its_own_ticket() -> None:
    from hostagent.model.ticket import Answer

    gate, _, session = _gate(Rules(_hold))
    ticket = _ticket(session.feed(Side.CLIENT, query("delete from t"), NOW))
    assert gate.resume(Answer("another", granted=True, by="alice"), NOW) == []
    out = gate.resume(Answer(ticket, granted=True, by="alice"), NOW)
    assert sent(out, Side.SERVER) == query("delete from t")
    assert gate.resume(Answer(ticket, granted=True, by="alice"), NOW) == []
    answer = b.build_command_complete("DELETE 1") + b.build_ready(b"I")
    session.feed(Side.SERVER, answer, NOW)
    again = session.feed(Side.CLIENT, query("delete from t"), NOW)
    assert sent(again, Side.SERVER) == b""
    assert _ticket(again) != ticket


def test_a_policy_that_denies_meanwhile_wins_over_the_approval() -> None:
    from hostagent.model.ticket import Answer

    source = Source(Rules(_hold))
    gate, _, session = _gate(source)
    ticket = _ticket(session.feed(Side.CLIENT, query("delete from t"), NOW))
    source.current = Rules(lambda _: Decision.DENY)
    out = gate.resume(Answer(ticket, granted=True, by="alice"), NOW)
    assert b"delete" not in sent(out, Side.SERVER)


def test_approval_is_for_the_statement_the_name_stood_for() -> None:
    """The prepared statement is taken back (its pipeline failed) while EXECUTE waits: what would run is not what was shown."""
    from hostagent.model.ticket import Answer

    gate, _, session = _gate(Rules(lambda op: Decision.HOLD if op.verb == "execute" else Decision.ALLOW))
    out = session.feed(Side.CLIENT, query("prepare p as delete from t where a = 1") + query("execute p"), NOW)
    ticket = _ticket(out)
    failed = b.build_error({"S": "ERROR", "V": "ERROR", "C": "42P01", "M": "no t"}) + b.build_ready(b"I")
    session.feed(Side.SERVER, failed, NOW)
    out = gate.resume(Answer(ticket, granted=True, by="alice"), NOW)
    assert b"execute" not in sent(out, Side.SERVER)


def test_what_follows_a_held_operation_is_not_read_but_bounded() -> None:
    _, _, session = _gate(Rules(_hold))
    session.feed(Side.CLIENT, query("delete from t") + query("drop table t"), NOW)
    out = session.feed(Side.CLIENT, query("select 1"), NOW)
    assert out == []
    out = session.feed(Side.CLIENT, query("x" * HOLD_BUFFER), NOW)
    assert [type(command).__name__ for command in out if not isinstance(command, Forward)][-2:] == ["Record", "Close"]
    assert parse_fields(sent(out, Side.CLIENT)[5:])["C"] == "53400"
    assert any(isinstance(command, Withdraw) for command in out)


def test_terminate_behind_a_held_operation_withdraws_it() -> None:
    _, _, session = _gate(Rules(_hold))
    session.feed(Side.CLIENT, query("delete from t"), NOW)
    out = session.feed(Side.CLIENT, TERMINATE, NOW)
    assert [type(command).__name__ for command in out if not isinstance(command, Forward)] == [
        "Record",
        "Withdraw",
        "Record",
        "Close",
    ]
    assert [event.kind for event in events(out)] == [EventKind.ANSWER, EventKind.RESULT]
    assert sent(out, Side.SERVER) == b""


def test_a_hold_waits_for_the_end_of_a_message_that_is_half_sent() -> None:
    _, _, session = _gate(Rules(_hold))
    row = b.build_data_row((b"x" * 100,))
    session.feed(Side.CLIENT, query("select big"), NOW)
    session.feed(Side.SERVER, b.build_row_description((b.Column(b"x", 0, 0, 25, -1, -1, 0),)) + row[:50], NOW)
    out = session.feed(Side.CLIENT, query("delete from t"), NOW)
    assert sent(out, Side.CLIENT) == b""
    out = session.feed(Side.SERVER, row[50:], NOW)
    assert sent(out, Side.CLIENT)[: len(row) - 50] == row[50:]
    assert sent(out, Side.CLIENT)[len(row) - 50 :][:1] == b"N"


def test_whoever_approves_sees_what_was_set_before_it(postgres_port: int, table: str) -> None:
    """The path decides which table of that name it is: shown, approved and run must be the same one."""
    with _relay(postgres_port) as relay, RawClient(relay.port) as client:
        for path in ("'first'", "'second'", "hidden, public"):
            client.ask(query(f"set search_path = {path}"))
        client.ask(query("select set_config('datestyle', 'DMY', false)"))
        client.send(query("delete from held"))
        relay.answer(granted=True)
        client.until_ready()
        client.send(TERMINATE)
    (ticket,) = relay.tickets
    told = "search_path = first; search_path = second; search_path = hidden, public; datestyle = DMY"
    assert ticket.operations[0].attributes["settings"] == told
    assert f"Set before  {told}" in render(ticket, ticket.created_at)
