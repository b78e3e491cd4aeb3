"""Which relations, functions, columns and settings a statement touches; what it carries inside."""

from __future__ import annotations

import pytest

from hostagent.model.operation import Access, Completeness, Effect, Resource
from hostagent.sql import CopyStatement, Function, Relation, Statement, analyse, resolved

READ, WRITE, DEFINE, USE = Access.READ, Access.WRITE, Access.DEFINE, Access.USE


def one(sql: str) -> Statement:
    analysis = analyse(sql)
    assert not analysis.error, analysis.error
    (statement,) = analysis.statements
    return statement


@pytest.mark.parametrize(
    ("sql", "relations"),
    [
        ("select * from a, s.b join c using (id)", [(None, "a", READ), (None, "c", READ), ("s", "b", READ)]),
        ("with x as (select 1) select * from x", []),
        ("with a as (select * from a) select * from a", [(None, "a", READ)]),
        ("with recursive a as (select 1 union select * from a) select * from a", []),
        ("with a as (select 1) select * from public.a", [("public", "a", READ)]),
        ("select * from (with a as (select 1) select * from a) q, a", [(None, "a", READ)]),
        ("with a as (select * from b), b as (select 1) select * from a, b", [(None, "b", READ)]),
        ("with a as (select 1) select (select max(1) from a) union select 1 from a", []),
        ("(with a as (select 1) select * from a) union select 1", []),
        ("with a as (select 1) delete from a", [(None, "a", WRITE)]),
        ("with a as (select 1) insert into b select * from a", [(None, "b", WRITE)]),
        ("update a set x = 1 from b where a.id = b.id", [(None, "a", WRITE), (None, "b", READ)]),
        ("delete from a returning *", [(None, "a", READ), (None, "a", WRITE)]),
        ("merge into a using b on a.i = b.i when matched then delete", [(None, "a", WRITE), (None, "b", READ)]),
        ("select * from a x for update of x", [(None, "a", READ)]),
        ("select * into fresh from a", [(None, "a", READ), (None, "fresh", DEFINE)]),
        ("create table fresh (i int references a)", [(None, "a", READ), (None, "fresh", DEFINE)]),
        ("create view v as select * from a", [(None, "a", READ), (None, "v", DEFINE)]),
        ("create function f() returns void language sql as 'delete from a'", [(None, "a", READ)]),
        ("create policy p on a using (exists (select 1 from b))", [(None, "a", DEFINE), (None, "b", READ)]),
        ("drop table a, s.b", [(None, "a", DEFINE), ("s", "b", DEFINE)]),
        ("drop trigger t on s.a", [("s", "a", DEFINE)]),
        ("comment on column s.a.c is 'x'", [("s", "a", DEFINE)]),
        ("grant select on a to bob", [(None, "a", DEFINE)]),
        ("truncate a, b", [(None, "a", WRITE), (None, "b", WRITE)]),
        ("lock table a", [(None, "a", USE)]),
        ("copy s.a from stdin", [("s", "a", WRITE)]),
        ("copy (select * from a) to stdout", [(None, "a", READ)]),
        ("explain delete from a", [(None, "a", READ)]),
        ("explain analyze delete from a", [(None, "a", WRITE)]),
        ("select nextval('S.\"Q\"')", [("s", "Q", WRITE)]),
        ("select table_to_xml('a', true, true, '')", [(None, "a", READ)]),
        ("select query_to_xml('select * from a', true, true, '')", [(None, "a", READ)]),
        ('select * from "MiXed", FOLDED', [(None, "MiXed", READ), (None, "folded", READ)]),
        ("create foreign table f (i int) server s", [(None, "f", DEFINE)]),
    ],
)
def test_relations_are_found_with_their_access_and_ctes_are_not(
    sql: str, relations: list[tuple[str | None, str, Access]]
) -> None:
    assert list(one(sql).relations) == sorted(
        (Relation(*relation) for relation in relations), key=lambda r: (r.schema or "", r.name, r.access)
    )


@pytest.mark.parametrize(
    ("sql", "columns", "star"),
    [
        ("select ssn, c.name from customers c", {"ssn", "name"}, False),
        ("select * from customers", set(), True),
        ("select c.* from customers c", set(), True),
        ("select c from customers c", {"c"}, True),
        ("select customers from customers", {"customers"}, True),
        ("select public.customers from public.customers", {"customers"}, True),
        ("select row_to_json(c) from customers c", {"c"}, True),
        ("select ssn(c) from customers c", {"c"}, True),
        ("select (c).ssn from customers c", {"c", "ssn"}, True),
        ("select (select x from (select ssn from customers) x)", {"x", "ssn"}, True),
        ("with x as (select ssn from customers) select x from x", {"x", "ssn"}, True),
        ("select count(*) from customers", set(), False),
        ("select 1 from a join b using (ssn)", {"ssn"}, False),
        ("delete from customers returning *", set(), True),
        ("update customers c set name = 'x' returning c", {"c"}, True),
        ("insert into customers as c (id) values (1) returning c", {"c"}, True),
        ("table customers", set(), True),
        ("copy customers to stdout", set(), True),
        ("copy customers (id) to stdout", {"id"}, False),
        ("select 1 from customers order by ssn", {"ssn"}, False),
        ("alter table customers rename ssn to x", {"ssn"}, False),
    ],
)
def test_columns_and_whole_rows_are_found(sql: str, columns: set[str], star: bool) -> None:
    statement = one(sql)
    assert (set(statement.columns), statement.star) == (columns, star)


def test_functions_are_found_wherever_they_are_called() -> None:
    statement = one("select a(b(1)) from s.c(2) x, t tablesample d(1) where e() order by f(1) limit g()")
    names = [Function(None, n) for n in "abdefg"]
    assert list(statement.functions) == [*names, Function("s", "c")]
    assert Effect.EXECUTE in statement.effects


def test_a_called_procedure_and_its_arguments_are_found() -> None:
    assert one("call s.p(g(1))").functions == (Function(None, "g"), Function("s", "p"))


def test_resources_name_everything_once_and_sorted() -> None:
    statement = one("select lower(name) from s.t, s.t x; ")
    assert statement.resources == (Resource("function", "lower", USE), Resource("relation", "s.t", READ))


def test_a_dot_inside_a_quoted_name_is_not_a_schema() -> None:
    assert one('select * from "public.customers"').resources == (Resource("relation", '"public.customers"', READ),)


@pytest.mark.parametrize(
    ("sql", "resource"),
    [
        ("copy t to '/x'", Resource("file", "/x", WRITE)),
        ("copy t from program 'curl -u me:secret'", Resource("program", "*", USE)),
        ("create extension dblink", Resource("extension", "dblink", DEFINE)),
        ("drop schema s cascade", Resource("schema", "s", DEFINE)),
        ("set role bob", Resource("role", "bob", USE)),
        ("set \"ROLE\" to 'bob'", Resource("role", "bob", USE)),
        ("grant select on t to bob", Resource("role", "bob", USE)),
        ("show Search_Path", Resource("setting", "search_path", READ)),
        ("set work_mem = 1", Resource("setting", "work_mem", WRITE)),
        ("alter system set work_mem = 1", Resource("setting", "work_mem", DEFINE)),
        ("notify c, 'x'", Resource("channel", "c", USE)),
        ("select pg_notify('c', 'x')", Resource("channel", "c", USE)),
        ("do language plpython3u 'x'", Resource("language", "plpython3u", USE)),
        ("call s.p()", Resource("procedure", "s.p", USE)),
        ("truncate t cascade", Resource("relation", "*", WRITE)),
        ("drop table t cascade", Resource("relation", "*", DEFINE)),
        ("select nextval($1)", Resource("relation", "*", WRITE)),
        ("drop database d", Resource("database", "d", DEFINE)),
        ("drop function s.f(int)", Resource("function", "s.f", DEFINE)),
    ],
)
def test_things_other_than_relations_are_resources(sql: str, resource: Resource) -> None:
    assert resource in one(sql).resources


@pytest.mark.parametrize(
    ("sql", "settings"),
    [
        ("set search_path to a, \"B\", 'c'", [("search_path", "a, B, c")]),
        ("SET LOCAL Work_Mem = 64", [("work_mem", "64")]),
        ("set x.y to default", [("x.y", None)]),
        ("reset search_path", [("search_path", None)]),
        ("reset all", [("*", None)]),
        ("discard all", [("*", None)]),
        ("set time zone interval '1 hour'", [("timezone", "1 hour")]),
        ("select set_config('A.b', 'c', true), set_config('d', $1, false)", [("d", None), ("a.b", "c")]),
        ("prepare p as select set_config('a', 'b', true)", [("a", "b")]),
    ],
)
def test_settings_are_told_with_their_values(sql: str, settings: list[tuple[str, str | None]]) -> None:
    assert sorted(one(sql).settings, key=str) == sorted(settings, key=str)


def test_copy_tells_direction_columns_and_options() -> None:
    statement = one("copy s.t (a, b) from stdin with (format csv, header match, null '', force_not_null (a, b))")
    assert statement.copy == CopyStatement(
        "in",
        Relation("s", "t", WRITE),
        ("a", "b"),
        query=False,
        format="csv",
        options={"format": "csv", "header": "match", "null": "", "force_not_null": "a,b"},
    )
    assert not statement.returns_rows


def test_copy_of_a_query_has_the_query_inside() -> None:
    statement = one("copy (select ssn from customers) to stdout binary")
    assert statement.copy == CopyStatement("out", None, (), query=True, format="binary", options={"format": "binary"})
    assert statement.inner is not None
    assert statement.inner.verb == "select"


def test_copy_of_files_is_not_copy_through_the_connection() -> None:
    assert one("copy t to '/x'").copy is None


@pytest.mark.parametrize(
    ("sql", "verb", "name", "inner"),
    [
        ("prepare p as delete from t", "prepare", "p", "delete"),
        ("execute p", "execute", "p", None),
        ("deallocate p", "deallocate", "p", None),
        ("deallocate all", "deallocate", "", None),
        ("declare c cursor for select 1", "declare cursor", "c", "select"),
        ("fetch all in c", "fetch", "c", None),
        ("move c", "move", "c", None),
        ("close c", "close", "c", None),
        ("explain select 1", "explain", "", "select"),
        ("explain execute p", "explain", "p", "execute"),
        ("create table x as execute p", "create table as", "p", "execute"),
        ("create view v as select 1", "create view", "", "select"),
        ("start transaction", "begin", "", None),
        ("drop materialized view m", "drop materialized view", "", None),
        ("alter index i rename to j", "rename", "", None),
    ],
)
def test_names_and_inner_statements(sql: str, verb: str, name: str, inner: str | None) -> None:
    statement = one(sql)
    found = None if statement.inner is None else statement.inner.verb
    assert (statement.verb, statement.name, found) == (verb, name, inner)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select 1", True),
        ("values (1)", True),
        ("show x", True),
        ("explain select 1", True),
        ("delete from t returning 1", True),
        ("fetch c", True),
        ("execute p", True),
        ("select 1 into x", False),
        ("delete from t", False),
        ("create table x as select 1", False),
        ("prepare p as select 1", False),
        ("move c", False),
        ("begin", False),
    ],
)
def test_statements_tell_whether_they_return_rows(sql: str, rows: bool) -> None:
    assert one(sql).returns_rows is rows


@pytest.mark.parametrize(
    ("sql", "only"),
    [
        ("select count(*) from customers", True),
        ("select count(*) as n, count(*) from customers where ssn = '1'", True),
        ("select count(ssn) from customers", False),
        ("select count(*), max(ssn) from customers", False),
        ("select count(*) from customers group by ssn", False),
        ("select count(*) from customers union select 1", False),
        ("select (select count(*) from customers)", False),
        ("select evil.counts(*) from customers", False),
        ("delete from customers", False),
    ],
)
def test_only_plain_counts_are_called_counts(sql: str, only: bool) -> None:
    assert one(sql).count_star_only is only


def test_execute_takes_on_the_meaning_of_what_was_prepared() -> None:
    execute = one("execute p(f_read(1))")
    assert (execute.by_name, execute.completeness) == (True, Completeness.PARTIAL)
    full = resolved(execute, one("prepare p as delete from t returning *"))
    assert full.effects == {Effect.EXECUTE, Effect.DELETE, Effect.DELETE_ALL, Effect.READ}
    assert full.completeness is Completeness.FULL
    assert full.relations == (Relation(None, "t", READ), Relation(None, "t", WRITE))
    assert full.functions == (Function(None, "f_read"),)
    assert full.star
    assert full.returns_rows
    assert not full.by_name
    assert full.inner is not None
    assert full.inner.verb == "delete"


def test_what_else_was_unclear_in_an_execute_stays_unclear() -> None:
    execute = one("execute p(set_config($1, 'x', false))")
    assert execute.completeness is Completeness.OPAQUE
    assert resolved(execute, one("prepare p as select 1")).completeness is Completeness.OPAQUE


def test_fetch_is_as_unclear_as_its_cursor() -> None:
    cursor = one("declare c cursor for select query_to_xml($1, true, true, '')")
    assert resolved(one("fetch c"), cursor).completeness is Completeness.PARTIAL


def test_a_statement_without_a_name_resolves_to_itself() -> None:
    statement = one("select 1")
    assert resolved(statement, one("prepare p as delete from t")) is statement


def test_multi_statement_text_is_cut_at_bytes_not_characters() -> None:
    analysis = analyse("select 'ä€😀'; select 2 ; /* ü */ drop table ö;")
    assert [s.text for s in analysis.statements] == ["select 'ä€😀'", "select 2", "/* ü */ drop table ö"]
    assert [s.redacted for s in analysis.statements] == ["select ?", "select ?", "drop table ö"]
