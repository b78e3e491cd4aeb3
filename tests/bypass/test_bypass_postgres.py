"""Ways round denial, hold and masking over PostgreSQL's protocol that worked once. Rows are added and never taken out.

Each is a conversation: what is sent, and how many ReadyForQuery to wait for. The server is real and knows the secret; the
client must not be able to read it from anything it is sent, and no record may hold it.
"""

from __future__ import annotations

import pytest

from hostagent.model.event import EventKind
from hostagent.wire.postgres.frontend import TERMINATE
from tests.bypass.bypass_world import CARD, NAME, SURNAME, World, decide, run_scripts, seen
from tests.gate.gate_wire import SYNC, RawClient, bind, close, describe, execute, parse, query, run

Script = list[tuple[bytes, int]]


def sql(*texts: str) -> Script:
    """Return a conversation of simple queries."""
    return [(query(text), 1) for text in texts]


_VIOLATION = "insert into admirers values ('nobody')"

# -- what we think a name stands for, and what the server thinks --------------------------------------------------------------
NAMES: dict[str, Script] = {
    "a Parse that fails, and a Close that is skipped because of it": [
        (parse("select upper(name) from people", "s") + SYNC, 1),
        (parse("select 'x' from things", "s") + close("S", "s") + SYNC, 1),
        (bind("s") + execute() + SYNC, 1),
    ],
    "a PREPARE that fails, and a DEALLOCATE sent behind it that fails too": [
        *sql("prepare z as select upper(name) from people"),
        (query("prepare z as select 'x'::text from things") + query("select 1/0; deallocate z"), 2),
        *sql("execute z"),
    ],
    "a PREPARE that fails, and a Close behind it that is skipped": [
        *sql("prepare z as select upper(name) from people"),
        (
            query("prepare z as select 'x'::text from things") + run("select 1/0") + close("S", "z") + SYNC,
            2,
        ),
        (bind("z") + execute() + SYNC, 1),
    ],
    "EXECUTE of a DEALLOCATE and of a PREPARE": [
        *sql("prepare z as select 'x'::text from things"),
        (parse("deallocate z", "a") + parse("prepare z as select upper(name) from people", "b") + SYNC, 1),
        *sql("execute a", "execute b", "execute z"),
    ],
    "EXECUTE of a CLOSE and of a DECLARE": [
        *sql("begin", "declare z cursor for select 'x'::text from things"),
        (parse("close z", "a") + parse("declare z cursor for select upper(name) from people", "b") + SYNC, 1),
        *sql("execute a", "rollback", "begin", "declare z cursor for select 'x'::text from things"),
        *sql("execute b", "fetch z", "rollback"),
    ],
    "a PREPARE that stays when its transaction cannot be committed": sql(
        "prepare z as select 'x'::text from things",
        f"{_VIOLATION}; deallocate z",
        f"{_VIOLATION}; prepare z as select upper(name) from people",
        "execute z",
    ),
    "a portal described when the name in it meant something else": [
        *sql("begin", "prepare q as select label from things"),
        (parse("execute q", "s") + bind("s", "p") + describe("P", "p") + SYNC, 1),
        *sql("deallocate q", "prepare q as select name from people"),
        (execute("p") + SYNC, 1),
        *sql("rollback"),
    ],
    "a portal described when the cursor in it was another": [
        *sql("begin", "declare c cursor for select label from things"),
        (parse("fetch all from c", "s") + bind("s", "p") + describe("P", "p") + SYNC, 1),
        *sql("close c", "declare c cursor for select name from people"),
        (execute("p") + SYNC, 1),
        *sql("rollback"),
    ],
    "FETCH from a portal that runs a name": [
        *sql("begin", "prepare q as select label from things"),
        (parse("execute q", "s") + bind("s", "p") + SYNC, 1),
        *sql("deallocate q", "prepare q as select name from people", "fetch all from p", "rollback"),
    ],
}

# -- where a value can be put to be read later --------------------------------------------------------------------------------
CARRIED: dict[str, Script] = {
    "a column that shows its last characters": sql(
        "begin",
        "update people set card = 'xxxxxxxx' || substr(name, 1, 4) where id = 1",
        "select card from people",
        "rollback",
    ),
    "a column that shows its last characters, turned round": sql(
        "begin",
        "update people set card = substr(card, 5) || substr(card, 1, 4) where id = 1",
        "select card from people",
        "rollback",
    ),
    "a domain that keeps what it checks in a setting": sql(
        "create domain spy as text check (set_config('my.x', value, false) is not null)",
        "select name::spy from people",
        "select current_setting('my.x')",
    ),
    "a domain that announces what it checks": sql(
        "listen ch",
        "create domain crier as text check (pg_notify('ch', value) is not null)",
        "select name::crier from people",
        "select 1",
    ),
    "a row policy that keeps what it sees": sql(
        "create policy p on people using (set_config('my.x', name, false) is not null)",
        "select name from people",
        "select current_setting('my.x')",
    ),
    "a generated column": sql("select shout from people"),
    "a generated column in an expression": sql("select lower(shout) from people"),
    "COPY of a generated column's source": sql("copy people to stdout", "copy (select shout from people) to stdout"),
    "a schema by another name": sql(
        "alter schema public rename to other", "select name from other.people", "alter schema other rename to public"
    ),
}

# -- what errors quote --------------------------------------------------------------------------------------------------------
QUOTED: dict[str, Script] = {
    "a cascade that reaches a masked table": sql("delete from accounts where id = 1"),
    "a constraint checked at COMMIT": sql("begin", "update people set name = 'x' || name", "commit"),
    "a constraint checked at Sync": [(run("update people set name = 'x' || name") + SYNC, 1)],
    "a constraint checked on demand": sql(
        "begin", "update people set name = 'x' || name", "set constraints all immediate", "rollback"
    ),
}

SECRETS = (NAME, SURNAME, CARD, NAME[:4], CARD[:4])


@pytest.mark.parametrize("name", [*NAMES, *CARRIED, *QUOTED])
def test_masked_values_cannot_be_read_by(world: World, name: str) -> None:
    world.fresh()
    shown, recorded = run_scripts(world, {**NAMES, **CARRIED, **QUOTED}[name])
    assert [secret for secret in SECRETS if secret.lower().encode() in shown.lower()] == []
    assert [secret for secret in SECRETS if secret in recorded] == []
    assert b"FATAL" not in shown


CODES = (
    ("select pg_advisory_lock(ascii(name), 81) from people", "select classid from pg_locks where objid = 81"),
    ("select setseed(ascii(name) / 1000.0) from people", "select random()"),
    ("select setval('counter', ascii(name)) from people", "select last_value from counter"),
    ("create domain d as text check (setval('counter', ascii(value)) > 0)", "select last_value from counter"),
)


@pytest.mark.parametrize(("put", "get"), CODES)
def test_a_value_cannot_be_put_where_only_its_code_shows(world: World, put: str, get: str) -> None:
    world.fresh("create sequence counter;")
    with world.relay() as relay, RawClient(relay.port) as client:
        denied = client.ask(query(put))
        client.ask(query(get))
        client.send(TERMINATE)
    assert [(kind, body.split(b"\0")[2]) for kind, body in denied if kind == "E"] == [("E", b"C42501")]


def test_copy_in_another_encoding_cannot_shift_columns(world: World) -> None:
    """In SJIS the second byte of a character may be a backslash or a bar, which moves what a reader takes for fields."""
    world.fresh("update people set note = '\u30bd', card = '\u30dd';")
    with world.relay() as relay, RawClient(relay.port) as client:
        client.ask(query("copy people (note, name, card) to stdout (delimiter '|', encoding 'SJIS')"))
        client.ask(query("copy people (note, name, card) to stdout (delimiter '|', encoding 'utf-8')"))
        client.send(TERMINATE)
    assert NAME.encode() not in seen(relay)
    assert b"COPY 1" in seen(relay)


def test_a_name_means_what_the_server_last_accepted(world: World) -> None:
    """Everything taken back and made anew in the order of the wire: the mirror and the server agree in the end."""
    world.fresh()
    with world.relay(masks=False) as relay, RawClient(relay.port) as client:
        client.ask(query("prepare z as select 'first'"))
        client.ask(
            query("prepare z as select 'never'") + query("deallocate z") + query("prepare z as select 'last'"), 3
        )
        answer = client.ask(query("execute z"))
        client.send(TERMINATE)
    assert [body for kind, body in answer if kind == "D"] == [b"\0\x01\0\0\0\x04last"]
    texts = [event.fields["text"] for event in relay.events(EventKind.STATEMENT)]
    assert texts[-1] == "execute z"


def test_a_delete_that_waits_for_a_human_cannot_hide_behind_a_failed_name(world: World) -> None:
    world.fresh()
    with world.relay() as relay, RawClient(relay.port) as client:
        client.ask(parse("delete from doomed", "s") + SYNC)
        client.ask(parse("select 1", "s") + close("S", "s") + SYNC)
        client.send(bind("s") + execute() + SYNC)
        relay.answer(granted=False)
        client.until_ready()
        client.send(TERMINATE)
    assert world.one("select count(*)::int from doomed") == 2


def test_a_portal_whose_describe_was_skipped_is_described_again(world: World) -> None:
    world.fresh()
    with world.relay() as relay, RawClient(relay.port) as client:
        client.ask(query("begin"))
        client.ask(parse("select id, name from people", "s") + bind("s", "p") + SYNC)
        client.ask(query("savepoint a"))
        client.ask(parse("select bad bad bad") + describe("P", "p") + SYNC)
        client.ask(query("rollback to a"))
        answer = client.ask(execute("p") + SYNC)
        client.send(TERMINATE)
    assert [kind for kind, _ in answer] == ["D", "C", "Z"]
    assert NAME.encode() not in seen(relay)


def test_ordinary_writes_to_masked_tables_still_work(world: World) -> None:
    world.fresh()
    texts = (
        "update people set name = 'Ada', card = '4111111111111111' where id = 1",
        "update people set surname = lower(surname) where id = 1",
        "update people set note = 'x' where name = 'Ada'",
        "select lo_create(0)",
        "select set_config('my.y', 'mine', false)",
        "delete from people where id = 7",
    )
    with world.relay(decide) as relay, RawClient(relay.port) as client:
        kinds = [
            [kind for kind, _ in client.ask(query(f"begin; set constraints all deferred; {text}; rollback"))]
            for text in texts
        ]
        client.send(TERMINATE)
    assert [kind.count("E") for kind in kinds] == [0] * len(texts)


def test_whoever_approves_an_execute_sees_what_it_runs(world: World) -> None:
    world.fresh()
    with world.relay() as relay, RawClient(relay.port) as client:
        client.ask(parse("delete from doomed", "s") + SYNC)
        client.send(query("execute s"))
        relay.answer(granted=False)
        client.until_ready()
        client.send(TERMINATE)
    assert [operation.text for operation in relay.tickets[0].operations] == [
        "execute s\n-- which runs:\ndelete from doomed"
    ]


def test_an_approval_of_what_could_not_run_is_not_kept_for_the_next_statement(world: World) -> None:
    """The held Execute is behind a statement that fails, so the server would skip it: the same text must be held again."""
    world.fresh()
    with world.relay() as relay, RawClient(relay.port) as client:
        client.ask(parse("delete from doomed", "s") + SYNC)
        client.send(run("select pg_sleep(0.2), 1/0") + bind("s", "p") + execute("p") + SYNC)
        assert relay.held.wait(10)
        client.send(bind("s", "p") + execute("p") + SYNC)
        while client.message()[0] != "E":
            pass
        relay.answer(granted=True)
        client.until_ready()
        relay.answer(granted=False)
        client.until_ready()
        client.send(TERMINATE)
    assert world.one("select count(*)::int from doomed") == 2


def test_names_beyond_ascii_cannot_be_told_apart_where_the_server_reads_them_differently(world: World) -> None:
    """In LATIN1 a letter takes one byte, so the server cuts names later than we do: two names of ours are one of theirs."""
    world.fresh()
    with world.direct() as connection:
        connection.execute("drop database if exists latin")
        connection.execute("create database latin template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'")
        connection.execute("create table if not exists unused ()")
    first, second = "é" * 40 + "a", "é" * 40 + "b"
    with world.relay() as relay, RawClient(relay.port, "latin") as client:
        client.ask(query("create table doomed (id int)"))
        client.ask(parse("delete from doomed", first) + SYNC)
        client.ask(parse("select 1", second) + SYNC)
        answer = client.ask(bind(first) + execute() + SYNC)
        client.ask(query(f'prepare "{first}" as select 1'))
        client.ask(query('prepare U&"\\00e9" as select 1'))
        client.ask(query("select 'é'"))
        client.send(TERMINATE)
    assert [kind for kind, _ in answer] == ["E", "Z"]
    assert relay.tickets == []
    assert seen(relay).count(b"names beyond ASCII") == 4
    assert "é".encode() in seen(relay)


def test_a_statement_of_many_rows_into_a_masked_table_is_judged_and_not_choked_on(world: World) -> None:
    world.fresh()
    rows = ",".join(f"({n},'{n}','b')" for n in range(100, 20_100))
    with world.relay() as relay, RawClient(relay.port) as client:
        answer = client.ask(query(f"insert into people (id, name, surname) values {rows}"))
        client.send(TERMINATE)
    assert [body for kind, body in answer if kind == "C"] == [b"INSERT 0 20000\0"]
