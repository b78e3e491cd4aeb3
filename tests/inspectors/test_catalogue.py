"""The catalogue query against a real server, and what is read out of its answer."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hostagent.inspectors.postgres.catalogue import CATALOGUE_QUERY, parse
from hostagent.model.catalogue import Catalogue, CatalogueRelation, CatalogueType
from hostagent.model.errors import RemoteWireError

BIN = Path("/usr/lib/postgresql/15/bin")
# PostgreSQL refuses to run as root.
AS_POSTGRES = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups") if os.geteuid() == 0 else ()

SCHEMA = """
CREATE SCHEMA app;
CREATE TABLE app.person (id int PRIMARY KEY, gone text, name text);
ALTER TABLE app.person DROP COLUMN gone;
CREATE VIEW app.seen AS SELECT name FROM app.person;
CREATE VIEW app.twice AS SELECT name FROM app.seen;
CREATE MATERIALIZED VIEW app.kept AS SELECT name FROM app.twice;
CREATE FUNCTION app.f() RETURNS text LANGUAGE sql AS 'SELECT name FROM app.person LIMIT 1';
CREATE VIEW app.hidden AS SELECT app.f() AS x;
CREATE FUNCTION app.eq(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR app.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = app.eq);
CREATE VIEW app.by_operator AS SELECT 'a' OPERATOR(app.===) 'b' AS x;
CREATE VIEW app.stats AS SELECT most_common_vals::text AS v FROM pg_stats;
CREATE TABLE app.parts (id int, name text) PARTITION BY LIST (id);
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES IN (1) PARTITION BY LIST (id);
CREATE TABLE app.parts_1_1 PARTITION OF app.parts_1 FOR VALUES IN (1);
CREATE DOMAIN app.title AS varchar(9);
CREATE TYPE app.mood AS ENUM ('calm');
CREATE TYPE app.pair AS (a int, b text);
CREATE TABLE app."Odd ""Name" ("Str ange" text);
"""


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection[Any]]:
    home = Path(subprocess.run([*AS_POSTGRES, "mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    control = [*AS_POSTGRES, str(BIN / "pg_ctl"), "-D", str(home / "data"), "-w", "-l", str(home / "log")]
    subprocess.run(
        [*AS_POSTGRES, str(BIN / "initdb"), "-D", str(home / "data"), "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C"],
        check=True,
        capture_output=True,
    )
    options = f"-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
    try:
        subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True)
        with psycopg.connect(host=str(home), user="postgres", autocommit=True) as connection:
            connection.execute(SCHEMA)
            yield connection
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)
        subprocess.run([*AS_POSTGRES, "rm", "-rf", str(home)], check=False)


def answer(connection: psycopg.Connection[Any]) -> list[str]:
    cursor = connection.execute(CATALOGUE_QUERY.encode())
    rows: list[str] = []
    while True:
        if cursor.description is not None:
            rows += [row[0] for row in cursor.fetchall()]
        if not cursor.nextset():
            connection.execute("RESET search_path")
            return rows


@pytest.fixture(scope="module")
def found(connection: psycopg.Connection[Any]) -> Catalogue:
    return parse(answer(connection))


def named(found: Catalogue, name: str) -> CatalogueRelation:
    (relation,) = (r for r in found.relations.values() if r.name == name)
    return relation


def test_relations_have_their_columns_by_attribute_number(found: Catalogue) -> None:
    person = named(found, "person")
    assert person == CatalogueRelation(person.oid, "app", "person", "r", {1: "id", 3: "name"}, {1: 23, 3: 25})
    assert named(found, 'Odd "Name').columns == {1: "Str ange"}


def test_views_depend_on_what_they_read_through_other_views(found: Catalogue) -> None:
    person, seen, twice = (named(found, name).oid for name in ("person", "seen", "twice"))
    assert named(found, "seen").depends_on == {person}
    assert named(found, "twice").depends_on == {person, seen}
    assert named(found, "kept").depends_on == {person, seen, twice}
    assert named(found, "kept").kind == "m"


def test_views_on_functions_and_operators_of_others_are_opaque(found: Catalogue) -> None:
    assert {r.name for r in found.relations.values() if r.opaque} == {"hidden", "by_operator"}


def test_statistics_are_known_and_followed(found: Catalogue) -> None:
    assert named(found, "pg_stats").oid in named(found, "stats").depends_on
    assert "most_common_vals" in named(found, "pg_stats").columns.values()


def test_partitions_are_one_family(found: Catalogue) -> None:
    family = {named(found, name).oid for name in ("parts", "parts_1", "parts_1_1")}
    assert named(found, "parts").kin == named(found, "parts_1_1").kin == family
    assert named(found, "person").kin == frozenset()


def test_toast_tables_depend_on_their_owner(found: Catalogue) -> None:
    person = named(found, "person").oid
    toast = named(found, f"pg_toast_{person}")
    assert (toast.kind, toast.depends_on) == ("t", frozenset({person}))


def test_functions_types_path_and_system_names(found: Catalogue) -> None:
    assert found.functions == {"f", "eq"}
    assert found.search_path == ("pg_catalog", "public")
    by_name = {kind.name: kind for kind in found.types.values()}
    title, mood, pair = by_name["title"], by_name["mood"], by_name["pair"]
    assert title == CatalogueType(title.oid, "app", "title", "d", "S", 1043)
    assert (mood.kind, mood.category, pair.kind, pair.category) == ("e", "E", "c", "C")
    assert {"pg_class", "pg_type", "pg_stats"} <= found.system_relations
    assert "tables" not in found.system_relations
    assert 1259 in found.system_oids


def test_the_version_changes_with_the_schema_and_only_then(connection: psycopg.Connection[Any], found: Catalogue) -> None:
    assert parse(answer(connection)).version == found.version
    connection.execute("CREATE TABLE app.more (x int)")
    assert parse(answer(connection)).version != found.version
    connection.execute("DROP TABLE app.more")


def test_nothing_in_the_database_can_stand_in_for_the_catalogue(connection: psycopg.Connection[Any], found: Catalogue) -> None:
    connection.execute("CREATE SCHEMA trap; CREATE TABLE trap.pg_class (oid oid, relname name, relkind \"char\")")
    connection.execute("SET search_path = trap, pg_catalog")
    rows = answer(connection)
    connection.execute("DROP SCHEMA trap CASCADE")
    assert {r.name for r in parse(rows).relations.values()} - {"pg_class"} == {r.name for r in found.relations.values()}


@pytest.mark.parametrize("rows", [[], ["[]"], ["[]", "{}"], ["[]", "not json"], ["[]", json.dumps({"relations": [[1]]})]])
def test_an_answer_that_cannot_be_read_is_the_servers_error(rows: list[str]) -> None:
    with pytest.raises(RemoteWireError):
        parse(rows)
