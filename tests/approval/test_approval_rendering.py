"""What the approver sees: all of it, and nothing that hides, moves or imitates."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.approval import describe, render, render_description, visible_text
from hostagent.model.identity import Identity
from hostagent.model.operation import Access, Completeness, Effect, Operation, Resource
from hostagent.model.ticket import Ticket

NOW = 1_800_000_000.0
OPERATION = Operation(
    "postgres", "DELETE", frozenset({Effect.DELETE, Effect.READ}), (Resource("relation", "customers", Access.WRITE),),
    text="delete from customers\n where name = $1 and x = $2 and b = $3", redacted="", parameters=("O'Brien", None, b"\x00\xff"),
)  # fmt: skip
TICKET = Ticket(
    ticket_id="3f2a", flow_id="f1", workload="bot", launcher="lee",
    identity=Identity("https://i", "bot", NOW + 600, frozenset({"b", "a"}), "clean up", "t-1", {"role": "r"}), target="crm",
    database="crmdb", user="crm_app", operations=(OPERATION,), digest="ab12" * 16, rule="hold-deletes", reason="bulk delete",
    approvers="dba", created_at=NOW, expires_at=NOW + 90,
)  # fmt: skip


def with_text(text: str, **changes: Any) -> Ticket:
    return replace(TICKET, operations=(replace(OPERATION, text=text, **changes),))


def test_the_whole_ticket_for_a_terminal() -> None:
    assert render(TICKET, NOW).splitlines() == [
        "Ticket      3f2a   (1 min 30 s left)",
        "Workload    bot, launched by lee",
        "Identity    bot  (issuer https://i)",
        "Groups      a, b",
        "Purpose     clean up",
        "Target      crm, database crmdb, as crm_app",
        "Held by     rule hold-deletes: bulk delete",
        "Approvers   group dba",
        "Statement",
        "    | delete from customers",
        "    |  where name = $1 and x = $2 and b = $3",
        "    $1 = 'O''Brien'",
        "    $2 = NULL",
        "    $3 = 2 bytes: 00ff",
        "Effects     delete, read",
        "Touches     relation customers (write)",
        "Warning     it holds binary values that are shown as hexadecimal bytes only",
        "Digest      " + "ab12" * 16,
    ]


def test_the_whole_ticket_as_data() -> None:
    described = describe(TICKET, NOW + 1)
    assert json.loads(json.dumps(described)) == described
    assert described["operations"] == [
        {
            "verb": "DELETE",
            "effects": ["delete", "read"],
            "completeness": "full",
            "resources": ["relation customers (write)"],
            "text": OPERATION.text,
            "parameters": ["O'Brien", None, {"hex": "00ff"}],
            "attributes": {},
        }
    ]
    assert (described["ticket"], described["digest"], described["remaining_s"]) == ("3f2a", TICKET.digest, 89)
    assert render_description(json.loads(json.dumps(describe(TICKET, NOW)))) == render(TICKET, NOW)


def test_an_expired_ticket_says_so() -> None:
    assert render(TICKET, NOW + 90).startswith("Ticket      3f2a   (expired)")


def test_what_was_not_understood_is_shown_as_every_effect() -> None:
    text = render(with_text("do $$ … $$", completeness=Completeness.OPAQUE), NOW)
    assert "Effects     not fully understood, so every effect is possible" in text
    assert "Warning     not everything in it was understood: it may do more than is listed" in text


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("\x1b[2J", "⟦U+001B⟧[2J"),
        ("a\rb", "a⟦U+000D⟧b"),
        ("a\tb", "a⟦U+0009⟧b"),
        ("\x7f\x9b", "⟦U+007F⟧⟦U+009B⟧"),
        ("\u202eevil\u202c", "⟦U+202E⟧evil⟦U+202C⟧"),
        ("\u2066x\u2069", "⟦U+2066⟧x⟦U+2069⟧"),
        ("a\u200bb\u200d\ufeff", "a⟦U+200B⟧b⟦U+200D⟧⟦U+FEFF⟧"),
        ("\xad\u2060", "⟦U+00AD⟧⟦U+2060⟧"),
        ("\xa0\u3000\u2028\u2029", "⟦U+00A0⟧⟦U+3000⟧⟦U+2028⟧⟦U+2029⟧"),
        ("\u3164\u115f\u2800\ufe0f", "⟦U+3164⟧⟦U+115F⟧⟦U+2800⟧⟦U+FE0F⟧"),
        ("\U000e0041\ue000\ud800", "⟦U+E0041⟧⟦U+E000⟧⟦U+D800⟧"),
        ("⟦U+202E⟧", "⟦U+27E6⟧U+202E⟦U+27E7⟧"),
        ("e\u0301" + "\u0301" * 5, "e\u0301\u0301\u0301\u0301⟦U+0301⟧⟦U+0301⟧"),
        ("x" + " " * 40 + "y", "x" + " " * 40 + "y"),
        ("x" + " " * 500 + "y", "x⟦500 blanks⟧y"),
        ("two\nlines", "two\nlines"),
        ("grüße 你好", "grüße 你好"),
    ],
)
def test_hidden_characters_are_shown(hidden: str, shown: str) -> None:
    assert visible_text(hidden) == shown


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for letter in visible_text(text):
        assert letter == "\n" or unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text(alphabet=" \na⟦⟧U+0123\u200b\u0301\x1b"), st.text(alphabet=" \na⟦⟧U+0123\u200b\u0301\x1b"))
def test_different_texts_look_different(one: str, other: str) -> None:
    assert (visible_text(one) == visible_text(other)) == (one == other)


@given(st.text(), st.text(), st.text())
def test_no_text_of_the_workload_passes_for_a_line_of_ours(text: str, value: str, name: str) -> None:
    identity = replace(TICKET.identity, subject="bot" + name, purpose=name)
    ticket = replace(with_text(text, parameters=(value,)), identity=identity, database=name, reason=name)
    ours = ("Ticket", "Workload", "Identity", "Groups", "Purpose", "Target", "Held by", "Approvers", "Statement", "Effects", "Touches",
            "Warning", "Digest")  # fmt: skip
    lines = render(ticket, NOW).split("\n")
    assert all(line.startswith((*ours, "    | ", "    $")) for line in lines)
    for title in ("Ticket", "Statement", "Digest", "Effects"):
        assert sum(line.startswith(title) for line in lines) == 1


def test_a_forged_line_stays_behind_its_bar() -> None:
    assert "    | Digest      0000" in render(with_text("select 1\nDigest      0000"), NOW).split("\n")


def test_nothing_is_cut_short_but_empty_lines_are_counted() -> None:
    long = "select '" + "x" * 100_000 + "'"
    assert long in render(with_text(long), NOW)
    lines = render(with_text("select 1" + "\n" * 300 + "; drop table t"), NOW).split("\n")
    place = lines.index("    | select 1")
    assert lines[place + 1 : place + 3] == ["    | ⟦299 empty lines⟧", "    | ; drop table t"]


def test_letters_that_look_like_others_are_announced() -> None:
    assert "Warning     it holds letters outside ASCII, some of which look like others" in render(
        with_text("drop table сustomers"), NOW
    )
    warning = "Warning     it holds invisible or control characters, shown by their numbers in brackets"
    assert warning not in render(TICKET, NOW)
    assert warning in render(with_text("a\u200bb"), NOW).split("\n")


def test_several_statements_are_numbered() -> None:
    text = render(replace(TICKET, operations=(OPERATION, OPERATION)), NOW)
    assert "Statement 1 of 2\n" in text
    assert "Statement 2 of 2\n" in text


@pytest.mark.parametrize("broken", [{}, {"operations": 5}, {"operations": [5], "identity": 7, "warnings": {}}])
def test_a_broken_description_still_gives_text(broken: dict[str, Any]) -> None:
    assert render_description(broken).startswith("Ticket")


def test_a_target_without_database_and_user_is_shown_without_them() -> None:
    shown = render_description({"target": "api", "database": "", "user": ""})
    assert "Target      api\n" in shown
