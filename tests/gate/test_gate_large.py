"""A large piece of a result is looked at in one go where nothing is found in it, and a little at a time where something is."""

from __future__ import annotations

import pytest

from hostagent.inspectors.postgres.session import Session
from hostagent.model.catalogue import Catalogue
from hostagent.model.command import Again
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.verdict import Decision, MaskContent
from hostagent.wire.postgres.backend import (
    Column,
    CopyShape,
    build_command_complete,
    build_copy_shape,
    build_data_row,
    build_notice,
    build_ready,
    build_row_description,
)
from hostagent.wire.postgres.frontend import build_copy_data
from hostagent.wire.postgres.messages import Server
from tests.gate.gate_rim import NOW, Rules, events, feed, make_context, make_session, sent
from tests.gate.gate_wire import query

CLEAN = build_data_row((b"nothing to be seen here",))
DIRTY = build_data_row((b"me@example.com",))
LONG = build_data_row((b"x" * 50_000 + b" me@example.com",))
DESCRIPTION = build_row_description((Column(b"a", 0, 0, 25, -1, -1, 0),))
END = build_command_complete("SELECT 1") + build_ready(b"I")
KNOWN = Catalogue({}, frozenset(), ("public",), {}, "v1")
BOUND = 16_384
"""Bytes: more than are ever looked at closely in one go."""


def asked(text: str = "select a from t") -> Session:
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW, (MaskContent("mail", frozenset({"email"})),)), KNOWN))
    session.feed(Side.CLIENT, query(text), NOW)
    return session


def test_rows_in_which_nothing_is_found_pass_at_once() -> None:
    session = asked()
    rows = CLEAN * 8000
    out = session.feed(Side.SERVER, DESCRIPTION + rows, NOW)
    assert sent(out, Side.CLIENT) == DESCRIPTION + rows
    assert not any(isinstance(each, Again) for each in out)


@pytest.mark.parametrize("rows", [DIRTY * 8000, CLEAN * 3000 + DIRTY * 3000 + CLEAN * 3000, (DIRTY + CLEAN * 50) * 100, LONG * 5 + DIRTY])
def test_rows_that_need_a_closer_look_get_it_a_few_at_a_time_and_none_is_missed(rows: bytes) -> None:
    whole, pieces = asked(), asked()
    out = feed(whole, Side.SERVER, DESCRIPTION + rows + END, NOW)
    longest = 0
    for at in range(0, len(rows), 700):  # as if it had arrived little by little
        got = feed(pieces, Side.SERVER, (DESCRIPTION if not at else b"") + rows[at : at + 700], NOW)
        out_of = sent(got, Side.CLIENT)
        longest += len(out_of)
        assert b"@" not in out_of
    assert b"@" not in sent(out, Side.CLIENT)
    rest = feed(pieces, Side.SERVER, END, NOW)
    assert longest + len(sent(rest, Side.CLIENT)) == len(sent(out, Side.CLIENT))
    assert events(out, EventKind.RESULT) == events(rest, EventKind.RESULT)
    assert events(out, EventKind.RESULT)[0].fields["detections"] == {"email": rows.count(b"@")}


@pytest.mark.parametrize(
    ("text", "first", "message"),
    [
        ("select a from t", DESCRIPTION, DIRTY),
        ("copy t to stdout", build_copy_shape(Server.COPY_OUT, CopyShape(0, (0,))), build_copy_data(b"me@example.com\n")),
        ("select a from t", b"", build_notice({"S": "NOTICE", "M": "me@example.com"})),
        ("select 1" + "; select 1" * 2000, b"", build_command_complete("SELECT 1")),
    ],
)
def test_one_feed_looks_closely_at_a_bounded_part_of_whatever_was_sent(text: str, first: bytes, message: bytes) -> None:
    session = asked(text)
    data, steps = first + message * 2000, 0
    while True:
        before = session.weigh()
        out = session.feed(Side.SERVER, data, NOW)
        if not any(isinstance(each, Again) for each in out):
            break
        assert len(sent(out, Side.CLIENT)) < BOUND
        assert data == b"" or session.weigh() - before > len(data) - BOUND, "what is left counts"
        data, steps = b"", steps + 1
    assert steps >= len(message) * 2000 // BOUND


def test_what_arrives_behind_what_is_left_comes_after_it() -> None:
    session = asked()
    out = session.feed(Side.SERVER, DESCRIPTION + DIRTY * 1000, NOW)
    assert any(isinstance(each, Again) for each in out)
    out += feed(session, Side.SERVER, CLEAN + END, NOW)
    written = sent(out, Side.CLIENT)
    assert written.endswith(CLEAN + END)
    assert events(out, EventKind.RESULT)[0].fields["rows"] == 1001
