"""Masked data is masked on every way out of a session, and what cannot be masked does not leave it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.command import Close, RefreshCatalogue
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.verdict import Decision, MaskColumn, MaskContent
from hostagent.wire.postgres import backend as b
from hostagent.wire.postgres.frontend import TERMINATE
from tests.gate.gate_rim import NOW, Relay, Rules, events, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, RawClient, bind, close, describe, execute, parse, query, run

SECRET = b"Xylophon-4711"
OBLIGATIONS = (MaskColumn("hide-names", "people", "name"), MaskContent("hide-mail", frozenset({"email"})))


@pytest.fixture(scope="module")
def catalogue(postgres_port: int) -> Iterator[Catalogue]:
    with psycopg.connect(
        f"host=127.0.0.1 port={postgres_port} user=postgres dbname=postgres", autocommit=True
    ) as direct:
        direct.execute("drop table if exists people")
        direct.execute("create table people (id int, name text, note text)")
        direct.execute(
            "insert into people select g, 'Xylophon-4711', 'mail me@example.com' from generate_series(1, 20) g"
        )
        row = direct.execute("select 'people'::regclass::oid::int").fetchone()
        assert row is not None
        oid = int(row[0])
        relation = CatalogueRelation(
            oid, "public", "people", "r", {1: "id", 2: "name", 3: "note"}, {1: 23, 2: 25, 3: 25}
        )
        yield Catalogue({oid: relation}, frozenset(), ("public",), {}, "v1")
        direct.execute("drop table people")


def _relay(port: int, catalogue: Catalogue | None) -> Relay:
    rules = Rules(lambda _: Decision.ALLOW, OBLIGATIONS)
    return Relay(port, lambda: make_context(rules, catalogue))


SCRIPTS: dict[str, tuple[bytes, int]] = {
    "simple": (query("select * from people"), 1),
    "alias": (query("select name as x from people p"), 1),
    "expression": (query("select upper(name), length(name), note || name from people"), 1),
    "several statements": (query("select 1; select name from people; select note from people"), 1),
    "extended with describe": (parse("select * from people") + bind() + describe("P") + execute() + SYNC, 1),
    "extended without describe": (run("select * from people") + SYNC, 1),
    "binary without describe": (parse("select name, id from people") + bind(binary=True) + execute() + SYNC, 1),
    "limited, twice": (parse("select name from people") + bind("", "p") + execute("p", 1) + execute("p", 2) + SYNC, 1),
    "statement described only": (
        parse("select name from people", "s") + describe("S", "s") + bind("s") + execute() + SYNC,
        1,
    ),
    "prepared in sql": (query("prepare q as select name from people") + query("execute q") + query("deallocate q"), 3),
    "prepared in sql, run by protocol": (
        query("prepare q2 as select name || 'x' from people") + bind("q2") + execute() + SYNC + close("S", "q2") + SYNC,
        3,
    ),
    "cursor": (query("begin; declare c cursor for select name || '' from people; fetch 2 from c; commit"), 1),
    "cursor across messages": (
        query("begin")
        + query("declare c cursor for select name || '' from people")
        + query("fetch 2 from c")
        + run("fetch 1 from c")
        + SYNC
        + execute("c", 1)
        + SYNC
        + query("commit"),
        6,
    ),
    "copy": (query("copy people to stdout"), 1),
    "copy of a query": (query("copy (select name from people) to stdout"), 1),
    "copy, extended": (run("copy people (name, id) to stdout (format csv)") + SYNC, 1),
    "error text": (query("select name::int from people"), 1),
    "notice": (
        query("do $$ declare n text; begin select name into n from people limit 1; raise notice '%', n; end $$"),
        1,
    ),
    "setting": (query("select set_config('application_name', name, false) from people limit 1"), 1),
    "notification": (query("listen ch; select pg_notify('ch', name) from people limit 1"), 1),
    "row as json": (query("select to_json(p) from people p"), 1),
    "laundered through a table": (
        query("create temporary table loot as select name n from people; select n from loot"),
        1,
    ),
}


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_secret_never_reaches_the_client_or_a_record(postgres_port: int, catalogue: Catalogue, name: str) -> None:
    data, times = SCRIPTS[name]
    with _relay(postgres_port, catalogue) as relay, RawClient(relay.port) as client:
        answer = client.ask(data, times)
        client.send(TERMINATE)
        relay.ended.wait(10)
    written = sent(relay.commands, Side.CLIENT)
    assert SECRET not in written
    assert SECRET.upper() not in written
    assert b"me@example.com" not in written
    assert SECRET.decode() not in repr(relay.events())
    assert [kind for kind, _ in answer].count("Z") == times


def test_the_client_sees_exactly_the_messages_it_asked_for(postgres_port: int, catalogue: Catalogue) -> None:
    with _relay(postgres_port, catalogue) as relay, RawClient(relay.port) as client:
        answer = client.ask(parse("select id, name from people where id = 3") + bind() + execute() + SYNC)
        client.send(TERMINATE)
    assert [kind for kind, _ in answer] == ["1", "2", "D", "C", "Z"]
    assert b.parse_data_row(answer[2][1])[0] == b"3"
    (result,) = relay.events(EventKind.RESULT)
    assert (result.fields["rows"], result.fields["masked_values"]) == (1, 1)
    columns = result.fields["columns"]
    assert isinstance(columns, list)
    assert [(column["table"], column["column"], column["masked"]) for column in columns] == [
        ("public.people", "id", ""),
        ("public.people", "name", "hide-names"),
    ]


def test_bind_values_next_to_masked_data_are_not_recorded(postgres_port: int, catalogue: Catalogue) -> None:
    with _relay(postgres_port, catalogue) as relay, RawClient(relay.port) as client:
        client.ask(parse("select id from people where name = $1") + bind("", "", (SECRET,)) + execute() + SYNC)
        client.ask(parse("select $1::text") + bind("", "", (b"you@example.com",)) + execute() + SYNC)
        client.send(TERMINATE)
    shown = [event.fields["parameters"] for event in relay.events(EventKind.STATEMENT)]
    assert shown[0] == ["[masked]"]
    assert "you@example.com" not in repr(shown)


def test_without_a_catalogue_nothing_is_read(postgres_port: int, catalogue: Catalogue) -> None:
    with _relay(postgres_port, None) as relay, RawClient(relay.port) as client:
        answer = client.ask(query("select * from people"))
        client.send(TERMINATE)
    assert [kind for kind, _ in answer] == ["E", "Z"]


def test_drivers_work_with_masking(postgres_port: int, catalogue: Catalogue) -> None:
    with _relay(postgres_port, catalogue) as relay:
        with psycopg.connect(f"host=127.0.0.1 port={relay.port} user=postgres dbname=postgres") as connection:
            for binary in (False, True):
                rows = connection.execute(
                    "select id, name from people where id < %s order by 1", (3,), binary=binary
                ).fetchall()
                assert [row[0] for row in rows] == [1, 2]
                assert SECRET.decode() not in repr(rows)
            with connection.cursor("server_side") as cursor:
                cursor.execute("select id, note from people")
                assert len(cursor.fetchall()) == 20
            with connection.pipeline():
                cursors = [
                    connection.execute("select name from people where id = %s", (number,)) for number in range(1, 5)
                ]
            assert all(len(cursor.fetchall()) == 1 for cursor in cursors)
        relay.ended.wait(10)
    assert SECRET not in sent(relay.commands, Side.CLIENT)


# -- what a hostile or broken server may not do --------------------------------------------------------------------------


def _asked(text: str, obligations: bool = True) -> object:
    rules = Rules(lambda _: Decision.ALLOW, (MaskContent("m", frozenset({"email"})),) if obligations else ())
    _, session = make_session(make_context(rules))
    session.feed(Side.CLIENT, query(text), NOW)
    return session


@pytest.mark.parametrize(
    "answer",
    [
        b.build_data_row((b"me@example.com",)),
        b"d\0\0\0\x05x",
        b"H\0\0\0\x07\0\0\0",
        b"W\0\0\0\x07\0\0\0",
        b"R\0\0\0\x08\0\0\0\x03",
        b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02",
        b.build_status(b"client_encoding", b"LATIN1"),
        b.build_status(b"standard_conforming_strings", b"off"),
        b"?\0\0\0\x04",
        b"D\xff\xff\xff\xff",
        b"T\x7f\xff\xff\xff",
        b.PARSE_COMPLETE,
        b.build_ready(b"I") + b.build_ready(b"I"),
        b.build_ready(b"X"),
        b"C\0\0\0\x07abc",
    ],
)
def test_a_server_out_of_line_ends_the_session(answer: bytes) -> None:
    session = _asked("select 1")
    out = session.feed(Side.SERVER, answer, NOW)  # type: ignore[attr-defined]
    assert isinstance(out[-1], Close)
    assert [event.kind for event in events(out, EventKind.REFUSAL)] == [EventKind.REFUSAL]
    assert b"me@example.com" not in sent(out, Side.CLIENT)
    assert session.feed(Side.SERVER, answer, NOW) == []  # type: ignore[attr-defined]


def test_a_schema_change_and_an_unknown_table_ask_for_a_new_catalogue(postgres_port: int, catalogue: Catalogue) -> None:
    with _relay(postgres_port, catalogue) as relay, RawClient(relay.port) as client:
        client.ask(query("begin") + query("create temporary table fresh (name text)"), 2)
        assert not any(isinstance(command, RefreshCatalogue) for command in relay.commands)
        client.ask(query("commit"))
        asked = [command for command in relay.commands if isinstance(command, RefreshCatalogue)]
        client.ask(query("insert into fresh values ('Xylophon-4711')"))
        answer = client.ask(query("select name from fresh") + query("select name from fresh"), 2)
        client.send(TERMINATE)
        relay.ended.wait(10)
    assert len(asked) == 1
    assert len([command for command in relay.commands if isinstance(command, RefreshCatalogue)]) == 2
    assert SECRET not in b"".join(body for _, body in answer)
