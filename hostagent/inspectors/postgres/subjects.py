"""From statement text to what is judged: analysis, operations, and the cache of both.

Statements that differ only in plain numbers share one subject where that cannot change their meaning: see ``template``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from hostagent.inspectors.judged import Subject
from hostagent.inspectors.postgres.names import Names, Portal, Prepared, key_of
from hostagent.model.operation import Completeness, Effect, Operation, Resource
from hostagent.model.transfer import Direction, Transfer
from hostagent.sql import MAX_TEXT, Analysis, analyse, hopeless, swells
from hostagent.sql.lexer import Kind as TokenKind
from hostagent.sql.lexer import tokens
from hostagent.sql.statement import Statement, resolved

PROTOCOL: Final = "postgres"
NOT_ASCII: Final = "this database is not in UTF8, and names beyond ASCII are read differently there"

# A text with none of these has no string, quoted identifier, parameter, comment or escape: digits are then numbers
# wherever they do not touch a word, a point or another digit.
_TRICKY: Final = re.compile(rb"['\"$\\]|--|/\*|[^\t\n\r -~]").search
_NUMBER: Final = re.compile(rb"(?<![\w.])\d{1,18}(?![\w.])")
_LONGEST_NUMBER: Final = 18
# Texts with one number are found by what stands around it; by so many first bytes.
_BEGINNING: Final = 24
_FRAMES: Final = 64
_FRAMED_TEXT: Final = 1024
# Effects that no number in a text can add to or take from (UPDATE and DELETE know "without where": WHERE 1 = 1).
_NUMBERLESS: Final = frozenset({Effect.READ, Effect.INSERT})
_SUBJECTS: Final = 256
_REMEMBERED_TEXT: Final = 8192
_SETTINGS: Final = 20
_SETTING: Final = 200
_NAMING_VERBS: Final = ("prepare", "declare", "deallocate", "close", "discard")
_TRUE: Final = frozenset({"on", "true", "yes", "1", "t", "tr", "tru", "y", "ye"})
_QUERY_NAME: Final = "(query)"
_MEDIA_TYPES: Final[Mapping[str, str]] = {
    "text": "text/tab-separated-values",
    "csv": "text/csv",
    "binary": "application/x-postgresql-copy",
}


def template(text: bytes) -> bytes:
    """Return ``text`` with every plain number replaced by 0, or ``text`` itself when that is not surely harmless."""
    if _TRICKY(text) is not None:
        return text
    return _NUMBER.sub(b"0", text)


class _Frame(NamedTuple):
    """What stands around the only number of a text that shares its ``subject`` with those that differ only there."""

    before: bytes
    behind: bytes
    subject: Subject


def _frame(text: bytes, subject: Subject) -> _Frame | None:
    """Return the frame of ``text``, which has a template of its own, if it has exactly one number."""
    number = _NUMBER.search(text)
    if number is None or _NUMBER.search(text, number.end()) is not None:
        return None
    return _Frame(text[: number.start()], text[number.end() :], subject)


@lru_cache(maxsize=1024)
def _remembered(text: str) -> Analysis:
    return analyse(text)


class UnanalysedText(Exception):  # noqa: N818 - nothing is wrong: somebody else has to look at it first
    """A text that takes too long to understand here and now. ``text`` is it."""

    def __init__(self, text: bytes) -> None:
        """Keep the text."""
        super().__init__("not analysed yet")
        self.text = text


def _forbidden(statement: Statement) -> str:
    """Return why ``statement`` would take the bytes out of our understanding, or an empty string."""
    for name, value in statement.settings:
        if value is None:
            continue  # back to what we set at start-up
        plain = value.strip().lower()
        if name == "client_encoding" and plain.replace("-", "").replace("_", "") not in ("utf8", "unicode"):
            return f"client_encoding must stay UTF8, not {plain[:40]}"
        if name == "standard_conforming_strings" and plain not in _TRUE:
            return "standard_conforming_strings must stay on"
    return _forbidden(statement.inner) if statement.inner is not None else ""


def _names_beyond_ascii(text: bytes) -> bool:
    """Return whether any identifier in ``text`` has a letter beyond ASCII, written out or escaped."""
    if text.isascii() and b'&"' not in text:
        return False
    return any(
        not token.text.isascii() or token.text[:2] in ("U&", "u&")
        for token in tokens(text.decode("utf-8", "surrogateescape"))
        if token.kind in (TokenKind.WORD, TokenKind.QUOTED)
    )


class Subjects:
    """Makes and keeps the subjects of one session."""

    __slots__ = ("_analysed", "_attributes", "_frames", "_kept", "_longest_inline", "_settings", "_shared", "ascii_names")

    def __init__(self, attributes: Mapping[str, str], *, ascii_names: bool = False, inline: int = MAX_TEXT) -> None:
        """``attributes`` go into every operation: database, user, application.

        Texts of more than ``inline`` bytes, or whose tree may be that of a longer one, are not analysed here: ``of`` and ``exact`` raise ``UnanalysedText`` until
        ``learn`` was told what that text means. What nobody can understand anyway (see ``hopeless``) needs no telling.

        ``ascii_names``: the database is not in UTF8. Its server cuts names elsewhere than we do, and may fold the case of
        letters that we leave alone, so that names beyond ASCII are refused.
        """
        self._attributes = attributes
        self.ascii_names = ascii_names
        self._kept: dict[bytes, Subject] = {}
        # By template, and only what every text of that template may share; all else is kept by its own text, in ``_kept``.
        self._shared: dict[bytes, Subject] = {}
        self._frames: dict[bytes, _Frame] = {}
        self._longest_inline = inline
        self._analysed: tuple[bytes, Analysis] | None = None
        self._settings: dict[str, None] = {}

    def kept(self) -> Iterable[Subject]:
        """Return the subjects that are kept for the next time."""
        return chain(self._kept.values(), self._shared.values())

    def forget(self) -> None:
        """Let go of everything: the session is over."""
        self._kept.clear()
        self._shared.clear()
        self._frames.clear()
        self._analysed = None

    def learn(self, text: bytes, analysis: Analysis) -> None:
        """Take what ``text`` means; the last one is remembered, so that a held statement can be looked at again."""
        self._analysed = (text, analysis)

    def _analysis(self, text: bytes) -> Analysis:
        if (len(text) > self._longest_inline or (self._longest_inline < MAX_TEXT and swells(text))) and not hopeless(text):
            if self._analysed is None or self._analysed[0] != text:
                raise UnanalysedText(text)
            return self._analysed[1]
        shown = text.decode("utf-8", "surrogateescape")
        return _remembered(shown) if len(text) <= _REMEMBERED_TEXT else analyse(shown)

    def of(self, text: bytes) -> Subject:
        """Return the subject of ``text``, which may be shared by texts that differ only in plain numbers."""
        frame = self._frames.get(text[:_BEGINNING])
        if frame is not None and text.startswith(frame.before) and text.endswith(frame.behind):
            number = text[len(frame.before) : len(text) - len(frame.behind)]
            if number.isdigit() and len(number) <= _LONGEST_NUMBER:
                return frame.subject  # so its template is the same, too
        found = self._kept.get(text)
        if found is not None:
            return found
        key = template(text) if len(text) <= _REMEMBERED_TEXT else text
        found = self._shared.get(key)
        if found is None:
            return self._make(text, key)
        self._remember_frame(text, found)
        return found

    def _remember_frame(self, text: bytes, subject: Subject) -> None:
        frame = _frame(text, subject) if len(text) <= _FRAMED_TEXT and _TRICKY(text) is None else None
        if frame is None or len(frame.before) < _BEGINNING:
            return
        if len(self._frames) >= _FRAMES:
            self._frames.clear()
        self._frames[text[:_BEGINNING]] = frame

    def exact(self, text: bytes) -> Subject:
        """Return a subject made of exactly ``text``, for eyes that must see the literals."""
        return self._build(text, self._analysis(text))

    def _make(self, text: bytes, key: bytes) -> Subject:
        subject = self._build(text, self._analysis(text))
        shared = subject.plain and all(
            each.completeness is Completeness.FULL and each.effects <= _NUMBERLESS for each in subject.statements
        )
        # A text can be its own template: others of that template must not find it unless it is theirs, too.
        kept, place = (self._shared, key) if shared else (self._kept, text)
        if len(place) <= _REMEMBERED_TEXT:
            if len(kept) >= _SUBJECTS:
                del kept[next(iter(kept))]
                self._frames.clear()  # none for what is kept no more
            kept[place] = subject
        return subject

    def _build(self, text: bytes, analysis: Analysis) -> Subject:
        statements = analysis.statements
        for name, value in chain.from_iterable(each.settings for each in statements):
            if len(self._settings) < _SETTINGS:
                self._settings[f"{name} = {'default or not told' if value is None else value[:_SETTING]}"] = None
        refusal = next(filter(None, map(_forbidden, statements)), "")
        if self.ascii_names and _names_beyond_ascii(text):
            refusal = NOT_ASCII
        return Subject(
            text,
            statements,
            tuple(map(self.operation, statements)),
            plain=not any(each.by_name or each.verb.startswith(_NAMING_VERBS) for each in statements),
            rows=any(each.returns_rows or each.completeness is not Completeness.FULL for each in statements),
            refusal=refusal,
        )

    def set_before(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """Return ``operations`` so that they tell what was set in this session, as attribute ``settings``.

        ``search_path`` decides what a name means and ``datestyle`` what a date is. Every value that was ever asked for is told: which
        one is in force now depends on transactions that were rolled back.
        """
        if not self._settings:
            return operations
        told = "; ".join(self._settings)
        return tuple(replace(each, attributes={**each.attributes, "settings": told}) for each in operations)

    def single(self, text: bytes, statement: Statement) -> Subject:
        """Return the subject of one statement inside ``text``."""
        return self._build(text, Analysis((statement,)))

    def operation(self, statement: Statement) -> Operation:
        """Return ``statement`` in the words that every protocol shares.

        The text of one that goes by a name also tells what the name stands for: whoever approves it must see that.
        """
        text = statement.text
        if statement.verb in ("execute", "fetch", "move") and statement.inner is not None:
            text = f"{text}\n-- which runs:\n{statement.inner.text}"
        return Operation(
            protocol=PROTOCOL,
            verb=statement.verb,
            effects=statement.effects,
            resources=statement.resources,
            completeness=statement.completeness,
            text=text,
            redacted=statement.redacted,
            fingerprint=statement.fingerprint,
            attributes=self._attributes,
            transfer=transfer_of(statement),
        )

    def call(self, oid: int, raw: bytes) -> Subject:
        """Return the subject of a FunctionCall: server-side code that the wire cannot see."""
        operation = Operation(
            protocol=PROTOCOL,
            verb="function call",
            effects=frozenset({Effect.FASTPATH, Effect.EXECUTE}),
            resources=(Resource("function", f"oid:{oid}"),),
            text=f"function call {oid}",
            redacted=f"function call {oid}",
            fingerprint=f"call:{oid}",
            attributes=self._attributes,
        )
        return Subject(raw, (), (operation,))

    def settle(self, subject: Subject, names: Names) -> Subject:
        """Return ``subject`` with every prepared statement and cursor it names filled in as the session knows them.

        A name that is not known keeps its statement as incomplete as it was: it counts as every effect.
        """
        if not any(statement.by_name for statement in subject.statements):
            return subject
        known: dict[bytes, Statement] = {}
        settled = tuple(_settled(statement, names, known) for statement in subject.statements)
        found = replace_statements(self, subject, settled)
        if not found.refusal and any(map(_acts_on_names, subject.statements, settled)):
            found.refusal = "EXECUTE and FETCH of what itself goes by names, or is a COPY, cannot be followed"
        return found

    @staticmethod
    def named(subject: Subject, names: Names) -> tuple[Prepared | Portal | None, ...]:
        """Return what each name that ``subject`` goes by stands for now."""
        inside = (each if each.name or each.inner is None else each.inner for each in subject.statements if each.by_name)
        return tuple(
            names.portals.get(_key(each)) if each.verb in ("fetch", "move") else names.statements.get(_key(each))
            for each in inside
        )


def _settled(statement: Statement, names: Names, here: dict[bytes, Statement]) -> Statement:
    """Resolve one statement; ``here`` collects what earlier statements of the same text prepare or declare."""
    if statement.verb == "prepare" or statement.verb.startswith("declare"):
        here[_key(statement)] = statement
        return statement
    if not statement.by_name:
        return statement
    # EXPLAIN and CREATE TABLE AS go by the name of the EXECUTE inside.
    inside = statement if statement.name or statement.inner is None else statement.inner
    if not inside.name:
        return statement
    name = _key(inside)
    stored = here.get(name)
    if stored is None:
        stored = _stored(inside, name, names)
    return statement if stored is None else resolved(statement, stored)


def _acts_on_names(written: Statement, settled: Statement) -> bool:
    """Return whether running ``settled`` runs a statement that changes or goes by names: the mirror would miss it."""
    meaning = settled.inner
    if not written.by_name or settled.by_name or meaning is None:
        return False
    return meaning.by_name or meaning.copy is not None or meaning.verb.startswith(_NAMING_VERBS)


def _key(statement: Statement) -> bytes:
    return key_of(statement.name.encode("utf-8", "surrogateescape"))


def _stored(statement: Statement, name: bytes, names: Names) -> Statement | None:
    """Return what ``name`` stands for: a prepared statement for EXECUTE, a cursor for FETCH and MOVE."""
    if statement.verb in ("fetch", "move"):
        portal = names.portals.get(name)
        prepared = portal.prepared if portal is not None else None
    else:
        prepared = names.statements.get(name)
    if prepared is None or len(prepared.subject.statements) != 1:
        return None
    return prepared.subject.statements[0]


def replace_statements(subjects: Subjects, subject: Subject, statements: tuple[Statement, ...]) -> Subject:
    """Return ``subject`` with other statements; its text and refusal stay."""
    rows = any(each.returns_rows or each.completeness is not Completeness.FULL for each in statements)
    operations = tuple(map(subjects.operation, statements))
    return Subject(subject.text, statements, operations, plain=False, rows=rows, refusal=subject.refusal)


def with_parameters(
    operations: tuple[Operation, ...], parameters: tuple[str | bytes | None, ...], types: tuple[int, ...]
) -> tuple[Operation, ...]:
    """Return ``operations`` with the bind values and their type OIDs in them."""
    if not parameters:
        return operations
    return tuple(
        replace(
            operation,
            parameters=parameters,
            attributes={**operation.attributes, "parameter_types": ",".join(map(str, types))},
        )
        for operation in operations
    )


def transfer_of(statement: Statement) -> Transfer | None:
    """Return the transfer that ``statement`` is, None if it copies nothing through the connection. Nobody knows its size."""
    copy = statement.copy
    if copy is None:
        return None
    relation = copy.relation
    name = _QUERY_NAME if relation is None else relation.name if relation.schema is None else f"{relation.schema}.{relation.name}"
    direction = Direction.UPLOAD if copy.direction == "in" else Direction.DOWNLOAD
    return Transfer(direction, (name,), (_MEDIA_TYPES[copy.format],))
