"""A record has a size that every reader of the journal can take, however large what it tells of was."""

from __future__ import annotations

from hostagent.inspectors.judged import Subject
from hostagent.journal import Chain
from hostagent.model.command import Command
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision
from hostagent.wire.postgres.backend import build_error, build_ready
from tests.gate.gate_rim import NOW, Rules, events, feed, make_context, make_session, sent
from tests.gate.gate_wire import SYNC, bind, describe, execute, parse, query

_MOST = 100_000


def test_values_beyond_all_measure_are_forwarded_whole_and_recorded_by_their_beginning() -> None:
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    values = (b"1", b"word " * 14_000_000, None, b"7", b"x" * 70_000)
    asked = parse("select $1, $2, $3, $4, $5") + bind("", "", values) + execute() + SYNC
    out = session.feed(Side.CLIENT, asked, NOW)
    assert sent(out, Side.SERVER) == asked
    recorded = events(out, EventKind.STATEMENT)
    shown = recorded[0].fields["parameters"]
    assert isinstance(shown, list)
    assert (shown[0], shown[2], shown[3]) == ("1", None, "7")
    assert shown[1].startswith("word word ")
    assert shown[1].endswith("[… 70000000 characters]")
    assert shown[4] == "[… 70000 characters]"
    assert len(Chain("w", "h").frame(recorded)) < _MOST


def test_values_that_fit_are_recorded_whole() -> None:
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    out = session.feed(Side.CLIENT, parse("select $1, $2") + bind("", "", (b"y" * 65_000, b"z" * 500)) + execute(), NOW)
    assert events(out, EventKind.STATEMENT)[0].fields["parameters"] == ["y" * 65_000, "z" * 500]


def test_a_message_beyond_all_measure_reaches_the_client_whole_and_the_record_by_its_beginning() -> None:
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    session.feed(Side.CLIENT, query("select 1"), NOW)
    error = build_error({"S": "ERROR", "V": "ERROR", "C": "22000", "M": "wrong " * 500_000}) + build_ready(b"I")
    out = feed(session, Side.SERVER, error, NOW)
    assert sent(out, Side.CLIENT) == error
    message = events(out, EventKind.RESULT)[0].fields["message"]
    assert isinstance(message, str)
    assert message.endswith("[… 3000000 characters]")
    assert len(message) < _MOST


def test_a_refusal_names_only_the_beginning_of_an_endless_name() -> None:
    _, session = make_session(make_context(Rules(lambda _: Decision.ALLOW)))
    out = session.feed(Side.CLIENT, bind("n" * 3_000_000) + describe("P") + SYNC, NOW)
    assert len(str(events(out, EventKind.REFUSAL)[0].fields["reason"])) < _MOST


def opened(values: tuple[str, ...]) -> list[str | None]:
    """Return what the record of a statement with these bind values shows of them."""
    context = make_context(Rules(lambda _: Decision.ALLOW))
    desk, _ = make_session(context)
    subject = Subject(b"select 1", (), (Operation("postgres", "select", frozenset()),))
    out: list[Command] = []
    desk.open(desk.rule(subject), [b"select 1"], values, NOW, out)
    shown = events(out, EventKind.STATEMENT)[0].fields["parameters"]
    assert isinstance(shown, list)
    return shown


def test_of_very_many_values_the_first_thousand_are_kept() -> None:
    shown = opened(("1",) * 65_535)
    assert shown == ["1"] * 1000 + ["[… 65535 values]"]


def test_a_secret_at_the_place_where_a_value_is_cut_is_not_kept_in_part() -> None:
    for before in range(65_536 - 40, 65_536 + 10_000, 997):
        (shown,) = opened(("x " * (before // 2) + "4111 1111 1111 1111" + " y" * 50_000,))
        assert shown is not None
        assert "1111" not in shown
