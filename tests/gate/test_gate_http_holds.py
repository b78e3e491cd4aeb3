"""Held requests: parked whole, released once, and kept for the identical one that comes again."""

from __future__ import annotations

from dataclasses import replace

from hostagent.approval import Book
from hostagent.model.command import Detach, Hold, Withdraw
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.ticket import Answer
from hostagent.model.verdict import Decision
from tests.gate.gate_http import PLAIN, Talk, by_path
from tests.gate.gate_rim import NOW, Rules

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_GET = b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n"


def _held(talk: Talk) -> str:
    [ticket] = [command.ticket for command in talk.commands if isinstance(command, Hold)]
    return ticket.ticket_id


_DELETE = b"POST /held HTTP/1.1\r\nHost: api.example\r\nX: y\r\nContent-Length: 5\r\n\r\n"


def test_a_held_request_waits_whole_and_goes_on_once_after_approval() -> None:
    talk = Talk()
    talk.client(_DELETE + b"he")
    assert not any(isinstance(command, Hold) for command in talk.commands)
    talk.client(b"llo" + _GET)
    [operation] = next(command.ticket.operations for command in talk.commands if isinstance(command, Hold))
    assert operation.text == "POST http://api.example/held\nX: y\n\nhello"
    assert (talk.up, talk.down) == (b"", b"")
    answer = Answer(_held(talk), granted=True, by="dana")
    talk.do(talk.gate.resume(answer, NOW))
    talk.do(talk.gate.resume(answer, NOW))
    assert talk.up == (
        b"POST /held HTTP/1.1\r\nHost: api.example\r\nX: y\r\nContent-Length: 5\r\nAuthorization: Bearer ours\r\n\r\nhello"
    )
    talk.server(_OK)
    assert talk.up.endswith(b"GET /a HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer ours\r\n\r\n")
    assert talk.records(EventKind.STATEMENT, "decision") == [("hold",), ("allow",)]


def test_a_held_request_that_is_refused_or_not_answered_gets_a_problem_document_with_its_ticket() -> None:
    talk = Talk()
    talk.client(_DELETE + b"hello")
    talk.do(talk.gate.resume(Answer(_held(talk), granted=False, by="dana", reason="no"), NOW))
    problem = talk.problem()
    assert (problem["status"], problem["ticket"], problem["reason"]) == (403, _held(talk), "denied by dana: no")
    late = Talk()
    late.client(_DELETE + b"hello")
    late.do(late.gate.tick(NOW + 61))
    assert "nobody answered in time" in str(late.problem()["reason"])
    assert (talk.up, late.up, talk.closed, late.closed) == (b"", b"", False, False)


def test_a_client_that_leaves_while_its_request_is_held_voids_the_ticket() -> None:
    talk = Talk()
    talk.client(_DELETE + b"hello")
    talk.do(talk.gate.closed(Side.CLIENT, NOW))
    assert [command.ticket_id for command in talk.commands if isinstance(command, Withdraw)] == [_held(talk)]
    assert talk.records(EventKind.RESULT, "outcome") == [("withdrawn",)]
    talk.do(talk.gate.resume(Answer(_held(talk), granted=True, by="dana"), NOW))
    assert talk.up == b""


def _kept(book: Book) -> Talk:
    """Return a connection on which a request was held, parked, and told its ticket."""
    talk = Talk(book=book, park_s=3.0)
    talk.client(_DELETE + b"hello")
    talk.do(talk.gate.tick(NOW + 2.9))
    assert talk.down == b""
    talk.do(talk.gate.tick(NOW + 3))
    problem = talk.problem()
    assert (problem["status"], problem["type"], problem["ticket"]) == (403, "urn:hostagent:held", _held(talk))
    assert b"\r\nRetry-After: 10\r\n" in talk.down
    assert [command.ticket_id for command in talk.commands if isinstance(command, Detach)] == [_held(talk)]
    return talk


def _again(book: Book, data: bytes = _DELETE + b"hello", **more: object) -> Talk:
    talk = Talk(book=book, **more)  # type: ignore[arg-type]
    talk.client(data)
    return talk


def _answer(book: Book, talk: Talk, *, granted: bool) -> None:
    kept = book.of(_held(talk))
    assert kept is not None
    book.answer(kept, Answer(_held(talk), granted=granted, by="dana", reason="no"), NOW + 10)


def test_a_request_that_was_parked_is_carried_out_once_when_it_comes_again_after_approval() -> None:
    book = Book()
    first = _kept(book)
    assert _again(book).problem()["ticket"] == _held(first)
    first.do(first.gate.closed(Side.CLIENT, NOW))
    assert not any(isinstance(command, Withdraw) for command in first.commands)
    _answer(book, first, granted=True)
    second = _again(book)
    assert second.up.endswith(b"\r\n\r\nhello")
    assert second.records(EventKind.STATEMENT, "decision", "ticket") == [("hold", _held(first))]
    third = _again(book)
    assert (third.up, _held(third) != "") == (b"", True)


def test_only_exactly_the_same_request_of_the_same_program_under_the_same_policy_is_released() -> None:
    book = Book()
    _answer(book, _kept(book), granted=True)
    for other in (
        _again(book, _DELETE + b"hellO"),
        _again(book, _DELETE.replace(b"/held", b"/held?x") + b"hello"),
        _again(book, _DELETE.replace(b"X: y", b"X: z") + b"hello"),
        _again(book, leaf="another"),
        _again(book, target=replace(PLAIN, labels={"moved": "yes"})),
        _again(book, rules=Rules(lambda _operation: Decision.DENY)),
    ):
        assert other.up == b""
    assert _again(book).up.endswith(b"hello")


def test_a_request_that_was_refused_while_nobody_waited_is_told_so() -> None:
    book = Book()
    _answer(book, _kept(book), granted=False)
    again = _again(book)
    assert (again.problem()["reason"], again.up) == ("denied by dana: no", b"")


def test_a_policy_that_changed_while_a_request_was_held_has_the_last_word() -> None:
    rules = Rules(by_path)
    talk = Talk(rules)
    talk.client(_DELETE + b"hello")
    rules.decide = lambda _operation: Decision.DENY
    talk.do(talk.gate.resume(Answer(_held(talk), granted=True, by="dana"), NOW))
    assert (talk.up, talk.problem()["rule"]) == (b"", "deny-rule")


def test_a_body_too_large_to_be_looked_at_is_not_held() -> None:
    talk = Talk()
    talk.client(b"POST /held HTTP/1.1\r\nHost: api.example\r\nContent-Length: 1100000\r\n\r\n" + b"x" * 1_100_000)
    assert talk.problem()["status"] == 403
    assert not any(isinstance(command, Hold) for command in talk.commands)
