"""The masked world of the tests: a database with secrets, rules over it, and a rim that applies a plan to real messages."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mask_server import Client, Message

from hostagent.inspectors.postgres.catalogue import CATALOGUE_QUERY, parse
from hostagent.mask import Exposure, Masker, ResultColumn
from hostagent.model.catalogue import Catalogue
from hostagent.model.verdict import MaskColumn, MaskContent
from hostagent.sql import Statement, analyse

NAME = "Quentzal Zylberfox"
SSN = "721-07-4426"
CARD = "4539578763621486"
MAIL = "quentzal@zylberfox.example.org"
SECRETS = (NAME, SSN, CARD, MAIL)

SCHEMA = f"""
CREATE TABLE person (id int PRIMARY KEY, name text, ssn text, born date, note text, meta jsonb, visits int, card text);
INSERT INTO person VALUES (1, '{NAME}', '{SSN}', '1970-02-03', 'plain', '{{"ssn": "{SSN}"}}', 3, '{CARD}');
INSERT INTO person VALUES (2, NULL, '', NULL, NULL, NULL, NULL, NULL);
CREATE TABLE orders (id int, person_id int, item text, contact text);
INSERT INTO orders VALUES (10, 1, 'book', 'write to {MAIL}'), (11, 1, 'lamp', NULL);
CREATE VIEW person_view AS SELECT id, name AS label, upper(ssn) AS u FROM person;
CREATE VIEW view_of_view AS SELECT label AS l2 FROM person_view;
CREATE MATERIALIZED VIEW person_mat AS SELECT id, name FROM person;
CREATE FUNCTION f_sql(int) RETURNS text LANGUAGE sql AS 'SELECT name FROM person WHERE id = $1';
CREATE FUNCTION f_set() RETURNS SETOF person LANGUAGE sql AS 'SELECT * FROM person';
CREATE FUNCTION f_dyn(t text) RETURNS text LANGUAGE plpgsql AS 'DECLARE r text; BEGIN EXECUTE t INTO r; RETURN r; END';
CREATE FUNCTION f_raise(int) RETURNS int LANGUAGE plpgsql
    AS 'DECLARE r text; BEGIN SELECT name INTO r FROM person WHERE id = $1; RAISE NOTICE ''hi %'', r; RETURN 1; END';
CREATE VIEW view_on_function AS SELECT f_sql(1) AS x;
CREATE TABLE child () INHERITS (person);
INSERT INTO child VALUES (3, '{NAME}', '{SSN}', NULL, NULL, NULL, NULL, NULL);
CREATE TABLE parts (id int, name text) PARTITION BY LIST (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, '{NAME}');
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE DOMAIN title AS text;
CREATE TABLE typed (id int, feeling mood, called title, words text[], pair orders, amount numeric, big bigint, raw bytea,
                    doc json, span numrange, near float8);
ANALYZE;
"""

COLUMN_RULES = (
    MaskColumn("hide-names", "person", "name"),
    MaskColumn("hide-ssn", "person", "ssn"),
    MaskColumn("hide-meta", "person", "meta"),
    MaskColumn("hide-parts", "parts", "name"),
)
CONTENT_RULE = MaskContent("hide-content", frozenset({"all"}))
RULES = (*COLUMN_RULES, CONTENT_RULE)


def catalogue(client: Client) -> Catalogue:
    rows = []
    for message in client.simple(CATALOGUE_QUERY):
        assert message.kind != "E", message
        if message.kind == "D":
            (length,) = struct.unpack_from(">i", message.body, 2)
            rows.append(message.body[6 : 6 + length].decode())
    client.run("RESET search_path")
    return parse(rows)


def columns(body: bytes) -> list[ResultColumn]:
    """Parse a RowDescription."""
    (count,) = struct.unpack_from(">h", body)
    at, found = 2, []
    for _ in range(count):
        end = body.index(b"\0", at)
        table, number, type_oid, _, _, form = struct.unpack_from(">ihihih", body, end + 1)
        found.append(ResultColumn(body[at:end].decode(), table, number, type_oid, form))
        at = end + 19
    return found


def fields(body: bytes) -> dict[str, str]:
    """Parse an ErrorResponse or NoticeResponse."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


def strictest(masker: Masker, statements: Sequence[Statement]) -> Exposure:
    return max((masker.exposure(statement) for statement in statements), default=Exposure.NONE)


def passed(masker: Masker, text: str, messages: Sequence[Message]) -> bytes | None:
    """Return every byte that a client would get to see of ``messages``, or None when the statement is refused."""
    statements = analyse(text).statements
    if any(masker.refuses(statement) for statement in statements):
        return None
    exposed = strictest(masker, statements)
    out: list[bytes] = []
    plan = copying = None
    for kind, body in messages:
        if kind == "T":
            described = columns(body)
            out += [masker.text(column.name)[0].encode() for column in described]
            plan = masker.rows(described, exposed)
        elif kind == "D":
            assert plan is not None
            out.append(plan.apply(Message(kind, body).raw)[0])
        elif kind in "EN":
            out += [value.encode() for value in masker.message(fields(body), exposed).values()]
        elif kind in "SA":
            out.append(masker.text(body.decode())[0].encode())
        elif kind == "H":
            (copying,) = (masker.copy_out(statement) for statement in statements if statement.copy)
            assert copying is not None
        elif kind == "d":
            assert copying is not None
            out.append(copying.feed(body))
        elif kind == "c":
            assert copying is not None
            out.append(copying.finish())
    return b"\n".join(out)


def leaks(seen: bytes, secrets: Sequence[str] = SECRETS) -> list[str]:
    """Return what can be read of the secrets in ``seen``: any four characters in a row, forwards, backwards, in hex."""
    lowered = seen.lower()
    found = []
    for secret in secrets:
        for at in range(len(secret) - 3):
            piece = secret[at : at + 4].lower().encode()
            found += [form.decode() for form in (piece, piece[::-1], piece.hex().encode()) if form in lowered]
    return found

