"""The reproduced ways round masking, against a real PostgreSQL: nothing of a masked value may be read from what passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mask_server import Client
from mask_world import COLUMN_RULES, NAME, RULES, SCHEMA, SSN, catalogue, leaks, passed

from hostagent.mask import Exposure, Masker
from hostagent.model.verdict import MaskColumn
from hostagent.sql import analyse

EVASIONS = """
select name from person
select name as id from person
select * from person
select p.* from person p
with q as (select ssn from person) select * from q
with q as materialized (select ssn as x from person) select x from q
select x from (select name as x from person) s
select distinct ssn from person
select ssn from person group by ssn
select name from person order by id limit 1
select a.name from person a join person b using (name)
select name from person a full join person b using (name)
select name::varchar from person
select name::text from person
select l.x from person p, lateral (select p.name as x) l
table person
select name from person tablesample bernoulli (100)
select name from person union select item from orders
select name from person union all select name from person
select name || '' from person
select name collate "C" from person
select substr(name, 1, 6) from person
select reverse(ssn) from person
select encode(name::bytea, 'hex') from person
select encode(name::bytea, 'base64') from person
select string_to_array(name, null) from person
select ascii(name) from person
select row(name, ssn) from person
select row_to_json(p) from person p
select to_jsonb(p) from person p
select p from person p
select person from person
select json_agg(name) from person
select array_agg(ssn) from person
select string_agg(name, ',') from person
select max(name) from person
select min(ssn) from person
select lag(name) over (order by id desc) from person
select first_value(ssn) over (order by id) from person
select (select name from person where id = 1)
select (select row(name) from person where id = 1)
select v from person, lateral (values (name)) t(v)
select unnest(array[name, ssn]) from person
select case when id = 1 then name else ssn end from person
select coalesce(name, 'x') from person
select nullif(name, 'x') from person
select f_sql(1)
select * from f_sql(1)
select * from f_set()
select (f_set()).name
select f_dyn('select na' || 'me from person where id = 1')
select f_raise(1)
select query_to_xml('select name from person', true, false, '')
select query_to_xml('select na' || 'me from per' || 'son', true, false, '')
select table_to_xml('person', true, false, '')
select meta ->> 'ssn' from person
select meta from person
select meta -> 'ssn' from person
select jsonb_each_text(meta) from person
values ((select name from person where id = 1))
explain analyze select * from person where name = (select max(name) from person)
explain (verbose) select name from person
select * from json_each_text((select row_to_json(p) from person p where id = 1))
select format('%s', name) from person
select concat_ws('-', name, ssn) from person
select xmlforest(name, ssn) from person
with recursive r(n, x) as (select 1, name from person where id = 1 union all select n + 1, x from r where n < 2) select x from r
select label from person_view
select * from person_view
select l2 from view_of_view
select name from person_mat
select * from view_on_function
select name from child
select * from child
select name from parts
select name from parts_1
select most_common_vals from pg_stats where tablename = 'person'
select most_common_vals::text from pg_stats
select histogram_bounds from pg_stats
select stavalues1 from pg_statistic
select name::int from person
select ssn::int from person where id = 1
select id from person where name::int = 1
select count(*) from person where name::int = 1
select count(*) from person where f_raise(id) = 1
select 1 / (length(name) - length(name)) from person
select cast(name as date) from person where id = 1
update person set visits = 1 where id = 1 returning name
update person set visits = 1 where id = 1 returning *
delete from person where id = 99 returning name
insert into person (id, name) values (1, 'a')
insert into person (id) values (77) on conflict (id) do update set visits = 1 returning ssn
select name, count(*) from person group by name
select count(distinct name), max(name) from person
select left(name, 4), right(name, 4), lpad(name, 4), overlay(name placing 'x' from 1 for 1) from person
select translate(name, 'a', 'a'), replace(name, 'z', 'z'), initcap(name), upper(name) from person
select regexp_matches(name, '.*') from person
select regexp_split_to_table(name, '') from person
select md5(name), name from person
select convert_to(name, 'UTF8') from person
select to_tsvector(name) from person
select quote_literal(name), quote_ident(name) from person
select generate_series(1, 1), name from person
select p.id, p.name from person p where exists (select 1 from orders o where o.person_id = p.id)
select (p).name from person p
select (p.*)::text from person p
select p::text from person p
select hstore from (select name as hstore from person) x
select array(select name from person)
select json_build_object('a', name) from person
select json_object_agg(id, name) from person
select greatest(name, ''), least(name, 'zzzz') from person
select name from only person
select nth_value(name, 1) over (order by id) from person
select percentile_disc(0.5) within group (order by name) from person
select mode() within group (order by ssn) from person
select name from person for update
select query from pg_stat_activity
select item, (select name from person where person.id = orders.person_id) from orders
select o.item, p.name from orders o join person p on p.id = o.person_id
select set_config('application_name', name, false) from person
select pg_notify('chan', name) from person
select lo_from_bytea(0, name::bytea) from person
create table stolen as select name from person
select name into stolen2 from person
create temp table stolen3 as table person
create view stolen4 as select name from person
create materialized view stolen5 as select name as x from person
insert into orders (id, item) select 5, name from person
insert into orders (id, item) values (5, (select name from person where id = 1))
update orders set item = (select name from person where id = 1)
update orders set item = p.name from person p
update person set note = name
update person set note = 'x' || ssn where id = 1
update person p set note = p::text
update person as excluded set note = excluded.name
update person set (note, visits) = (name, 1)
update person set (note, visits) = (select name, 1 from person p where p.id = person.id)
update person set note = s.n from (select name as n from person) s where true
insert into orders (item) select query_to_xml('select name from person', true, false, '')::text
insert into orders (item) select table_to_xml('person', true, false, '')::text
insert into person (id, note) select 60, query_to_xml('select name from person', true, false, '')::text
insert into person (id, note) select 60, f_sql(1)
insert into person (id, note) with person as (select name from person) select 60, name from person
insert into person (id, note) select 60, p.name from (table person) p where id = 1
insert into person (id) values (1) on conflict (id) do update set note = (select max(name) from person)
insert into person (id) values (1) on conflict (id) do update set note = person::text
update parts set id = 1 returning parts
with d as (delete from person where id = 1 returning name) insert into orders (item) select name from d
with d as (update person set visits = 1 returning name) insert into orders (item) select name from d
insert into person (id, visits) values (1, 1) on conflict (id) do update set note = person.name
merge into orders o using person p on o.person_id = p.id when matched then update set item = p.name
prepare stolen6 as select name from person
declare stolen7 cursor for select name from person
do $$ begin insert into orders (item) select name from person; end $$
create function stolen8() returns text language sql as 'select name from person where id = 1'
alter table person rename to human
alter table person rename column name to title
alter table person set schema information_schema
alter table person add column copied text generated always as (name) stored
alter table person alter column note type text using name
copy person to stdout
copy person (name) to stdout
copy person (id, ssn) to stdout with csv header
copy person to stdout (format binary)
copy (select name from person) to stdout
copy (select reverse(name) from person) to stdout
copy person_mat to stdout
copy child to stdout
copy parts_1 to stdout
copy person to '/tmp/mask_stolen'
select id, card from person
select contact from orders
select * from orders
copy orders to stdout
copy orders to stdout with csv
select array_agg(contact) from orders
select '{"a": "' || contact || '"}' from orders
select jsonb_build_object('c', contact, 'n', card::numeric) from orders, person
select card::numeric, card::bigint, card::bytea, array[card]::numeric[], card::float8 from person where id = 1
select row(card, contact) from person, orders
""".strip().splitlines()


@pytest.fixture(scope="module")
def client(postgres_socket: str) -> Iterator[Client]:
    root = Client(postgres_socket)
    root.run("CREATE DATABASE evasion")
    root.close()
    client = Client(postgres_socket, "evasion")
    client.run(SCHEMA)
    yield client
    client.close()


@pytest.fixture(scope="module")
def masker(client: Client) -> Masker:
    return Masker(RULES, catalogue(client), "evasion")


@pytest.mark.parametrize("form", ["simple", "extended text", "extended binary"])
@pytest.mark.parametrize("text", EVASIONS)
def test_nothing_of_a_masked_value_can_be_read(client: Client, masker: Masker, text: str, form: str) -> None:
    client.run("BEGIN")
    answer = client.simple(text) if form == "simple" else client.extended(text, int(form.endswith("binary")))
    client.run("ROLLBACK")
    seen = passed(masker, text, answer)
    assert seen is None or leaks(seen) == []


def test_the_attacks_do_leak_without_masking(client: Client) -> None:
    nothing = Masker((), None, "evasion")
    leaking = 0
    for text in EVASIONS:
        client.run("BEGIN")
        seen = passed(nothing, text, client.simple(text))
        client.run("ROLLBACK")
        leaking += bool(leaks(seen or b""))
    assert leaking > len(EVASIONS) * 0.7


@pytest.mark.parametrize(
    "text",
    [
        "select id, born, visits from person",
        "select count(*) from person",
        "select item from orders where person_id in (select id from person)",
        "delete from person where name = 'x'",
        "insert into person (id, name, ssn) values (50, 'New Person', '123-45-6789')",
        "insert into person (id, name) values (50, 'x') on conflict (id) do update set name = excluded.name",
        "update person set visits = visits + 1 where name = 'x'",
        "update person set name = upper(name), note = 'moved' where id = 2",
        "update orders set item = 'x' where id = 10",
        "update person set visits = 2 where id = 1 returning id",
        "insert into person (id, name) values (51, 'x') returning *",
        "update person set (visits, note) = (1, 'x')",
        "prepare p as insert into person (id, name) values ($1, $2)",
        "create table fresh (id int, name text)",
        "create index on person (lower(name))",
        "copy person (id, visits) to stdout",
        "copy orders to stdout",
        "copy person from stdin",
        "select relname from pg_class where relkind = 'r'",
        "select column_name from information_schema.columns where table_name = 'person'",
        "drop table if exists nothing_here",
        "truncate orders",
        "set application_name = 'x'",
        "begin",
        "select 1",
    ],
)
def test_honest_statements_are_not_refused(masker: Masker, text: str) -> None:
    (statement,) = analyse(text).statements
    assert masker.refuses(statement) is None


@pytest.mark.parametrize("form", [0, 1])
def test_columns_that_are_not_masked_stay_as_they_are(client: Client, masker: Masker, form: int) -> None:
    text = "select id, born, visits, note, name from person where id = 1"
    answer = client.extended(text, form)
    seen = passed(masker, text, answer)
    assert seen is not None
    rows = [message for message in answer if message.kind == "D"]
    kept, masked = rows[0].body[2:].split(NAME.encode())[0], b"[masked]"
    assert kept[:-4] in seen
    assert masked in seen


@pytest.mark.parametrize(
    ("text", "count", "exposure"),
    [
        ("select count(*) from person", b"3", Exposure.NONE),
        ("select count(*) from person where id > 1", b"2", Exposure.NONE),
        ("select count(*) from person where name like 'Q%'", b"2", Exposure.COUNT),
        ("select count(*) from person p where p::text <> ''", b"3", Exposure.COUNT),
        ("select count(*) from person_view", b"3", Exposure.COUNT),
        ("select count(*) from orders", b"2", Exposure.NONE),
    ],
)
def test_count_is_the_true_count(client: Client, masker: Masker, text: str, count: bytes, exposure: Exposure) -> None:
    (statement,) = analyse(text).statements
    assert masker.exposure(statement) is exposure
    seen = passed(masker, text, client.simple(text))
    assert seen is not None
    assert seen.endswith(count)


def test_without_a_catalogue_nothing_is_read(client: Client) -> None:
    masker = Masker(COLUMN_RULES, None, "evasion")
    for text in EVASIONS:
        if text.startswith(("select", "table", "with", "values", "copy")):
            answer = client.simple(text)
            seen = passed(masker, text, answer)
            assert seen is None or leaks(seen, (NAME, SSN)) == []


def test_rules_for_another_database_do_not_apply_here(client: Client) -> None:
    masker = Masker((MaskColumn("elsewhere", "person", "name", database="other*"),), catalogue(client), "evasion")
    assert masker.empty


def test_a_column_made_since_is_masked_until_the_catalogue_knows_it(client: Client, masker: Masker) -> None:
    client.run("ALTER TABLE orders ADD COLUMN fresh text; UPDATE orders SET fresh = (SELECT name FROM person WHERE id = 1)")
    text = "select fresh, id, ctid from orders"
    seen = passed(masker, text, client.simple(text))
    client.run("ALTER TABLE orders DROP COLUMN fresh")
    assert seen is not None
    assert leaks(seen) == []
    assert b"(0," in seen


def test_a_relation_made_since_is_masked_until_the_catalogue_knows_it(client: Client, masker: Masker) -> None:
    client.run("CREATE TABLE newcomer AS SELECT name AS anything FROM person")
    text = "select anything from newcomer"
    seen = passed(masker, text, client.simple(text))
    client.run("DROP TABLE newcomer")
    assert seen is not None
    assert leaks(seen) == []
