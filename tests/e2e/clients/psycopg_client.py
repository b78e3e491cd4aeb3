"""Everything that psycopg (3) does in daily life. Prints one line per step; a governed run must print what a direct run prints.

Connection settings come from the environment (PGHOST …) only, as in any program.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

Step = Callable[[psycopg.Connection], object]
STEPS: list[Step] = []


def step(function: Step) -> Step:
    STEPS.append(function)
    return function


def digest(data: bytes | str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return f"{len(raw)} bytes {hashlib.sha256(raw).hexdigest()[:16]}"


def failure(error: psycopg.Error) -> list[object]:
    d = error.diag
    return [d.sqlstate, d.severity, d.message_primary, d.message_detail, d.message_hint, d.statement_position]


@step
def simple(conn: psycopg.Connection) -> object:
    cur = conn.execute("select 1 as one, 'two' as two, null as nothing, 3.5::float8 as f, 12.340::numeric(10,3) as n")
    assert cur.description is not None
    return [[(c.name, c.type_code) for c in cur.description], cur.fetchall(), cur.statusmessage]


@step
def several_statements(conn: psycopg.Connection) -> object:
    cur = conn.execute("select 1 as a; select 2 as b, 3 as c; select 4 where false")
    found: list[object] = []
    while True:
        found.append([cur.statusmessage, cur.fetchall()])
        if not cur.nextset():
            return found


@step
def parameters(conn: psycopg.Connection) -> object:
    values = (7, "it's", None, 2.5, True, b"\x00\xff", [1, 2, 3], Jsonb({"k": [1, "ü"]}))
    return conn.execute(
        "select %s::int + 1, %s::text, %s::text, %s::float8, %s::bool, %s::bytea, %s::int[], %s::jsonb", values
    ).fetchall()


@step
def prepared(conn: psycopg.Connection) -> object:
    return [conn.execute("select %s::int * 2", (n,), prepare=True).fetchone() for n in range(8)]


@step
def prepared_by_statement(conn: psycopg.Connection) -> object:
    conn.execute("prepare doubled(int) as select $1 * 2")
    first = conn.execute("execute doubled(21)").fetchone()
    conn.execute("deallocate doubled")
    try:
        conn.execute("execute doubled(21)")
    except psycopg.Error as error:
        return [first, failure(error)]
    return "a deallocated statement ran"


@step
def binary(conn: psycopg.Connection) -> object:
    with conn.cursor(binary=True) as cur:
        cur.execute(
            "select %s::int8, '2026-03-04 05:06:07.123456+00'::timestamptz, 1.25::numeric, array['a','b'], '\\xdead'::bytea,"
            " 'c0ffee00-0000-4000-8000-000000000000'::uuid, '{\"a\": 1}'::jsonb, true",
            (2**40,),
        )
        return cur.fetchall()


@step
def unicode_text(conn: psycopg.Connection) -> object:
    text = "Grüße, 世界, 🦖, \u202eright to left, a\u0301"
    row = conn.execute('select %s::text as "größe", length(%s)', (text, text))
    assert row.description is not None
    return [row.description[0].name, row.fetchall()]


@step
def data_definition_and_rows(conn: psycopg.Connection) -> object:
    conn.execute("create table drv_rows (id int primary key, word text)")
    with conn.cursor() as cur:
        cur.executemany("insert into drv_rows values (%s, %s) returning id", [(n, f"word {n}") for n in range(50)], returning=True)
        ids = [cur.fetchone()]
        while cur.nextset():
            ids.append(cur.fetchone())
    cur = conn.execute("update drv_rows set word = upper(word) where id % 2 = 0")
    return [ids, cur.statusmessage, conn.execute("select * from drv_rows order by id desc limit 3").fetchall()]


@step
def server_side_cursor(conn: psycopg.Connection) -> object:
    with conn.transaction(), conn.cursor(name="wander", scrollable=True) as cur:
        cur.itersize = 7
        cur.execute("select n, n * n from generate_series(1, 40) n")
        first = [cur.fetchone(), cur.fetchmany(5)]
        cur.scroll(10)
        rest = list(cur)
        cur.scroll(0, mode="absolute")
        return [first, rest[:2], len(rest), cur.fetchone()]


@step
def pipeline(conn: psycopg.Connection) -> object:
    with conn.pipeline() as pipe:
        cursors = [conn.execute("select %s::int", (n,)) for n in range(20)]
        pipe.sync()
        return [cur.fetchone() for cur in cursors]


@step
def error_in_a_pipeline(conn: psycopg.Connection) -> object:
    found: list[object] = []
    try:
        with conn.pipeline():
            conn.execute("insert into drv_rows values (900, 'before')")
            conn.execute("select 1 / %s::int", (0,))
            conn.execute("insert into drv_rows values (901, 'after')")
    except psycopg.Error as error:  # whichever call read the answer: the server's error is the first
        found.append([type(error).__name__, error.sqlstate])
    return [found, conn.execute("select * from drv_rows where id between 900 and 901").fetchall()]


@step
def copy_in_text(conn: psycopg.Connection) -> object:
    conn.execute("create table drv_copy (id int, body text, blob bytea)")
    with conn.cursor() as cur:
        with cur.copy("copy drv_copy from stdin") as copy:
            for n in range(1000):
                copy.write_row((n, None if n % 10 == 0 else f"line\t{n}\nnext \\ Ü", bytes([n % 256])))
        return [cur.statusmessage, cur.rowcount, conn.execute("select count(*), count(body), max(body) from drv_copy").fetchone()]


@step
def copy_in_binary(conn: psycopg.Connection) -> object:
    with conn.cursor() as cur:
        with cur.copy("copy drv_copy from stdin (format binary)") as copy:
            copy.set_types(["int4", "text", "bytea"])
            for n in range(1000, 1200):
                copy.write_row((n, f"binary {n}", b"\x00\x01"))
        return [cur.statusmessage, conn.execute("select sum(id) from drv_copy").fetchone()]


@step
def copy_out(conn: psycopg.Connection) -> object:
    found: list[object] = []
    for how in ("(format text)", "(format csv, header)", "(format binary)"):
        statement = sql.SQL("copy (select * from drv_copy order by id) to stdout {}").format(sql.SQL(how))
        with conn.cursor() as cur:
            with cur.copy(statement) as copy:
                data = b"".join(bytes(block) for block in copy)
            found.append([how, digest(data), cur.statusmessage])
    return found


@step
def copy_in_refused_by_the_client(conn: psycopg.Connection) -> object:
    try:
        with conn.cursor() as cur, cur.copy("copy drv_copy from stdin") as copy:
            copy.write(b"1\thello\t\\\\x00\n")
            raise ValueError("changed my mind")
    except ValueError as error:
        return [str(error), conn.execute("select count(*) from drv_copy").fetchone()]


@step
def copy_in_refused_by_the_server(conn: psycopg.Connection) -> object:
    try:
        with conn.cursor() as cur, cur.copy("copy drv_copy from stdin") as copy:
            copy.write(b"not a number\thello\t\\\\x00\n")
    except psycopg.Error as error:
        return [failure(error), error.diag.context, conn.execute("select count(*) from drv_copy").fetchone()]
    return "a wrong line was taken"


@step
def notices(conn: psycopg.Connection) -> object:
    heard: list[object] = []

    def hear(diag: psycopg.errors.Diagnostic) -> None:
        heard.append([diag.severity, diag.sqlstate, diag.message_primary])

    conn.add_notice_handler(hear)
    conn.execute("drop table if exists never_there")
    conn.execute("do $$ begin raise notice 'hello % and Ü', 42; raise warning using message = 'w', hint = 'h'; end $$")
    conn.remove_notice_handler(hear)
    return heard


@step
def listen_and_notify(conn: psycopg.Connection) -> object:
    conn.execute("listen drv_channel")
    with psycopg.connect(autocommit=True) as other:
        other.execute("notify drv_channel, 'first'")
        other.execute("select pg_notify('drv_channel', %s)", ("second ü",))
    heard = [[note.channel, note.payload] for note in conn.notifies(timeout=10, stop_after=2)]
    conn.execute("unlisten drv_channel")
    return heard


@step
def cancel_a_running_statement(conn: psycopg.Connection) -> object:
    def interrupt() -> None:
        until = time.monotonic() + 15
        with psycopg.connect(autocommit=True) as watcher:
            question = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep(20%'"
            while time.monotonic() < until:
                row = watcher.execute(question).fetchone()
                if row is not None and row[0] > 0:
                    break
        conn.cancel()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        conn.execute("select pg_sleep(20.125)")
        outcome: object = "it was not cancelled"
    except psycopg.Error as error:
        outcome = failure(error)
    thread.join()
    return [outcome, conn.execute("select 'usable'").fetchone()]


@step
def ten_megabytes(conn: psycopg.Connection) -> object:
    text = "0123456789abcdef" * 655_360
    row = conn.execute("select %s::text, md5(%s::text)", (text, text)).fetchone()
    assert row is not None
    with conn.cursor(binary=True) as cur:
        blob = cur.execute("select %b::bytea", (bytes(range(256)) * 40_960,)).fetchone()
    assert blob is not None
    made = conn.execute("select repeat('x', 10485760)").fetchone()
    assert made is not None
    return [digest(row[0]), row[1], digest(blob[0]), digest(made[0])]


@step
def error_in_a_transaction(conn: psycopg.Connection) -> object:
    found: list[object] = []
    conn.execute("begin")
    conn.execute("insert into drv_rows values (1000, 'kept')")
    conn.execute("savepoint here")
    for statement in ("insert into drv_rows values (1000, 'twice')", "select 'in a failed transaction'"):
        try:
            conn.execute(statement)
        except psycopg.Error as error:
            found.append([failure(error), error.diag.constraint_name, conn.info.transaction_status.name])
    conn.execute("rollback to savepoint here")
    found.append(conn.info.transaction_status.name)
    conn.execute("insert into drv_rows values (1001, 'after')")
    conn.execute("commit")
    found.append(conn.execute("select * from drv_rows where id >= 1000 order by id").fetchall())
    return found


@step
def wrong_statements(conn: psycopg.Connection) -> object:
    found: list[object] = []
    for statement in ("selec 1", "select * from no_such_table", "select no_such_column from drv_rows", "select 'x'::int", ""):
        try:
            found.append(conn.execute(statement).statusmessage)
        except psycopg.Error as error:
            found.append(failure(error))
    return found


@step
def settings_of_the_session(conn: psycopg.Connection) -> object:
    conn.execute("set timezone to 'Asia/Tokyo'")
    shown = [conn.execute("show timezone").fetchone(), conn.info.parameter_status("TimeZone")]
    conn.execute("reset timezone")
    names = ("server_version", "server_encoding", "client_encoding", "integer_datetimes", "standard_conforming_strings")
    return [shown, {name: conn.info.parameter_status(name) for name in names}]


@step
def large_result(conn: psycopg.Connection) -> object:
    sums = hashlib.sha256()
    rows = 0
    cur = conn.execute("select n, md5(n::text), n * 1.5, case when n % 7 = 0 then null else 'row ' || n end from generate_series(1, 100000) n")
    for row in cur:
        sums.update(repr(row).encode())
        rows += 1
    return [rows, sums.hexdigest()[:16], cur.statusmessage]


@step
def rows_one_by_one(conn: psycopg.Connection) -> object:
    with conn.cursor() as cur:
        return sum(row[0] for row in cur.stream("select n from generate_series(1, 5000) n"))


@step
def functions_and_the_fast_path(conn: psycopg.Connection) -> object:
    conn.execute("create function drv_twice(n int) returns int language sql as 'select n * 2'")
    conn.execute("begin")
    made = conn.execute("select lo_from_bytea(0, 'large object')").fetchone()
    assert made is not None
    got = conn.execute("select lo_get(%s)", made).fetchone()
    conn.execute("select lo_unlink(%s)", made)
    conn.execute("commit")
    return [conn.execute("select drv_twice(21)").fetchone(), got]


@step
def tidy(conn: psycopg.Connection) -> object:
    conn.execute("drop function drv_twice(int)")
    return conn.execute("drop table drv_rows, drv_copy").statusmessage


def steps() -> Iterator[Step]:
    wanted = sys.argv[1:]
    return iter([s for s in STEPS if not wanted or s.__name__ in wanted])


def main() -> None:
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # what it says of a failed pipeline depends on when it read
    with psycopg.connect(autocommit=True) as conn:
        for one in steps():
            try:
                result = one(conn)
            except Exception as error:
                result = f"{type(error).__name__}: {error}"
            print(json.dumps([one.__name__, result], default=repr), flush=True)


main()
