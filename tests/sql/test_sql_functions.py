"""The tables of functions against a real server's catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from hostagent.model.operation import Effect
from hostagent.sql.builtins import INFORMATION_SCHEMA, NEWER, STABLE, VOLATILE
from hostagent.sql.functions import HARMLESS, effects_of

_QUERY = Path(__file__).parent.parent / "corpus" / "harmless_functions.sql"
_LEFT_OUT = re.compile(r"(table|schema|database)_to_xml|postgresql_fdw_validator\Z|fmgr_")


def _names(server: str, query: str) -> set[str]:
    with psycopg.connect(server) as connection:
        return {row[0] for row in connection.execute(query.encode()).fetchall()}


def test_stable_functions_are_those_the_server_declares(server: str) -> None:
    declared = {name for name in _names(server, _QUERY.read_text()) if not _LEFT_OUT.match(name)}
    assert declared == STABLE


def test_hand_checked_functions_exist_and_are_volatile(server: str) -> None:
    volatile = _names(server, "select proname from pg_proc where provolatile = 'v'")
    assert volatile >= VOLATILE
    everything = _names(server, "select proname from pg_proc")
    assert everything >= INFORMATION_SCHEMA


def test_no_volatile_function_is_harmless_unless_checked_by_hand(server: str) -> None:
    volatile = _names(
        server, "select proname from pg_proc where provolatile = 'v' and pronamespace = 'pg_catalog'::regnamespace"
    )
    assert volatile & HARMLESS == VOLATILE
    assert {name for name in volatile - VOLATILE if not effects_of(None, name)} == set()


def test_newer_functions_are_not_on_the_older_server(server: str) -> None:
    """A name in NEWER that PostgreSQL 15 has would have to be in one of the checked tables instead."""
    with psycopg.connect(server) as connection:
        if connection.info.server_version < 160000:
            assert not NEWER & _names(server, "select proname from pg_proc where provolatile = 'v'")


@pytest.mark.parametrize(
    ("schema", "name", "effects"),
    [
        (None, "lower", set()),
        ("pg_catalog", "lower", set()),
        ("public", "lower", {Effect.EXECUTE}),
        (None, "mine", {Effect.EXECUTE}),
        ("information_schema", "_pg_expandarray", set()),
        (None, "_pg_expandarray", {Effect.EXECUTE}),
        (None, "pg_read_file", {Effect.HOST}),
        ("public", "dblink_exec", {Effect.HOST, Effect.EXECUTE}),
        ("public", "pg_read_file", {Effect.HOST, Effect.EXECUTE}),
        (None, "pg_advisory_unlock_all", {Effect.LOCK}),
        (None, "pg_logical_emit_message", {Effect.REPLICATION}),
        (None, "pg_replication_origin_create", {Effect.REPLICATION}),
        (None, "pg_wal_replay_pause", {Effect.ADMIN}),
        (None, "lo_export", {Effect.HOST}),
        (None, "table_to_xml", {Effect.READ}),
        (None, "query_to_xml", {Effect.READ}),
    ],
)
def test_calls_have_the_effects_of_their_name(schema: str | None, name: str, effects: set[Effect]) -> None:
    assert effects_of(schema, name) == effects
