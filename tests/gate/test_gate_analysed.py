"""A long statement is analysed elsewhere: the gate stands at it, and goes on as if it had known at once."""

from __future__ import annotations

import pytest

from hostagent.inspectors.postgres.session import Session
from hostagent.model.command import Analyse, Close, Command, Hold
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision
from hostagent.sql import analyse, misunderstood
from hostagent.wire.postgres.frontend import TERMINATE
from tests.gate.gate_rim import NOW, Rules, events, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, bind, execute, parse, query

LONG = "select " + ",".join(f"a{number}" for number in range(40))


def decided(operation: Operation) -> Decision:
    if "drop" in operation.text:
        return Decision.DENY
    return Decision.HOLD if "hold" in operation.text else Decision.ALLOW


def session(inline: int = 64) -> Session:
    desk, _ = make_session(make_context(Rules(decided)))
    return Session(desk, {"database": "postgres", "user": "app"}, inline=inline)


def served(made: Session, data: bytes, chunk: int = 0) -> list[Command]:
    """Return all commands that come of ``data``, its long statements analysed in between."""
    done: list[Command] = []
    for at in range(0, len(data), chunk or len(data)):
        out = made.feed(Side.CLIENT, data[at : at + (chunk or len(data))], NOW)
        while out and isinstance(out[-1], Analyse):
            text = out.pop().text
            done += out
            out = made.analysed(analyse(text.decode()), NOW)
        done += out
    return done


STREAM = (
    query("select 1")
    + query(LONG)
    + parse(LONG, "s") + bind("", "s", ()) + execute() + SYNC
    + query("drop table x; " + LONG)
    + query(LONG.replace("a0", "b0"))
)  # fmt: skip


@pytest.mark.parametrize("chunk", [0, 7, 100, 1000])
def test_everything_is_as_if_it_had_been_analysed_on_the_spot(chunk: int) -> None:
    beside, at_once = served(session(), STREAM, chunk), served(session(1 << 20), STREAM)
    assert sent(beside, Side.SERVER) == sent(at_once, Side.SERVER)
    assert events(beside, EventKind.STATEMENT) == events(at_once, EventKind.STATEMENT)


def test_a_short_one_whose_tree_is_large_is_analysed_elsewhere_too() -> None:
    text = f"update t set ({','.join('a' * 300)})=(select {','.join('b' * 200)})"
    out = session(2048).feed(Side.CLIENT, query(text), NOW)
    assert out == [Analyse(text.encode())]


def test_nothing_after_the_statement_is_looked_at_until_it_is_understood() -> None:
    made = session()
    out = made.feed(Side.CLIENT, query("select 1") + query(LONG) + query("drop table x"), NOW)
    assert (sent(out, Side.SERVER), out[-1]) == (query("select 1"), Analyse(LONG.encode()))
    assert made.feed(Side.CLIENT, query("select 2"), NOW) == []
    out = made.analysed(misunderstood(LONG.encode(), "no"), NOW)
    assert [event.fields["completeness"] for event in events(out, EventKind.STATEMENT)] == ["opaque", "full", "full"]
    assert sent(out, Side.SERVER).startswith(query(LONG))


def test_a_held_long_statement_runs_once_released() -> None:
    made = session()
    long = "select 'hold'," + LONG[7:]
    out = served(made, query(long) + query("select 2"))
    assert [type(each) for each in out if isinstance(each, Hold)] == [Hold]
    assert sent(out, Side.SERVER) == b""
    assert sent(made.release(None, NOW), Side.SERVER) == query(long) + query("select 2")


def test_a_client_that_leaves_meanwhile_runs_nothing() -> None:
    made = session()
    made.feed(Side.CLIENT, query(LONG) + TERMINATE, NOW)
    assert isinstance(made.closed(Side.CLIENT, NOW)[-1], Close)
    assert made.analysed(analyse(LONG), NOW) == []
