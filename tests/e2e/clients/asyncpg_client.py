"""Everything that asyncpg does in daily life: binary formats, prepared statements throughout, portals. One line per step."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable

import asyncpg

Step = Callable[[asyncpg.Connection], Awaitable[object]]
STEPS: list[Step] = []


def step(function: Step) -> Step:
    STEPS.append(function)
    return function


def digest(data: bytes | str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return f"{len(raw)} bytes {hashlib.sha256(raw).hexdigest()[:16]}"


async def connect() -> asyncpg.Connection:
    context = ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])
    return await asyncpg.connect(ssl=context)


def failure(error: asyncpg.PostgresError) -> list[object]:
    return [type(error).__name__, error.sqlstate, str(error), getattr(error, "detail", None), getattr(error, "hint", None)]


@step
async def simple(conn: asyncpg.Connection) -> object:
    return [await conn.execute("select 1; select 2"), await conn.fetchval("select 3"), [tuple(r) for r in await conn.fetch("select 1 a, 'x' b")]]


@step
async def parameters(conn: asyncpg.Connection) -> object:
    row = await conn.fetchrow(
        "select $1::int8, $2::text, $3::numeric, $4::timestamptz, $5::bytea, $6::int[], $7::jsonb, $8::uuid, $9::float8",
        2**40, "it's ü 🦖", 12, None, b"\x00\xff", [1, 2], '{"k": 1}', "c0ffee00-0000-4000-8000-000000000000", 0.1,
    )  # fmt: skip
    return [[repr(v) for v in row], list(row.keys())]


@step
async def prepared(conn: asyncpg.Connection) -> object:
    statement = await conn.prepare("select $1::int * 2 as twice, $2::text as word")
    shape = [[a.name, a.type.name] for a in statement.get_attributes()]
    return [shape, [p.name for p in statement.get_parameters()], [tuple(await statement.fetchrow(n, str(n))) for n in range(5)]]


@step
async def own_types(conn: asyncpg.Connection) -> object:
    await conn.execute("create type drva_mood as enum ('sad', 'happy'); create type drva_pair as (a int, m drva_mood)")
    row = await conn.fetchrow("select 'happy'::drva_mood, row(1, 'sad')::drva_pair, array['sad']::drva_mood[]")
    await conn.execute("drop type drva_pair; drop type drva_mood")
    return [repr(v) for v in row]


@step
async def rows(conn: asyncpg.Connection) -> object:
    await conn.execute("create table drva_rows (id int primary key, word text)")
    await conn.executemany("insert into drva_rows values ($1, $2)", [(n, f"word {n}") for n in range(200)])
    return [await conn.execute("update drva_rows set word = upper(word) where id < 10"), [tuple(r) for r in await conn.fetch("select * from drva_rows where id < 12 order by id")]]


@step
async def cursor(conn: asyncpg.Connection) -> object:
    async with conn.transaction():
        cur = await conn.cursor("select n, n * n from generate_series(1, 30) n")
        first = [tuple(r) for r in await cur.fetch(4)]
        await cur.forward(10)
        rest = [tuple(r) for r in await cur.fetch(100)]
        streamed = [r["n"] async for r in conn.cursor("select n from generate_series(1, 25) n", prefetch=4)]
    return [first, rest[0], len(rest), streamed]


@step
async def copy_both_ways(conn: asyncpg.Connection) -> object:
    await conn.execute("create table drva_copy (id int, body text)")
    tag = await conn.copy_records_to_table("drva_copy", records=[(n, None if n % 9 == 0 else f"line {n} ü") for n in range(3000)])
    parts: list[bytes] = []

    async def take(block: bytes) -> None:
        parts.append(block)

    out = await conn.copy_from_query("select * from drva_copy order by id", output=take, format="csv", header=True)
    text = digest(b"".join(parts))
    parts.clear()
    binary = await conn.copy_from_table("drva_copy", output=take, format="binary")
    return [tag, out, text, binary, digest(b"".join(parts))]


@step
async def listen_and_notify(conn: asyncpg.Connection) -> object:
    heard: asyncio.Queue[list[object]] = asyncio.Queue()

    def hear(_conn: object, _pid: int, channel: str, payload: object) -> None:
        heard.put_nowait([channel, payload])

    await conn.add_listener("drva_channel", hear)
    other = await connect()
    await other.execute("notify drva_channel, 'first'")
    await other.execute("select pg_notify('drva_channel', $1)", "second ü")
    await other.close()
    found = [await asyncio.wait_for(heard.get(), 10) for _ in range(2)]
    await conn.remove_listener("drva_channel", hear)
    return found


@step
async def cancel_a_running_statement(conn: asyncpg.Connection) -> object:
    other = await connect()
    running = asyncio.create_task(conn.fetchval("select pg_sleep(20.25)"))
    question = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(20.25%'"
    async with asyncio.timeout(15):
        while not await other.fetchval(question):
            pass
    await other.close()
    running.cancel()
    try:
        await running
        outcome = "it was not cancelled"
    except asyncio.CancelledError:
        outcome = "cancelled"
    try:
        await conn.execute("set statement_timeout = 50")
        await conn.execute("select pg_sleep(20)")
        timed = "it did not time out"
    except asyncpg.PostgresError as error:
        timed = repr(failure(error))
    await conn.execute("reset statement_timeout")
    return [outcome, timed, await conn.fetchval("select 'usable'")]


@step
async def ten_megabytes(conn: asyncpg.Connection) -> object:
    text = "0123456789abcdef" * 655_360
    row = await conn.fetchrow("select $1::text, md5($1::text), $2::bytea", text, bytes(range(256)) * 40_960)
    return [digest(row[0]), row[1], digest(row[2])]


@step
async def error_in_a_transaction(conn: asyncpg.Connection) -> object:
    found: list[object] = []
    async with conn.transaction():
        await conn.execute("insert into drva_rows values (1000, 'kept')")
        try:
            async with conn.transaction():
                await conn.execute("insert into drva_rows values (1000, 'twice')")
        except asyncpg.PostgresError as error:
            found.append(failure(error))
        await conn.execute("insert into drva_rows values ($1, $2)", 1001, "after")
    try:
        async with conn.transaction():
            try:
                await conn.fetch("select 1 / $1::int", 0)
            except asyncpg.PostgresError as error:
                found.append(failure(error))
            await conn.fetch("select 'in a failed transaction'")
    except asyncpg.PostgresError as error:
        found.append(failure(error))
    found.append([tuple(r) for r in await conn.fetch("select * from drva_rows where id >= 1000 order by id")])
    return found


@step
async def wrong_statements(conn: asyncpg.Connection) -> object:
    found: list[object] = []
    for statement in ("selec 1", "select * from no_such_table", "select $1::int + 'x'::text", ""):
        try:
            found.append(repr(await conn.fetch(statement)))
        except asyncpg.PostgresError as error:
            found.append(failure(error))
    return found


@step
async def notices(conn: asyncpg.Connection) -> object:
    heard: list[object] = []

    def hear(_conn: object, message: object) -> None:
        heard.append([type(message).__name__, str(message)])

    conn.add_log_listener(hear)
    await conn.execute("do $$ begin raise notice 'hello %', 42; raise warning 'careful'; end $$")
    await conn.execute("drop table if exists never_there")
    await asyncio.sleep(0)
    conn.remove_log_listener(hear)
    return heard


@step
async def large_result(conn: asyncpg.Connection) -> object:
    sums = hashlib.sha256()
    found = await conn.fetch("select n, md5(n::text), n * 1.5, case when n % 7 = 0 then null else 'row ' || n end from generate_series(1, 100000) n")
    for row in found:
        sums.update(repr(tuple(row)).encode())
    return [len(found), sums.hexdigest()[:16]]


@step
async def reset(conn: asyncpg.Connection) -> object:
    await conn.execute("drop table drva_rows, drva_copy")
    await conn.reset()
    return await conn.fetchval("select 'fresh'")


async def cancel_a_held_statement(conn: asyncpg.Connection) -> object:
    """Only when asked for by name: there is nothing to compare it with."""
    told = asyncio.Event()
    conn.add_log_listener(lambda _conn, _message: told.set())
    held = asyncio.create_task(conn.execute("delete from held_rows where id = 1"))
    await asyncio.wait_for(told.wait(), 30)
    held.cancel()
    try:
        outcome = await held
    except asyncio.CancelledError:
        outcome = "cancelled"
    return [outcome, await conn.fetchval("select count(*) from held_rows where id = 1")]


async def main() -> None:
    conn = await connect()
    for one in [*STEPS, cancel_a_held_statement]:
        if one.__name__ not in (sys.argv[1:] or [each.__name__ for each in STEPS]):
            continue
        try:
            result = await one(conn)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        print(json.dumps([one.__name__, result], default=repr), flush=True)
    await conn.close()


asyncio.run(main())
