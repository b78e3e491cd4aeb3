"""What a statement writes is found where its text is analysed, so that nobody has to parse it again."""

from __future__ import annotations

from pathlib import Path

import pytest

import hostagent
from hostagent.sql import analyse
from hostagent.sql.writes import Assigned, Writes


@pytest.mark.parametrize(
    ("text", "writes"),
    [
        ("select 1", None),
        ("insert into t values (1)", Writes("insert", None, "t", "t", (Assigned("", False, ()),))),
        ("insert into s.t default values", Writes("insert", "s", "t", "t")),
        ("delete from t as x using u", Writes("delete", None, "t", "x", (), ((None, "u"),))),
        (
            "update t set a = b, c = upper(t.d) from s.u",
            Writes("update", None, "t", "t", (Assigned("a", False, (("b",),)), Assigned("c", False, (("t", "d"),))), (("s", "u"),)),
        ),
        (
            "update t set (a, b) = (select c, * from u)",
            Writes(
                "update", None, "t", "t",
                (Assigned("a", True, (("*",), ("c",))), Assigned("b", True, (("*",), ("c",)))), ((None, "u"),),
            ),
        ),
        (
            "with w as (select 1) insert into t select * from w on conflict (a) do update set b = excluded.c",
            Writes(
                "insert", None, "t", "t",
                (Assigned("", False, (("*",),)), Assigned("b", False, (("excluded", "c"),))), ((None, "w"),), frozenset({"w"}),
            ),
        ),
        ("with w as (delete from u returning a) insert into t select a from w", None),
        ("no statement at all", None),
    ],
)  # fmt: skip
def test_a_write_is_told_with_what_it_takes_its_values_from(text: str, writes: Writes | None) -> None:
    assert analyse(text).statements[0].writes == writes


@pytest.mark.parametrize("around", ["prepare p as", "explain analyze"])
def test_a_write_inside_another_statement_is_told_for_both(around: str) -> None:
    statement = analyse(f"{around} update t set a = b").statements[0]
    assert statement.inner is not None
    assert statement.writes == statement.inner.writes == Writes("update", None, "t", "t", (Assigned("a", False, (("b",),)),))


def test_only_the_analysis_parses_texts() -> None:
    """Long texts are analysed in another process; whoever parsed one again would hold up every other workload for seconds."""
    house = Path(hostagent.__file__).parent
    assert [str(path.relative_to(house)) for path in house.rglob("*.py") if "import pgparse" in path.read_text(encoding="utf-8")] == ["sql/analysis.py"]
