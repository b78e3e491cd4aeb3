"""Tickets whose connection did not wait."""

from __future__ import annotations

from hostagent.approval.book import GRANT_S, MOST, Book
from hostagent.model.identity import Identity
from hostagent.model.ticket import Answer, Ticket

START, END = 1000.0, 1300.0


def ticket(name: str) -> Ticket:
    """Return a ticket."""
    identity = Identity("issuer", "subject", 2e9)
    return Ticket(name, "f", "bot", "root", identity, "api", "", "", (), "0" * 64, "rule", "why", "group", START, END)


def answer(name: str, *, granted: bool = True, by: str = "dana") -> Answer:
    """Return an answer."""
    return Answer(name, granted=granted, by=by)


def kept_one() -> Book:
    """Return a book with one ticket."""
    book = Book()
    assert book.keep("key", "leaf", ticket("t"), "f.1")
    return book


def test_a_grant_is_found_once_and_only_for_a_while() -> None:
    for late in (False, True):
        book = kept_one()
        kept = book.of("t")
        assert kept is not None
        book.answer(kept, answer("t"), END - 1)
        book.answer(kept, answer("t", granted=False), END - 1)
        found = book.find("key", END - 1 + GRANT_S - (0 if late else 1))
        assert (found is None) is late
        assert book.find("key", END) is None


def test_what_nobody_answered_is_forgotten_and_what_was_refused_is_not_asked_again_at_once() -> None:
    book = kept_one()
    assert book.find("key", END - 1) is not None
    assert book.find("key", END) is None
    for by, known in (("", False), ("dana", True)):
        book = kept_one()
        kept = book.of("t")
        assert kept is not None
        book.answer(kept, answer("t", granted=False, by=by), END)
        assert (book.find("key", END + 1) is not None) is known


def test_a_leaf_keeps_few_and_takes_them_with_it() -> None:
    book = kept_one()
    assert not book.keep("key", "leaf", ticket("u"), "f.2")
    for number in range(1, MOST):
        assert book.keep(str(number), "leaf", ticket(str(number)), "f.3")
    assert not book.keep("more", "leaf", ticket("v"), "f.4")
    assert book.keep("more", "other", ticket("v"), "f.4")
    kept = book.of("t")
    assert kept is not None
    book.answer(kept, answer("t"), START)
    assert len(book.void("leaf")) == MOST - 1
    assert book.find("key", START) is None
    assert book.find("more", START) is not None
