"""Row plans: the quick way over whole runs does exactly what looking at each value alone would do."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.mask import Counts, Exposure, Masker, ResultColumn
from hostagent.mask.rows import RowPlan
from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.errors import RemoteWireError
from hostagent.model.verdict import MaskColumn, MaskContent, Obligation

TITLES = {1: "a", 2: "b", 3: "c", 4: "d", 5: "e"}
SHOP = Catalogue({20000: CatalogueRelation(20000, "public", "shop", "r", TITLES)}, frozenset(), ("public",), {}, "v")
CONTENT = MaskContent("content", frozenset({"all"}))
CARD = b"4111111111111111"
Values = list[bytes | None]


def row(values: Values) -> bytes:
    cells = (b"\xff\xff\xff\xff" if v is None else struct.pack(">i", len(v)) + v for v in values)
    body = struct.pack(">H", len(values)) + b"".join(cells)
    return b"D" + struct.pack(">i", len(body) + 4) + body


def unrow(run: bytes) -> list[Values]:
    rows, at = [], 0
    while at < len(run):
        kind, length, count = struct.unpack_from(">ciH", run, at)
        assert kind == b"D"
        cell, values = at + 7, []
        for _ in range(count):
            (size,) = struct.unpack_from(">i", run, cell)
            values.append(None if size < 0 else run[cell + 4 : cell + 4 + size])
            cell += 4 + max(size, 0)
        at += 1 + length
        assert cell == at
        rows.append(values)
    return rows


def plan(obligations: tuple[Obligation, ...], types: list[int], form: int = 0, key: bytes = b"") -> RowPlan:
    columns = [ResultColumn(TITLES[n + 1], 20000, n + 1, oid, form) for n, oid in enumerate(types)]
    return Masker(obligations, SHOP, "db", key).rows(columns, Exposure.NONE)


def masked(plan: RowPlan, *rows: Values) -> list[Values]:
    return unrow(plan.apply(b"".join(map(row, rows)))[0])


TEXT, INT4, INT8, NUMERIC, FLOAT8, JSON, JSONB, BYTEA, UUID, DATE, INT8S, TEXTS, UNKNOWN = (
    *(25, 23, 20, 1700, 701, 114, 3802, 17, 2950, 1082, 1016, 1009, 99999),
)
NUMBER = struct.pack(">q", int(CARD))
DIGITS = struct.pack(">HhHHHHHH", 4, 3, 0, 0, 4111, 1111, 1111, 1111)
ARRAY = struct.pack(">iiiii", 1, 0, 20, 1, 1) + struct.pack(">i", 8) + NUMBER

CONTENT_CASES = [
    # type, format, value, what it becomes
    (TEXT, 0, b"pay 4111 1111 1111 1111 now", b"pay [masked:card] now"),
    (TEXT, 1, b"bob@example.com", b"[masked:email]"),
    (INT8, 0, CARD, b"0"),
    (INT8, 1, NUMBER, bytes(8)),
    (INT8, 0, b"1234", b"1234"),
    (NUMERIC, 0, CARD + b".00", b"0"),
    (NUMERIC, 1, DIGITS, bytes(8)),
    (NUMERIC, 1, struct.pack(">HhHHH", 1, 3, 0, 0, 4111), struct.pack(">HhHHH", 1, 3, 0, 0, 4111)),
    (FLOAT8, 0, b"4.111111111111111e+15", b"0"),
    (FLOAT8, 1, struct.pack(">d", 4111111111111111.0), bytes(8)),
    (FLOAT8, 0, b"4.2", b"4.2"),
    (JSON, 0, b'{"a": "bob@example.com", "n": 4111111111111111, "x": [1]}', b'{"a": "[masked:email]", "n": 0, "x": [1]}'),
    (JSON, 0, rb'{"a": "bob\u0040example.com"}', b'{"a": "[masked:email]"}'),
    (JSON, 0, b'{"n": 4.111111111111111e15}', b'"[masked]"'),
    (JSON, 1, b'["bob@example.com"]', b'["[masked:email]"]'),
    (JSONB, 1, b'\x01["bob@example.com"]', b'\x01["[masked:email]"]'),
    (JSONB, 0, b'{"4111111111111111": 1}', b'{"[masked:card]": 1}'),
    (JSON, 0, b'"-----BEGIN PRIVATE KEY-----"', b'"[masked]"'),
    (BYTEA, 0, b"\\x" + CARD.hex().encode(), b"\\x" + b"[masked:card]".hex().encode()),
    (BYTEA, 1, b"\x00\x01" + CARD + b"\x00", b"\x00\x01[masked:card]\x00"),
    (TEXTS, 0, b'{"bob@example.com",x}', b'{"[masked:email]",x}'),
    (TEXTS, 1, struct.pack(">iiiiii", 1, 0, 25, 1, 1, 16) + CARD, None),
    (INT8S, 0, b"{1," + CARD + b"}", None),
    (INT8S, 1, ARRAY, None),
    (2249, 0, b"(1," + CARD + b",bob@example.com)", b"(1,[masked:card],[masked:email])"),
    (2249, 1, struct.pack(">iiii", 1, 25, 16, 0)[:12] + CARD, None),
    (3906, 0, b"[4111111111111111,4111111111111112)", None),
    (UNKNOWN, 0, b"tag:" + CARD + b";", b"tag:[masked:card];"),
    (UNKNOWN, 0, b"tag:" + CARD, None),  # it ran to the end of a value whose syntax is not known
    (UNKNOWN, 1, b"\x00" + CARD + b"\x00", None),
    (UNKNOWN, 1, NUMBER, None),
    (UUID, 0, b"41111111-1111-1111-8111-111111111111", b"41111111-1111-1111-8111-111111111111"),
    (DATE, 0, b"2024-01-01", b"2024-01-01"),
    (INT4, 0, b"41111111", b"41111111"),
]


@pytest.mark.parametrize(("oid", "form", "value", "expected"), CONTENT_CASES)
def test_content_is_masked_by_type_and_format(oid: int, form: int, value: bytes, expected: bytes | None) -> None:
    assert masked(plan((CONTENT,), [oid], form), [value], [None]) == [[expected], [None]]


COLUMN_CASES = [
    # type, format, value, redact, partial
    (TEXT, 0, "Zoë Smith".encode(), b"[masked]", b"****mith"),
    (TEXT, 1, b"short", b"[masked]", b"[masked]"),
    (INT4, 0, b"123456789", b"0", b"6789"),
    (INT4, 1, struct.pack(">i", 123456789), bytes(4), struct.pack(">i", 6789)),
    (INT8, 1, struct.pack(">q", 5), bytes(8), bytes(8)),
    (NUMERIC, 0, b"1234567890.55", b"0", b"7890"),
    (NUMERIC, 1, DIGITS, bytes(8), struct.pack(">HhHHH", 1, 0, 0, 0, 1111)),
    (FLOAT8, 0, b"1.5", b"0", b"0"),
    (DATE, 0, b"2024-01-01", None, None),
    (DATE, 1, bytes(4), None, None),
    (16, 0, b"t", None, None),
    (UUID, 0, b"41111111-1111-1111-8111-111111111111", None, None),
    (JSON, 0, b"{}", b'"[masked]"', b'"[masked]"'),
    (JSONB, 1, b"\x01{}", b'\x01"[masked]"', b'\x01"[masked]"'),
    (BYTEA, 0, b"\\x00", b"\\x5b6d61736b65645d", b"\\x5b6d61736b65645d"),
    (BYTEA, 1, b"\x00", b"[masked]", b"[masked]"),
    (TEXTS, 0, b"{a}", None, None),
    (UNKNOWN, 0, b"anything", None, None),
    (UNKNOWN, 1, b"anything", None, None),
]


@pytest.mark.parametrize(("oid", "form", "value", "redact", "partial"), COLUMN_CASES)
def test_column_rules_replace_type_correctly(
    oid: int, form: int, value: bytes, redact: bytes | None, partial: bytes | None
) -> None:
    for transform, expected in (("redact", redact), ("partial", partial), ("null", None)):
        rule = MaskColumn("r", "shop", "a", transform=transform)
        assert masked(plan((rule,), [oid], form), [value], [None]) == [[expected], [None]]


@pytest.mark.parametrize(
    ("oid", "text", "binary"),
    [
        (TEXT, b"Zoe", b"Zoe"),
        (INT4, b"77", struct.pack(">i", 77)),
        (INT8, b"77", struct.pack(">q", 77)),
        (21, b"77", struct.pack(">h", 77)),
        (NUMERIC, b"41111111", struct.pack(">HhHHHH", 2, 1, 0, 0, 4111, 1111)),
        (UUID, b"41111111-1111-1111-8111-111111111111", bytes.fromhex("41111111111111118111111111111111")),
        (JSONB, b'{"a": 1}', b'\x01{"a": 1}'),
        (BYTEA, b"\\x0001", b"\x00\x01"),
    ],
)
def test_hash_is_the_same_in_both_formats_and_differs_by_key(oid: int, text: bytes, binary: bytes) -> None:
    rule = (MaskColumn("r", "shop", "a", transform="hash"),)
    ((in_text,),) = masked(plan(rule, [oid], 0, b"k1"), [text])
    ((in_binary,),) = masked(plan(rule, [oid], 1, b"k1"), [binary])
    ((other_key,),) = masked(plan(rule, [oid], 0, b"k2"), [text])
    assert in_text is not None
    assert in_binary is not None
    assert in_text != text
    assert in_text != other_key
    assert in_text == masked(plan(rule, [oid], 0, b"k1"), [text])[0][0]
    layouts = {INT4: ">i", INT8: ">q", 21: ">h"}
    if oid in layouts:
        assert int(in_text) == struct.unpack(layouts[oid], in_binary)[0]
    elif oid == TEXT:
        assert in_text == in_binary


def test_hash_without_a_key_is_redacted() -> None:
    rule = (MaskColumn("r", "shop", "a", transform="hash"),)
    assert masked(plan(rule, [TEXT]), [b"Zoe"]) == [[b"[masked]"]]


def test_the_stricter_of_two_rules_wins() -> None:
    rules = (MaskColumn("soft", "shop", "a", transform="partial"), MaskColumn("hard", "shop", "?", transform="null"))
    made = plan(rules, [TEXT])
    assert made.masked == ("hard",)
    assert masked(made, [b"Zoe Smithson"]) == [[None]]


def test_content_transforms() -> None:
    def scrubbed(transform: str) -> Values:
        rule = MaskContent("r", frozenset({"card"}), transform)
        return masked(plan((rule,), [TEXT], key=b"k"), [b"pay 4111111111111111 now"])[0]

    assert scrubbed("redact") == [b"pay [masked:card] now"]
    assert scrubbed("partial") == [b"pay ****1111 now"]
    assert scrubbed("null") == [None]
    (hashed,) = scrubbed("hash")
    assert hashed is not None
    assert hashed.startswith(b"pay ")
    assert not any(48 <= c <= 57 for c in hashed)


def test_counts_tell_what_was_done() -> None:
    made = plan((MaskColumn("r", "shop", "a"), CONTENT), [TEXT, TEXT])
    run = row([b"x", b"a@b.co, c@d.co and 4111111111111111"]) * 2 + row([None, None])
    assert made.apply(run)[1] == Counts(2, {"email": 4, "card": 2})


@pytest.mark.parametrize("obligations", [(), (CONTENT,), (MaskColumn("r", "shop", "b"), CONTENT)])
def test_odd_shapes_pass(obligations: tuple[Obligation, ...]) -> None:
    assert masked(plan(obligations, []), [], []) == [[], []]
    assert plan(obligations, [TEXT]).apply(b"")[0] == b""
    assert masked(plan(obligations, [TEXT, INT4]), [b"", None], [None, None]) == [[b"", None], [None, None]]


def test_a_transparent_plan_is_known_to_be_one() -> None:
    assert plan((), [TEXT]).transparent
    assert plan((CONTENT,), [INT4, DATE, UUID]).transparent
    assert plan((MaskColumn("r", "other", "a"),), [TEXT]).transparent
    assert not plan((CONTENT,), [INT4, TEXT]).transparent
    assert not plan((MaskColumn("r", "shop", "a"),), [INT4]).transparent


def test_a_value_of_ten_megabytes() -> None:
    big = b"lorem ipsum dolor " * 600_000
    made = plan((MaskColumn("r", "shop", "b"), CONTENT), [TEXT, TEXT])
    assert masked(made, [big + b"bob@example.com", big]) == [[big + b"[masked:email]", b"[masked]"]]


@pytest.mark.parametrize(
    "run",
    [
        row([b"a"]),
        row([b"bob@example.com", b"b", b"c"]),
        row([b"a", b"b"])[:-1],
        b"T" + row([b"a", b"b"])[1:],
        b"D" + struct.pack(">iHi", 10, 2, 400) + b"....",
        b"D\x00",
        b"D" + struct.pack(">iH", 0, 2) + b"bob@example.com",
    ],
)
def test_rows_of_another_shape_are_an_error(run: bytes) -> None:
    with pytest.raises(RemoteWireError):
        plan((MaskColumn("r", "shop", "b"), CONTENT), [TEXT, TEXT]).apply(run)


TYPES = st.sampled_from([TEXT, INT4, INT8, NUMERIC, FLOAT8, JSON, JSONB, BYTEA, UUID, DATE, TEXTS, UNKNOWN, 2249])
FRAGMENTS = st.sampled_from(
    [CARD, b"bob@example.com", b"721-07-4426", b"+14155552671", b"12", b" ", b"-", b"x", b"D", b'"', b"\\x34313131", b"1.5e+15"]
)
VALUES = st.one_of(
    st.none(),
    st.just(NUMBER),
    st.just(DIGITS),
    st.lists(FRAGMENTS, max_size=4).map(b"".join),
    st.integers(0, 10**19).map(lambda n: str(n).encode()),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12).map(str.encode),
)


@settings(deadline=None)
@given(st.data(), st.lists(TYPES, min_size=1, max_size=5), st.sampled_from([0, 1]), st.booleans())
def test_a_run_is_masked_as_its_values_would_be_one_by_one(data: st.DataObject, types: list[int], form: int, rules: bool) -> None:
    if form == 0:
        types = [TEXT if oid == BYTEA else oid for oid in types]  # hexadecimal must be well formed
    width = len(types)
    rows = data.draw(st.lists(st.lists(VALUES, min_size=width, max_size=width), max_size=5))
    made = plan((MaskColumn("r", "shop", "b"), CONTENT) if rules else (CONTENT,), types, form)
    together = masked(made, *rows)
    alone = [[masked(_single(made, index), [value])[0][0] for index, value in enumerate(values)] for values in rows]
    assert together == alone


def _single(made: RowPlan, index: int) -> RowPlan:
    return RowPlan([made._cells[index]], made._content, made._trigger)


@settings(deadline=None)
@given(st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=4), st.lists(st.lists(VALUES, min_size=2, max_size=2), max_size=4))
def test_how_rows_are_gathered_into_runs_does_not_matter(first: list[Values], second: list[Values]) -> None:
    made = plan((MaskColumn("r", "shop", "a"), CONTENT), [TEXT, TEXT])
    assert masked(made, *first, *second) == masked(made, *first) + masked(made, *second)


@settings(deadline=None)
@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=6))
def test_masked_columns_never_pass_and_others_always_do(rows: list[Values]) -> None:
    made = plan((MaskColumn("r", "shop", "b"),), [TEXT, TEXT, TEXT])
    assert masked(made, *rows) == [[a, None if b is None else b"[masked]", c] for a, b, c in rows]


def test_a_large_value_that_is_nearly_all_candidates_goes_as_a_whole() -> None:
    made = plan((CONTENT,), [TEXT, TEXT])
    dense = b"4111 1111 " * 100_000
    plain = b"lorem ipsum dolor " * 60_000
    assert masked(made, [dense, plain]) == [[b"[masked]", plain]]
    assert masked(made, [dense[:5000], plain]) != [[b"[masked]", plain]]


def test_what_a_large_row_may_cost_is_for_all_its_values_together() -> None:
    made = plan((CONTENT,), [TEXT] * len(TITLES))
    dense = b"4111 1111 " * 1500
    assert masked(made, [dense] * len(TITLES))[0][-1] == b"[masked]"
