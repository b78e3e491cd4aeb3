"""Texts beside the rows: errors, notices, names, and the scrubbing of evidence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.mask import Exposure, Masker, scrub
from hostagent.model.verdict import MaskColumn, MaskContent

FIELDS = {
    "S": "ERROR",
    "V": "ERROR",
    "C": "23505",
    "M": 'duplicate key value violates unique constraint "person_mail"',
    "D": "Key (mail)=(bob@example.com) already exists.",
    "H": "ask bob@example.com",
    "W": 'PL/pgSQL function f("Zoe")',
    "q": "SELECT 'Zoe'",
    "P": "12",
    "p": "3",
    "s": "public",
    "t": "person",
    "c": "mail",
    "n": "person_mail",
    "F": "nbtinsert.c",
    "L": "1",
    "R": "_bt_check_unique",
}
CONTENT = MaskContent("content", frozenset({"all"}))
COLUMN = MaskColumn("name", "person", "name")


def test_messages_of_exposed_statements_keep_nothing_that_could_quote_a_value() -> None:
    seen = Masker((COLUMN, CONTENT), None, "db").message(FIELDS, Exposure.MASKED)
    kept = {code: FIELDS[code] for code in "SVCPpstcnFLR"}
    assert seen == {
        **kept,
        "M": "a row with the same key exists already (SQLSTATE 23505); hostagent left out the server's text because the "
        "statement touches masked data",
    }


def test_count_exposes_messages_too() -> None:
    masker = Masker((COLUMN,), None, "db")
    assert masker.message(FIELDS, Exposure.COUNT) == masker.message(FIELDS, Exposure.MASKED)


def test_an_unknown_sqlstate_is_told_as_it_is() -> None:
    seen = Masker((COLUMN,), None, "db").message({"S": "ERROR", "C": "XX000", "M": "Zoe"}, Exposure.MASKED)
    assert seen["M"].startswith("SQLSTATE XX000; ")


def test_other_messages_lose_only_what_detectors_find() -> None:
    seen = Masker((CONTENT,), None, "db").message(FIELDS, Exposure.NONE)
    assert seen == {**FIELDS, "D": "Key (mail)=([masked:email]) already exists.", "H": "ask [masked:email]"}


def test_texts_are_scanned_and_counted() -> None:
    masker = Masker((MaskContent("r", frozenset({"email"}), "partial"),), None, "db")
    assert masker.text("to bob@example.com and a@b.co") == ("to ****.com and [masked]", {"email": 2})
    assert masker.text("4111111111111111") == ("4111111111111111", {})
    assert Masker((MaskContent("r", frozenset({"email"}), "null"),), None, "db").text("bob@example.com")[0] == "[masked]"


def test_obligations_that_cannot_be_met_are_an_error() -> None:
    with pytest.raises(ValueError, match="detector"):
        Masker((MaskContent("r", frozenset({"nothing"})),), None, "db")
    with pytest.raises(ValueError, match="transform"):
        Masker((MaskColumn("r", "t", "c", transform="blur"),), None, "db")
    with pytest.raises(ValueError, match="transform"):
        Masker((MaskContent("r", frozenset({"card"}), "blur"),), None, "db")


def test_no_obligations_means_empty() -> None:
    assert Masker((), None, "db").empty
    assert not Masker((CONTENT,), None, "db").empty
    assert Masker((MaskColumn("r", "t", "c", database="other"),), None, "db").empty


@settings(deadline=None)
@given(st.text())
def test_scrubbing_keeps_ordinary_text_and_is_stable(text: str) -> None:
    once = scrub(text)
    assert scrub(once) == once
    if "@" not in text and sum(c.isdigit() for c in text) < 7:
        assert once == text


def test_undecodable_text_survives() -> None:
    odd = b"\xff bob@example.com".decode("utf-8", "surrogateescape")
    assert scrub(odd).encode("utf-8", "surrogateescape") == b"\xff [masked:email]"
