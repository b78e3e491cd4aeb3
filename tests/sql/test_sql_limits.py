"""Text that is too long, too deep or not text: OPAQUE, at once, and never a crash of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.model.operation import ALL_EFFECTS, Completeness
from hostagent.sql import MAX_TEXT, Analysis, analyse


def assert_opaque(analysis: Analysis) -> None:
    (statement,) = analysis.statements
    assert analysis.error
    assert statement.effects == ALL_EFFECTS
    assert statement.judged_effects == ALL_EFFECTS
    assert statement.completeness is Completeness.OPAQUE
    assert statement.verb == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "select 1\0; drop table t",
        "select '\ud800'",
        "select '" + "x" * MAX_TEXT + "'",
        "select '" + "ä" * (MAX_TEXT // 2) + "'",
        "\ufeffselect 1",
        "select 1\x1a",
        "select 1\N{NO-BREAK SPACE}, 2",
        "select " + "||".join(["a"] * 5000),
        "select * from " + "(select * from " * 1000 + "t" + ") a" * 1000,
        "select " + "f(" * 3000 + ")" * 3000,
    ],
)
def test_what_cannot_be_understood_is_every_effect(text: str) -> None:
    assert_opaque(analyse(text))


def test_text_of_the_allowed_length_is_understood() -> None:
    head = "select '"
    assert not analyse(head + "x" * (MAX_TEXT - len(head) - 1) + "'").error


def test_a_long_list_is_understood() -> None:
    (statement,) = analyse("select * from t where id in (" + ",".join(map(str, range(20_000))) + ")").statements
    assert statement.redacted == "select * from t where id in (" + ",".join("?" * 20_000) + ")"
    assert statement.completeness is Completeness.FULL


@pytest.mark.parametrize("text", ["", " ", ";", ";;\n;", "-- x", "/* x */ ;", "\t\r\n\f"])
def test_nothing_is_no_statement(text: str) -> None:
    assert analyse(text) == Analysis(())


def test_sql_text_inside_sql_text_is_followed_only_so_deep() -> None:
    text = "drop table t"
    for _ in range(2):
        text = f"select query_to_xml('{text.replace(chr(39), chr(39) * 2)}', true, true, '')"
    (statement,) = analyse(text).statements
    assert (statement.completeness, sorted(statement.effects)) == (Completeness.FULL, ["drop", "read"])
    deeper = f"select query_to_xml('{text.replace(chr(39), chr(39) * 2)}', true, true, '')"
    assert analyse(deeper).statements[0].judged_effects == ALL_EFFECTS


def test_an_error_message_quotes_nothing_of_the_text() -> None:
    for text in (
        "select secret secret secret",
        "secret",
        "select 1 from a.b.c.secret",
        "select 12secret",
        "copy secret",
    ):
        error = analyse(text).error
        assert error
        assert "secret" not in error


@given(st.text(max_size=300))
def test_any_text_has_a_meaning(text: str) -> None:
    analysis = analyse(text)
    assert analysis == analyse(text)
    if analysis.error:
        assert_opaque(analysis)


_WORD_LIST = """select from where t a b , ( ) * 1 'x' ; with as insert into values update set = delete drop table or and not true
    union all execute prepare copy to stdout $1 $$ -- /* */ explain analyze do call case when then end json_table"""
_WORDS = st.sampled_from(_WORD_LIST.split())


@given(st.lists(_WORDS, max_size=30).map(" ".join))
def test_any_string_of_words_has_a_meaning(text: str) -> None:
    analysis = analyse(text)
    if analysis.error:
        assert_opaque(analysis)
    for statement in analysis.statements:
        assert statement.completeness is not Completeness.OPAQUE or statement.effects == ALL_EFFECTS


_NESTS = [
    ("select ", "(", "1", ")"),
    ("select ", "f(", "1", ")"),
    ("select ", "- ", "1", ""),
    ("select ", "not ", "true", ""),
    ("select ", "array[", "1", "]"),
    ("select ", "case when true then ", "1", " end"),
    ("select ", "(select ", "1", ")"),
    ("select 1", " + 1", "", ""),
    ("select 1", "::int", "", ""),
    ("select a", "[1]", "", ""),
    ("select a", ".b", "", ""),
    ("select 1 where ", "1 = 1 and (", "true", ")"),
    ("select * from ", "(", "a cross join b", ")"),
    ("select * from a", " join b on true", "", ""),
    ("select 1", " union select 1", "", ""),
    ("select 1", " union (select 1", "", ")"),
    ("", "with x as (", "select 1", ") select 1"),
    ("", "explain ", "select 1", ""),
    ("delete from t where ", "not (", "true", ")"),
    ("delete from t where ", "id = 1 or (", "true", ")"),
    ("create schema s", " create table t (a int)", "", ""),
    ("", "/*", "", "*/ select 1"),
    ("select ", "'a' || ", "'b'", ""),
    ("select query_to_xml(", "'a' || ", "'b'", ", true, true, '')"),
    ("select ", "row(", "1", ")"),
    ("select ", "coalesce(", "1", ")"),
    ("select xmlelement(name a", ", xmlelement(name a", "", ")"),
    ("create function f() returns int begin atomic", " begin", "", " end"),
]


def test_no_nesting_ends_the_process() -> None:
    """The parser is C with recursion of its own; a stack overflow there would end every session at once."""
    script = (
        "import sys; from hostagent.sql import analyse\n"
        f"for head, open_, core, close in {_NESTS!r}:\n"
        "    for depth in (50, 300, 900, 3000, 9000, 40000):\n"
        "        text = head + open_ * depth + core + close * depth\n"
        "        assert analyse(text).statements, text[:40]\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]


@pytest.mark.parametrize("text", ["/*" * 40_000 + "*/" * 40_000 + "select 1", "select " + "+" * 100_000 + "1"])
def test_an_endless_run_of_operator_characters_is_not_read(text: str) -> None:
    """The scanner would take minutes over the first, and every session waits for it."""
    analysis = analyse(text)
    assert analysis.error == "the text holds more than 1024 operator characters in a row"
    assert_opaque(analysis)


def test_a_ruler_in_a_comment_is_read() -> None:
    assert analyse("/*" + "*" * 1000 + "*/ select 1 -- " + "=" * 1000).error == ""
