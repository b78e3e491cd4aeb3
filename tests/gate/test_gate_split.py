"""The same bytes give the same commands, however they are split on the way.

Real conversations with a real PostgreSQL are recorded once and then replayed, cut at every kind of place.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostagent.gate import Gate
from hostagent.inspectors.postgres.cancel import CancelRegistry
from hostagent.model.command import Command, Connect, Forward, Record
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision, MaskContent
from hostagent.wire.postgres.frontend import COPY_DONE, TERMINATE, build_copy_data
from tests.gate.gate_rim import NOW, Relay, Rules, make_context
from tests.gate.gate_wire import SYNC, RawClient, bind, close, describe, execute, parse, query, run

DETECT = (MaskContent("detect", frozenset({"email"})),)


def _decide(operation: Operation) -> Decision:
    return Decision.DENY if "secret" in operation.text else Decision.ALLOW


def _rules(masked: bool) -> Rules:
    return Rules(_decide, DETECT if masked else ())


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
