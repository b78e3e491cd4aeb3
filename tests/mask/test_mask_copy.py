"""COPY TO STDOUT: streams of all three formats, in every way of cutting them, against a real server's own reading."""

from __future__ import annotations

import csv
import io
import itertools
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_server import Client
from mask_world import catalogue

from hostagent.mask import CopyPlan, Masker
from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.errors import RemoteWireError
from hostagent.model.verdict import MaskColumn, MaskContent, Obligation
from hostagent.sql import analyse

CONTENT = MaskContent("content", frozenset({"all"}))
RULES: tuple[Obligation, ...] = (MaskColumn("r", "shop", "name"), CONTENT)
SHOP = Catalogue(
    {20000: CatalogueRelation(20000, "public", "shop", "r", {1: "id", 2: "name", 3: "note"}, {1: 23, 2: 25, 3: 25})},
    frozenset(),
    ("public",),
    {},
    "v",
)


def plan(text: str, obligations: tuple[Obligation, ...] = RULES, known: Catalogue | None = SHOP) -> CopyPlan:
    (statement,) = analyse(text).statements
    made = Masker(obligations, known, "db").copy_out(statement)
    assert made is not None
    return made


def whole(text: str, *parts: bytes) -> bytes:
    made = plan(text)
    return b"".join([*(made.feed(part) for part in parts), made.finish()])


SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def binary(*rows: tuple[bytes | None, ...]) -> bytes:
    parts = [SIGNATURE]
    for row in rows:
        parts.append(struct.pack(">h", len(row)))
        parts += [struct.pack(">i", -1) if v is None else struct.pack(">i", len(v)) + v for v in row]
    return b"".join([*parts, b"\xff\xff"])


STREAMS = {
    "text": (
        "copy shop to stdout",
        b"1\tZoe Smith\tbob@example.com\n2\t\\N\t\\N\n3\ta\\tb\\nc\\\\\tplain\\n4111 1111 1111 1111\n4\t\t\n",
        b"1\t[masked]\t[masked:email]\n2\t\\N\t\\N\n3\t[masked]\tplain\\n[masked:card]\n4\t[masked]\t\n",
    ),
    "text, own delimiter and null": (
        "copy shop to stdout (delimiter '@', null 'nix')",
        b"1@Zoe\\@Smith@bob\\@example.com\n2@nix@nix\n",
        b"1@[masked]@[masked:email]\n2@nix@nix\n",
    ),
    "text with header": (
        "copy shop to stdout (header)",
        b"id\tname\tnote\n1\tZoe\tx\n",
        b"id\tname\tnote\n1\t[masked]\tx\n",
    ),
    "columns named": ("copy shop (note, name) to stdout", b"n\tZoe\n", b"n\t[masked]\n"),
    "csv": (
        "copy shop to stdout (format csv)",
        b'1,"Smith, ""Zoe""\n2nd",bob@example.com\n2,,"x ""bob@example.com"" y"\n3,"",\n',
        b'1,[masked],[masked:email]\n2,,"x ""[masked:email]"" y"\n3,[masked],\n',
    ),
    "csv, own quote and escape": (
        "copy shop to stdout (format csv, header, quote '@', escape '\\', delimiter ';')",
        b"id;name;note\n1;@a\\@b;\n\\\\@;@bob\\@example.com@\n2;;x\n",
        b"id;name;note\n1;[masked];[masked:email]\n2;;x\n",
    ),
    "binary": (
        "copy shop to stdout (format binary)",
        binary((bytes(4), b"Zoe", b"bob@example.com"), (bytes(4), None, b"x")),
        binary((bytes(4), b"[masked]", b"[masked:email]"), (bytes(4), None, b"x")),
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_masked(name: str) -> None:
    text, data, expected = STREAMS[name]
    assert whole(text, data) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_where_the_stream_is_cut_does_not_matter(name: str) -> None:
    text, data, expected = STREAMS[name]
    for cut in range(len(data) + 1):
        assert whole(text, data[:cut], data[cut:]) == expected
    assert whole(text, *(bytes([byte]) for byte in data)) == expected


@settings(deadline=None)
@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(0, 200), max_size=6))
def test_nor_in_how_many_pieces(name: str, cuts: list[int]) -> None:
    text, data, expected = STREAMS[name]
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert whole(text, *(data[a:b] for a, b in itertools.pairwise(at))) == expected


TEXTS = st.text(st.sampled_from('ab,;"\\\n\r\t@1 é'), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_csv_that_holds_anything_keeps_its_other_columns(rows: list[tuple[str, str]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows((str(n), *row) for n, row in enumerate(rows))
    seen = whole("copy shop to stdout csv", out.getvalue().encode()).decode()
    read = list(csv.reader(io.StringIO(seen, newline="")))
    assert read == [[str(n), "[masked]", note] for n, (_, note) in enumerate(rows)]


def test_counts_go_on_over_the_stream() -> None:
    made = plan("copy shop to stdout")
    made.feed(b"1\tx\ta@b.co\n2\ty")
    made.feed(b"\tz\n")
    assert (made.counts.masked, made.counts.detections) == (2, {"email": 1})


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("copy shop to stdout", b"1\tx\n"),
        ("copy shop to stdout csv", b'1,x,y,z\n'),
        ("copy shop to stdout (format binary)", b"not binary at all!"),
        ("copy shop to stdout (format binary)", SIGNATURE + struct.pack(">hi", 1, 0)),
        ("copy shop to stdout (format binary)", SIGNATURE + b"\xff\xff" + struct.pack(">h", 0)),
        ("copy shop to stdout (format binary)", SIGNATURE + struct.pack(">hi", 3, -2)),
        ("copy shop to stdout (format binary)", b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 1, 0) + b"\xff\xff"),
    ],
)
def test_streams_of_another_shape_are_an_error(text: str, data: bytes) -> None:
    with pytest.raises(RemoteWireError):
        whole(text, data)


def test_binary_that_stops_inside_a_row_is_an_error() -> None:
    with pytest.raises(RemoteWireError):
        whole("copy shop to stdout (format binary)", SIGNATURE + struct.pack(">hi", 3, 4))


def test_a_relation_that_is_not_known_is_refused_when_columns_are_masked() -> None:
    (statement,) = analyse("copy elsewhere to stdout").statements
    assert Masker(RULES, SHOP, "db").copy_out(statement) is None
    assert Masker(RULES, None, "db").copy_out(statement) is None
    assert Masker((CONTENT,), None, "db").copy_out(statement) is not None


def test_a_query_is_scanned_for_content_where_no_column_is_masked() -> None:
    made = plan("copy (select 1) to stdout", (CONTENT,), None)
    assert made.feed(b"x\tbob@example.com;\t4111111111111111,\n") == b"x\t[masked:email];\t[masked:card],\n"


def test_without_obligations_that_apply_a_stream_is_transparent() -> None:
    assert plan("copy shop to stdout", (MaskColumn("r", "shop", "other"),)).transparent


@pytest.fixture(scope="module")
def client(postgres_socket: str) -> Iterator[Client]:
    root = Client(postgres_socket)
    root.run("CREATE DATABASE copying")
    root.close()
    client = Client(postgres_socket, "copying")
    client.run("CREATE TABLE shop (id int, dropped text, name text, note text, doc jsonb, words text[], big int8, raw bytea)")
    client.run("ALTER TABLE shop DROP COLUMN dropped")
    client.run("CREATE TABLE back (LIKE shop)")
    client.run(
        r"""INSERT INTO shop VALUES (1, E'Zoe\t"\\,\n@', 'x', '{"a": "bob@example.com", "b": [1.50]}', '{a,"b c",NULL}', 7, '\x0001'),
        (2, NULL, E'\\N', NULL, '{}', NULL, NULL), (3, '', '', '"x"', '{bob@example.com}', 4111111111111111, 'bob@example.com'),
        (4, 'x', E'\\.\r\n\u00e9"', 'null', NULL, -4, '')"""
    )
    yield client
    client.close()


OPTIONS = [
    "(format text)",
    "(format text, delimiter '@', null 'nix')",
    "(format csv)",
    "(format csv, force_quote *, null 'nix')",
    "(format csv, delimiter ';', quote '@', escape '\\')",
    "(format csv, header)",
    "(format binary)",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_passes_can_be_read_back_by_the_server(client: Client, options: str) -> None:
    text = f"COPY shop TO STDOUT {options}"
    made = plan(text, RULES, catalogue(client))
    stream = b"".join(made.feed(message.body) for message in client.simple(text) if message.kind == "d") + made.finish()
    back_options = options.replace("force_quote *, ", "")
    client.run("TRUNCATE back")
    client.load(f"COPY back FROM STDIN {back_options}", stream)
    words = "NULL" if "binary" in options else "replace(words::text, 'bob@example.com', '[masked:email]')::text[]"
    hit = "words::text LIKE '%bob@%'"  # an array in binary cannot be changed in place, so it goes
    assert client.texts("SELECT row(b.*)::text FROM back b ORDER BY id") == client.texts(
        f"""SELECT row(id, CASE WHEN name IS NOT NULL THEN '[masked]' END, note,
                  replace(doc::text, 'bob@example.com', '[masked:email]')::jsonb,
                  CASE WHEN {hit} THEN {words} ELSE words END,
                  CASE WHEN big = 4111111111111111 THEN 0 ELSE big END,
                  CASE WHEN raw = 'bob@example.com' THEN '[masked:email]' ELSE raw END)::text FROM shop ORDER BY id"""
    )
