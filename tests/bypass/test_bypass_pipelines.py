"""Random pipelines over few names, played to the server directly and through a gate that allows: the answers are the same.

Whatever the gate's idea of names and of outstanding requests gets wrong shows here as another answer or a closed session.
"""

from __future__ import annotations

import random

import pytest

from hostagent.model.verdict import Decision
from tests.bypass.bypass_world import World
from tests.gate.gate_wire import SYNC, RawClient, bind, close, describe, execute, parse, query, run

_STATEMENTS = """
select 1
select label from things
select id from people
prepare NAME as select label from things
prepare NAME as select 1
deallocate NAME
execute NAME
execute NAME
declare NAME cursor for select label from things
declare NAME cursor with hold for select id from things
fetch 1 from NAME
fetch all from NAME
close NAME
begin
begin
commit
rollback
savepoint a
rollback to a
select 1/0
select bad bad
deallocate all
close all
discard all
insert into things values (1, 'x')
copy things to stdout
move 1 in NAME
select 1; select 2
select 1; select 1/0; select 2
prepare NAME as select 1; select 1/0
insert into admirers values ('nobody'); prepare NAME as select 1
insert into admirers values ('nobody'); deallocate NAME
create temp table NAME as execute NAME
""".strip().splitlines()
_ASYNCHRONOUS = "SNA"
_OURS = {("E", b"C42501"), ("E", b"C26000"), ("E", b"C34000")}


def _message(dice: random.Random) -> bytes:
    text = dice.choice(_STATEMENTS).replace("NAME", dice.choice("st"))
    statement, portal = dice.choice(["", "s", "t"]), dice.choice(["", "s", "t"])
    makers = (
        lambda: query(text) if dice.random() < 0.5 else SYNC + query(text),
        lambda: run(text),
        lambda: parse(dice.choice(["select 1", "select label from things", "fetch 1 from s"]), statement),
        lambda: bind(statement, portal),
        lambda: bind(statement, portal) + execute(portal, dice.choice([0, 1])),
        lambda: execute(portal, dice.choice([0, 0, 1])),
        lambda: describe(dice.choice("SP"), portal),
        lambda: close(dice.choice("SP"), portal),
        lambda: SYNC,
    )
    return dice.choice(makers)()


def _answers(port: int, script: list[bytes], *, rows: bool) -> list[tuple[str, bytes]]:
    """Return what the server says to ``script``, errors by their SQLSTATE; rows and their shape only where they are the same."""
    found: list[tuple[str, bytes]] = []
    with RawClient(port) as client:
        for data in [*script, query("rollback")]:
            client.send(data + query(""))
            kind = ""
            while kind != "I":  # nothing but the empty query is answered so, whatever became of the rest
                kind, body = client.message()
                if kind == "E":
                    body = next(part for part in body.split(b"\0") if part.startswith(b"C"))
                elif kind in "DT" and not rows:
                    body = b""
                if kind not in _ASYNCHRONOUS:
                    found.append((kind, body))
    return found


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_a_pipeline_is_answered_as_the_server_answers_it(world: World, seed: int, masks: bool) -> None:
    if seed == 0:
        world.fresh()
    dice = random.Random(f"pipelines {seed}")
    script = [b"".join(_message(dice) for _ in range(dice.randrange(1, 6))) + SYNC for _ in range(dice.randrange(2, 6))]
    directly = _answers(world.port, script, rows=not masks)
    with world.relay(lambda _: Decision.ALLOW, masks=masks) as relay:
        governed = _answers(relay.port, script, rows=not masks)
    # Where the server fails too, we may have refused first: a name that stands for another name, or is gone since Bind.
    told = [
        theirs if ours in _OURS and theirs[0] == "E" else ours for ours, theirs in zip(governed, directly, strict=False)
    ]
    assert (told, len(governed)) == (directly, len(directly)), script
