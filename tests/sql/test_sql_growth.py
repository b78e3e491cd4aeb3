"""Assignments to several columns at once, inside one another: half a kilobyte whose tree would be gigabytes."""

from __future__ import annotations

import pytest

from hostagent.sql import MAX_TEXT, analyse, swells
from hostagent.sql.analysis import MAX_GROWN
from hostagent.sql.growth import MOST, grown

_INNER = "with x as (update t set (c, d, e) = (1, 2, 3)) select 1"


def nested(levels: int, names: int) -> str:
    """Return one write inside the other, each to ``names`` columns."""
    text = "1"
    for _ in range(levels):
        text = f"with x as (update t set ({', '.join('a' * names)}) = (select ({text})) returning 1) select 1 from x"
    return text


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ("update t set a = 1, b = 2 where (a, b) = (1, 2)", 1),
        ("select 1, (a, b) = (c, d) from t", 1),
        ("update t set (a) = (select 1)", 1),
        ("update t set (a, b) = (1, 2)", 2),
        ("update t set c = 1, ( \"a\", b[1] /* x */ , c.d ) -- y\n=-(1)", 3),
        ("UPDATE t SET (a, b) = (1, 2), (c, d, e) = (1, 2, 3)", 3),
        ("update t set (a, b) = (1, 2); update t set (a, b) = (1, 2)", 2),
        (f"update t set (a, b) = ({_INNER})", 6),
        (f"update t set (a, b) = array[1, ({_INNER})]", 6),
        (f"insert into t values (1) on conflict (a) do update set (a, b) = ({_INNER})", 6),
        (f"merge into t using u on true when matched then update set (a, b) = ({_INNER})", 6),
    ],
)
def test_the_copies_of_the_innermost_source_are_counted(text: str, copies: int) -> None:
    assert grown(text) == copies * len(text)


def test_what_would_grow_beyond_all_measure_is_never_parsed() -> None:
    text = nested(12, 10)
    assert (grown(text), len(text) < 2048) == (MOST, True)
    found = analyse(text)
    assert (found.error, found.statements[0].completeness) == ("what is assigned to several columns at once makes it too large", "opaque")


def test_what_may_grow_is_for_others_to_analyse_and_nobody_else_waits() -> None:
    plain = "update t set (a, b, c) = (select a, b, c from u where id = 1)"
    wide = f"update t set ({', '.join('a' * 300)}) = (select {', '.join('b' * 200)})"
    assert (swells(plain.encode()), swells(wide.encode()), len(wide) < 2048) == (False, True, True)
    assert MAX_GROWN < grown(wide) < MAX_TEXT
    assert analyse(wide).error == ""


def test_text_inside_a_text_may_not_grow_at_all() -> None:
    wide = f"update t set ({', '.join('a' * 300)}) = (select {', '.join('b' * 200)})"
    assert analyse(f"select query_to_xml('{wide}', true, true, '')").statements[0].completeness == "opaque"
