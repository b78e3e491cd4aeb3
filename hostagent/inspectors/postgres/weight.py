"""About how many bytes a session keeps: what its client made it remember, and what waits for an answer.

Python adds much to every small thing; the constants are measured (CPython 3.11, 64 bits) and rounded up.
"""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.judged import Subject
from hostagent.inspectors.postgres.conversation import Conversation
from hostagent.inspectors.postgres.names import Portal, Prepared
from hostagent.sql.statement import Statement

_SUBJECT: Final = 1500
_STATEMENT: Final = 1500
_PART: Final = 150
_ENTRY: Final = 400
_VALUE: Final = 80


def weigh(talk: Conversation) -> int:
    """Return the weight of everything that ``talk`` keeps: names, subjects and requests without an answer."""
    names = talk.names
    subjects = {id(each): each for each in talk.subjects.kept()}
    total = 0
    for prepared in names.statements.values():
        total += _ENTRY
        subjects[id(prepared.subject)] = prepared.subject
    for portal in names.portals.values():
        total += _portal(portal)
        subjects[id(portal.prepared.subject)] = portal.prepared.subject
    for entry in talk.queue:
        total += _ENTRY + _ENTRY * len(entry.traces)
        if entry.portal is not None:
            total += _portal(entry.portal)
        for change in entry.undo or ():
            if isinstance(change.value, Prepared):
                subjects[id(change.value.subject)] = change.value.subject
            elif isinstance(change.value, Portal):
                total += _portal(change.value)
    return total + sum(map(_subject, subjects.values()))


def count(talk: Conversation) -> int:
    """Return how many things those are: quick, so that it can be asked all the time."""
    return len(talk.names.statements) + len(talk.names.portals) + len(talk.queue)


def _subject(subject: Subject) -> int:
    return _SUBJECT + 2 * len(subject.text) + sum(map(_statement, subject.statements))


def _statement(statement: Statement) -> int:
    parts = len(statement.relations) + len(statement.functions) + len(statement.columns) + len(statement.resources)
    inner = 0 if statement.inner is None else _statement(statement.inner)
    return inner + _STATEMENT + 4 * len(statement.text) + _PART * parts


def _portal(portal: Portal) -> int:
    described = 0 if portal.description is None else len(portal.description)
    return _ENTRY + described + sum(_VALUE + len(value or b"") for value in portal.values)
