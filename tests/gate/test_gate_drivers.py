"""Ordinary drivers against a real PostgreSQL through the gate: results equal to direct access."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable

import asyncpg
import psycopg
import pytest

from hostagent.gate import SessionContext
from hostagent.model.event import EventKind
from hostagent.model.operation import Effect, Operation
from hostagent.model.verdict import Decision
from hostagent.wire.postgres.frontend import TERMINATE, FunctionCall, build_copy_data, build_function_call
from tests.gate.gate_rim import Relay, Rules, Source, make_context
from tests.gate.gate_wire import SYNC, RawClient, query

Context = Callable[[], SessionContext]


def _allow() -> SessionContext:
    return make_context(Rules(lambda _: Decision.ALLOW))


def _psycopg(port: int) -> list[object]:
    found: list[object] = []
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        connection.execute("create temporary table d (a int, b text, c bytea, e numeric, f timestamptz, g uuid)")
        for number in range(8):  # beyond psycopg's threshold for preparing
            connection.execute(
                "insert into d values (%s, %s, %s, %s, now(), gen_random_uuid())", (number, "x", b"\0\xff", 1.5)
            )
        found.append(connection.execute("select a, b, c, e from d order by a", binary=True).fetchall())
        with connection.cursor().copy("copy d (a, b) from stdin") as copy:
            for number in range(100, 1100):
                copy.write_row((number, "é" * 10))
        with connection.cursor().copy("copy (select a, b from d order by a) to stdout (format binary)") as copy:
            found.append(b"".join(bytes(piece) for piece in copy))
        with connection.cursor("c") as cursor:
            cursor.itersize = 7
            found.append(list(cursor.execute("select a from d order by a")))
        found.append(len(connection.execute("select repeat('x', 10000000)").fetchone()[0]))  # type: ignore[index]
        connection.commit()
        with connection.pipeline():
            first = connection.execute("select 1")
            second = connection.execute("select %s::text", ("y",))
            found += [first.fetchall(), second.fetchall()]
        try:
            connection.execute("select 1/0")
        except psycopg.errors.DivisionByZero as error:
            found.append(error.sqlstate)
        connection.rollback()
        try:
            with connection.cursor().copy("copy pg_temp.d (a) from stdin") as copy:
                copy.write("not a number\n")
        except psycopg.errors.Error as error:
            found.append(error.sqlstate)
        connection.rollback()
        connection.execute("listen ch")
        connection.execute("notify ch, 'hello'")
        connection.commit()
        found.append([(note.channel, note.payload) for note in connection.notifies(timeout=5, stop_after=1)])
    return found


async def _asyncpg(port: int) -> list[object]:
    found: list[object] = []
    connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres", ssl=False)
    await connection.execute("create temporary table d (a int, b text, e numeric)")
    await connection.executemany("insert into d values ($1, $2, $3)", [(number, "x", 1) for number in range(50)])
    found.append([tuple(row) for row in await connection.fetch("select * from d where a < $1 order by a", 5)])
    statement = await connection.prepare("select a from d where b = $1 order by a")
    found.append([row["a"] for row in await statement.fetch("x")])
    async with connection.transaction():
        found.append([row["a"] async for row in connection.cursor("select a from d order by a", prefetch=7)])
    await connection.copy_records_to_table("d", records=[(number, "y", None) for number in range(20)])
    found.append(await connection.fetchval("select count(*) from d"))
    try:
        await connection.fetch("select 1/$1::int", 0)
    except asyncpg.DivisionByZeroError as error:
        found.append(error.sqlstate)
    heard: asyncio.Queue[str] = asyncio.Queue()
    await connection.add_listener("ch", lambda *event: heard.put_nowait(event[3]))
    await connection.execute("notify ch, 'hello'")
    found.append(await asyncio.wait_for(heard.get(), 5))
    await connection.close()
    return found


def test_psycopg_gets_what_it_gets_directly(postgres_port: int) -> None:
    with Relay(postgres_port, _allow) as relay:
        governed = _psycopg(relay.port)
        relay.ended.wait(10)
    assert governed == _psycopg(postgres_port)
    outcomes = {event.fields["outcome"] for event in relay.events(EventKind.RESULT)}
    assert outcomes == {"ok", "error"}
    opened = [event.fields["statement"] for event in relay.events(EventKind.STATEMENT)]
    ended = [event.fields["statement"] for event in relay.events(EventKind.RESULT)]
    assert sorted(map(str, opened)) == sorted(map(str, ended))
    assert len(set(opened)) == len(opened)


def test_asyncpg_gets_what_it_gets_directly(postgres_port: int) -> None:
    with Relay(postgres_port, _allow) as relay:
        governed = asyncio.run(_asyncpg(relay.port))
        relay.ended.wait(10)
    assert governed == asyncio.run(_asyncpg(postgres_port))
    parameters = [event.fields["parameters"] for event in relay.events(EventKind.STATEMENT)]
    assert ["49", "x", "1"] in parameters  # binary, decoded by the types the server told


def test_psql_gets_what_it_gets_directly(postgres_port: int) -> None:
    script = "\\set ON_ERROR_STOP 0\nselect 1;\nbegin;\nselect 1/0;\nselect 2;\nrollback;\n\\d pg_class\n\\copy (select 1) to stdout\n"

    def run(port: int) -> str:
        command = ["psql", "-X", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-At", "postgres"]
        done = subprocess.run(
            command,
            input=script,
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        return done.stdout + done.stderr

    with Relay(postgres_port, _allow) as relay:
        governed = run(relay.port)
    assert governed == run(postgres_port)


def test_function_call_is_judged_by_its_effects(postgres_port: int) -> None:
    call = build_function_call(FunctionCall(89, (), (), 0))  # version()

    def fastpath(operation: Operation) -> Decision:
        return Decision.DENY if Effect.FASTPATH in operation.judged_effects else Decision.ALLOW

    with Relay(postgres_port, lambda: make_context(Rules(fastpath))) as relay, RawClient(relay.port) as client:
        assert [kind for kind, _ in client.ask(call)] == ["E", "Z"]
        states = [client.ask(query("begin"))[-1], client.ask(call)[-1], client.ask(call)[-1]]
        assert [state for _, state in states] == [b"T", b"E", b"E"]
        assert client.ask(query("rollback"))[-1] == ("Z", b"I")
        client.send(TERMINATE)
    with Relay(postgres_port, _allow) as relay, RawClient(relay.port) as client:
        assert [kind for kind, _ in client.ask(call)] == ["V", "Z"]
        client.send(TERMINATE)


def test_session_settings_that_parsing_rests_on_cannot_be_changed(postgres_port: int) -> None:
    with Relay(postgres_port, _allow) as relay, RawClient(relay.port) as client:
        for text in (
            "set client_encoding = 'SJIS'",
            "set names 'LATIN1'",
            "set standard_conforming_strings = off",
            "select set_config('client_encoding', 'BIG5', false)",
            "set local client_encoding to gbk",
        ):
            assert [kind for kind, _ in client.ask(query(text))] == ["E", "Z"], text
        for text in ("set client_encoding = 'utf-8'", "set standard_conforming_strings = on", "reset client_encoding"):
            assert [kind for kind, _ in client.ask(query(text)) if kind != "S"] == ["C", "Z"], text
        client.send(TERMINATE)


def test_hot_reload_governs_the_next_statement_of_a_live_session(postgres_port: int) -> None:
    source = Source(Rules(lambda _: Decision.ALLOW))
    with Relay(postgres_port, lambda: make_context(source)) as relay, RawClient(relay.port) as client:
        assert client.ask(query("select 1"))[0][0] == "T"
        source.current = Rules(lambda _: Decision.DENY)
        assert client.ask(query("select 1"))[0][0] == "E"
        source.current = Rules(lambda _: Decision.ALLOW)
        assert client.ask(query("select 1"))[0][0] == "T"
        client.send(TERMINATE)


@pytest.mark.parametrize("fail_early", [False, True])
def test_copy_in_by_the_extended_protocol_with_sync_sent_early(postgres_port: int, fail_early: bool) -> None:
    from tests.gate.gate_wire import run

    rows = build_copy_data(b"oops\n" if fail_early else b"7\n")

    def play(port: int) -> list[tuple[str, bytes]]:
        with RawClient(port) as client:
            client.ask(query("create temporary table c (a int)"))
            client.send(run("copy c from stdin") + SYNC)  # this Sync is swallowed by the copy
            while client.message()[0] != "G":
                pass
            found = client.ask(rows + b"c\0\0\0\x04" + SYNC)
            found += client.ask(run("copy c from stdin") + rows + b"c\0\0\0\x04" + SYNC)  # blindly, in one go
            found += client.ask(query("select count(*) from c"))
            client.send(TERMINATE)
        return found

    with Relay(postgres_port, _allow) as relay:
        governed = play(relay.port)
    assert governed == play(postgres_port)
