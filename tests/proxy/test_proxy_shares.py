"""No workload holds the loop: what costs much is done in steps, and others come in between."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from hostagent.gate import Gate
from hostagent.model.command import Again, Analyse, Command, Forward
from hostagent.model.flow import Endpoint, Flow, Side
from hostagent.proxy.session import STEP, Session
from hostagent.proxy.shares import SHARE_S, Shares
from hostagent.proxy.turn import Turn
from hostagent.sql import Analysis
from tests.proxy.test_proxy_session import ListJournal, ScriptedGate


class Outside:
    """Nothing around but somebody who takes texts."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []

    def analyse(self, session: Session, text: bytes) -> None:
        self.texts.append(text)

    def keeps(self, session: Session, size: int) -> None:
        pass

    def closed(self, session: Session) -> None:
        pass


class Stage:
    """Sessions whose every step takes ``cost`` seconds of a clock of the test's; ``steps`` tells who was served."""

    def __init__(self, cost: float) -> None:
        loop = asyncio.get_running_loop()
        self.now = 0.0
        self.cost = cost
        self.steps: list[tuple[str, bytes]] = []
        self.shares = Shares(loop.call_soon)
        self.turn = Turn(ListJournal(), loop.call_soon)
        self.outside = Outside()

    def session(self, workload: str) -> Session:
        def feed(side: Side, data: bytes) -> list[Command]:
            self.steps.append((workload, data))
            self.now += self.cost
            if data.startswith(b"dense"):
                return [Again(side)]
            return [Analyse(data)] if data.startswith(b"long") else []

        gate = ScriptedGate(feed)
        gate.analysed = lambda _analysis, _now: [Forward(Side.SERVER, b"")]  # type: ignore[attr-defined]
        flow = Flow(workload, workload, workload, Endpoint("192.0.0.8", 1), Endpoint("10.0.0.5", 1))
        return Session(
            flow,
            cast("Gate", gate),
            cast("Any", self.outside),
            self.turn,
            clock=lambda: self.now,
            share=self.shares.of(workload),
        )


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_has_used_its_share_waits_for_the_others_with_all_its_sessions() -> None:
    stage = Stage(SHARE_S)
    greedy, also, modest = stage.session("greedy"), stage.session("greedy"), stage.session("modest")
    greedy.received(Side.CLIENT, b"x" * (3 * STEP))
    also.received(Side.CLIENT, b"y")
    modest.received(Side.CLIENT, b"z")
    assert stage.steps == [("greedy", b"x" * STEP), ("modest", b"z")]
    await turns(10)
    assert sorted(stage.steps[2:]) == [("greedy", b"x" * STEP)] * 2 + [("greedy", b"y")]
    assert stage.shares.longest <= 2 * SHARE_S


async def test_what_is_cheap_is_fed_at_once_and_in_order() -> None:
    stage = Stage(0.0)
    session = stage.session("bot")
    data = bytes(range(256)) * 100
    session.received(Side.CLIENT, data)
    assert b"".join(step for _, step in stage.steps) == data


async def test_content_of_the_targets_is_fed_in_one_step_and_what_comes_behind_it_is_not() -> None:
    stage = Stage(0.0)
    session = stage.session("bot")
    left = 50_000

    def ahead() -> int:
        return left - sum(len(step) for _, step in stage.steps)

    session.gate.ahead = ahead  # type: ignore[method-assign]
    session.received(Side.SERVER, b"x" * left + b"y" * (5 * STEP))
    assert [len(step) for _, step in stage.steps] == [left, 4 * STEP, STEP]
    session.received(Side.CLIENT, b"z" * (2 * STEP))
    assert [len(step) for _, step in stage.steps[3:]] == [STEP, STEP]


async def test_the_end_comes_after_what_waits() -> None:
    stage = Stage(2 * SHARE_S)
    session = stage.session("bot")
    session.received(Side.CLIENT, b"x" * (2 * STEP))
    session.ended(Side.CLIENT)
    assert not session.over
    await turns(10)
    assert len(stage.steps) == 2
    assert session.over


async def test_nothing_of_the_client_is_fed_while_its_statement_is_analysed_and_the_server_goes_on() -> None:
    stage = Stage(0.0)
    session = stage.session("bot")
    session.received(Side.CLIENT, b"long" + b"x" * STEP)
    session.received(Side.CLIENT, b"more")
    session.received(Side.SERVER, b"answer")
    await turns(5)
    assert [step[:6] for _, step in stage.steps] == [b"longxx", b"answer"]
    session.analysed(Analysis(()))
    await turns(5)
    assert [step[:6] for _, step in stage.steps] == [b"longxx", b"answer", b"xxxx", b"more"]


async def test_what_the_gate_has_not_looked_at_comes_before_what_arrives_later_and_after_the_others() -> None:
    stage = Stage(SHARE_S)
    greedy, modest = stage.session("greedy"), stage.session("modest")
    greedy.received(Side.SERVER, b"dense")
    greedy.received(Side.SERVER, b"later")
    modest.received(Side.CLIENT, b"z")
    await turns(10)
    assert stage.steps == [("greedy", b"dense"), ("modest", b"z"), ("greedy", b""), ("greedy", b"later")]
    greedy.received(Side.SERVER, b"dense" + b"x" * STEP)
    greedy.ended(Side.SERVER)
    await turns(10)
    assert stage.steps[4:] == [("greedy", b"dense" + b"x" * STEP), ("greedy", b"")]
    assert greedy.over


async def test_a_transport_that_is_behind_is_not_read() -> None:
    stage = Stage(2 * SHARE_S)
    session = stage.session("bot")
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().create_connection(lambda: session.client, sock=ours)
    assert session.client.transport is not None
    session.received(Side.CLIENT, b"x" * (2 * STEP))
    assert not session.client.transport.is_reading()
    await turns(10)
    assert session.client.transport.is_reading()
    session.cut("end of test")
    theirs.close()
    while session.client.transport is not None:
        await asyncio.sleep(0.01)
