"""What the bypass tests attack: a database with secrets in it, behind gates that mask, deny and hold.

The rules are the plainest that can be: one table has masked columns, a text with ``forbidden`` is denied, a DELETE without
WHERE is held. Everything else is allowed, so that nothing but the part under attack stands in the way.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import psycopg

from hostagent.inspectors.postgres.catalogue import CATALOGUE_QUERY
from hostagent.inspectors.postgres.catalogue import parse as parse_catalogue
from hostagent.model.catalogue import Catalogue
from hostagent.model.flow import Side
from hostagent.model.operation import Effect, Operation
from hostagent.model.verdict import Decision, MaskColumn, MaskContent
from tests.gate.gate_rim import Relay, Rules, make_context, sent
from tests.gate.gate_wire import RawClient

NAME = "Quentzal"
SURNAME = "Zylberfox"
CARD = "4539578763621486"

SCHEMA = f"""
drop schema public cascade;
create schema public;
create table people (
    id int primary key, name text not null, surname text not null, card text, note text,
    shout text generated always as (upper(name)) stored, size int generated always as (id * 2) stored
);
insert into people (id, name, surname, card, note) values (1, '{NAME}', '{SURNAME}', '{CARD}', 'plain');
create table things (id int primary key, label text, note text);
insert into things values (1, 'lamp', 'plain'), (2, 'book', 'plain');
create table accounts (id int primary key);
insert into accounts values (1);
create table members (id int references accounts on delete set null check (id is not null), name text);
insert into members values (1, '{NAME}');
alter table people add constraint one_name unique (name);
create table admirers (name text references people (name) deferrable initially deferred);
insert into admirers values ('{NAME}');
create table doomed (id int);
insert into doomed values (1), (2);
"""

OBLIGATIONS = (
    MaskColumn("hide-names", "people", "name"),
    MaskColumn("hide-names", "people", "surname"),
    MaskColumn("hide-cards", "people", "card", transform="partial"),
    MaskColumn("hide-members", "members", "name"),
    MaskContent("hide-mail", frozenset({"email"})),
)


def decide(operation: Operation) -> Decision:
    """Deny what says so, hold the deletion of whole tables, allow the rest."""
    if "forbidden" in operation.text:
        return Decision.DENY
    return Decision.HOLD if Effect.DELETE_ALL in operation.effects else Decision.ALLOW


class World:
    """One server, and what its database held when ``fresh`` was last called."""

    def __init__(self, port: int) -> None:
        """Use the server on loopback ``port``."""
        self.port = port
        self.catalogue: Catalogue | None = None

    def fresh(self, more: str = "") -> None:
        """Make the database anew and learn its catalogue; ``more`` is SQL on top of the schema."""
        with self.direct() as connection:
            connection.execute(SCHEMA + more)
            self.learn()

    def learn(self) -> None:
        """Learn the catalogue as it is now."""
        with self.direct() as connection:
            cursor = connection.execute(CATALOGUE_QUERY)
            rows = [json.dumps(value) if isinstance(value, list) else str(value) for (value,) in cursor.fetchall()]
            while cursor.nextset():
                if cursor.description:
                    rows += [str(value) for (value,) in cursor.fetchall()]
            self.catalogue = parse_catalogue(rows)

    def direct(self) -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection past every gate."""
        return psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres", autocommit=True)

    def one(self, text: str) -> object:
        """Return one value, asked past every gate."""
        with self.direct() as connection:
            row = connection.execute(text.encode()).fetchone()
        return None if row is None else row[0]

    def relay(self, rule: Callable[[Operation], Decision] = decide, *, masks: bool = True) -> Relay:
        """Return a relay with a gate per connection."""
        rules = Rules(rule, OBLIGATIONS if masks else ())
        return Relay(self.port, lambda: make_context(rules, self.catalogue))


def seen(relay: Relay) -> bytes:
    """Return every byte that the client was sent."""
    return sent(relay.commands, Side.CLIENT)


def run_scripts(world: World, steps: list[tuple[bytes, int]]) -> tuple[bytes, str]:
    """Send each step and wait for its ReadyForQuery messages; return what the client saw and what was recorded."""
    with world.relay() as relay, RawClient(relay.port) as client:
        try:
            for data, times in steps:
                client.ask(data, times)
        except (ConnectionError, TimeoutError, struct.error):
            pass
        client.sock.close()
        relay.ended.wait(10)
    return seen(relay), repr(relay.events())
