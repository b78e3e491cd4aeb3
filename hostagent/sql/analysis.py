"""Text → what it means. The entry point: parse, split, walk each statement, redact.

Guarantees: deterministic, no I/O, never raises on any ``str``. What is not understood is OPAQUE with every effect.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pgparse

from hostagent.model.operation import ALL_EFFECTS, Access, Completeness, Resource
from hostagent.sql.definitions import DEFINITIONS
from hostagent.sql.expressions import EXPRESSIONS
from hostagent.sql.growth import grown
from hostagent.sql.lexer import fingerprint, opaque_redaction, redact_and_fingerprint
from hostagent.sql.queries import QUERIES
from hostagent.sql.session import SESSION
from hostagent.sql.statement import Analysis, Function, Relation, Statement, function_key, relation_key
from hostagent.sql.walk import Handler, Walk
from hostagent.sql.writes import WRITING, Writes, writes_of

MAX_TEXT = 1 << 20  # bytes of UTF-8; longer statements are not parsed but OPAQUE
MAX_GROWN = 1 << 13  # of text that is analysed where nobody may wait: bytes that would make as large a tree
MAX_NESTING = 3  # SQL text inside SQL text inside …

# What is found out is judged, recorded and kept by a process that serves everybody: it must stay of a size that one can look at.
MAX_STATEMENTS = 500  # in one text
MAX_PARTS = 10_000  # relations, functions, columns, resources and settings of one text
MAX_REDACTED = 65_536  # characters of the redacted text, over all statements of a text

# The scanner reads a run of operator characters anew for each comment that starts in it, so that its time grows with the
# square of the run. PostgreSQL takes no operator of more than 63.
MAX_RUN = 1024

_HANDLERS: dict[str, Handler] = {**EXPRESSIONS, **QUERIES, **SESSION, **DEFINITIONS}
_QUOTING = re.compile(r" at or near|[\":]")
_RUN = re.compile(r"[~!@#^&|`?+\-*/%<>=]+")
_NO_SPACE = " \t\n\r\f\v"


def analyse(text: str) -> Analysis:
    """Return what ``text`` (one simple query or one Parse, in PostgreSQL's own language) means.

    Text that PostgreSQL 17's grammar does not take, that holds a NUL or lone surrogates, that is longer than ``MAX_TEXT``,
    nested too deeply, holds too many statements or parts (``MAX_STATEMENTS``, ``MAX_PARTS``) or an endless run of operator characters, gives an ``error`` and one OPAQUE statement.
    """
    return _analyse(text, MAX_NESTING)


def hopeless(text: bytes) -> bool:
    """Return whether ``analyse`` would give up on ``text`` (as received) before parsing it: that is quick."""
    if len(text) > MAX_TEXT or b"\0" in text:
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def swells(text: bytes) -> bool:
    """Return whether the tree of a short ``text`` may be so large that nobody should have to wait for it."""
    return b"," in text and b"=" in text and grown(text.decode("utf-8", "surrogateescape")) > MAX_GROWN


def misunderstood(text: bytes, error: str) -> Analysis:
    """Return the analysis of a text that nobody could understand: one OPAQUE statement with every effect."""
    return _opaque(text.decode("utf-8", "surrogateescape"), error)


def _analyse(text: str, depth: int) -> Analysis:
    if depth == 0:
        return _opaque(text, "SQL text nested in SQL text too deeply")
    if "\0" in text:
        return _opaque(text, "the text holds a NUL byte")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return _opaque(text, "the text is not valid Unicode")
    if len(encoded) > MAX_TEXT:
        return _opaque(text, f"the text is longer than {MAX_TEXT} bytes")
    if len(text) > MAX_RUN and any(run.end() - run.start() > MAX_RUN for run in _RUN.finditer(text)):
        return _opaque(text, f"the text holds more than {MAX_RUN} operator characters in a row")
    size = grown(text)
    if size > len(text) and size > (MAX_TEXT if depth == MAX_NESTING else MAX_GROWN):
        return _opaque(text, "what is assigned to several columns at once makes it too large")
    try:
        trees = pgparse.parse(text)
    except pgparse.PGQueryError as error:
        return _opaque(text, f"not PostgreSQL: {_first_words(error)}")
    except (RecursionError, MemoryError, ValueError):
        return _opaque(text, "the statement is nested too deeply")
    if len(trees) > MAX_STATEMENTS:
        return _opaque(text, f"the text holds more than {MAX_STATEMENTS} statements")
    statements: list[Statement] = []
    room, parts = MAX_REDACTED // max(1, len(trees)), 0
    for tree in trees:
        made = _statement(tree["stmt"], _source(encoded, tree), depth)
        parts += _parts(made)
        if parts > MAX_PARTS:
            return _opaque(text, f"the text names more than {MAX_PARTS} objects")
        statements.append(made if len(made.redacted) <= room else _shortened(made, room))
    return Analysis(tuple(statements))


def _parts(statement: Statement) -> int:
    inner = 0 if statement.inner is None else _parts(statement.inner)
    named = len(statement.relations) + len(statement.functions) + len(statement.columns)
    return inner + named + len(statement.resources) + len(statement.settings)


def _shortened(statement: Statement, room: int) -> Statement:
    """Return ``statement`` with the beginning of its redacted text; its fingerprint stays that of the whole."""
    redacted = f"{statement.redacted[:room]} [… {len(statement.redacted)} characters]"
    inner = statement.inner
    return replace(statement, redacted=redacted, inner=None if inner is None else replace(inner, redacted=redacted))


def _source(encoded: bytes, tree: dict[str, int]) -> str:
    """Return the text of one statement; libpg_query counts in bytes and leaves the length out for "to the end"."""
    start = tree.get("stmt_location", 0)
    length = tree.get("stmt_len", 0)
    piece = encoded[start : start + length] if length else encoded[start:]
    # Nothing but ASCII is cut at, and encoded came from a str, so decoding cannot fail.
    return piece.decode("utf-8").strip(_NO_SPACE)


def _first_words(error: Exception) -> str:
    """Return the parser's message without what it quotes from the text, which may be data."""
    return _QUOTING.split(str(error), maxsplit=1)[0].strip()


def _statement(node: object, text: str, depth: int) -> Statement:
    redacted, mark = redact_and_fingerprint(text)
    walk = Walk(_HANDLERS, lambda inner: _analyse(inner, depth - 1))
    try:
        walk.run(node)
    except (KeyError, TypeError, IndexError, AttributeError, RecursionError, ValueError):
        # The tree has a shape that the handlers do not know: a newer grammar. Not understood.
        return _unknown(text, redacted, mark)
    writes = None if walk.effects.isdisjoint(WRITING) else writes_of(node)
    return _finished(walk, text, redacted, mark, writes)


def _finished(walk: Walk, text: str, redacted: str, mark: str, writes: Writes | None) -> Statement:
    """Return the walk's findings as a value; statements inside share the text of the one around them."""
    relations = tuple(sorted(walk.relations, key=relation_key))
    functions = tuple(sorted(walk.functions, key=function_key))
    completeness = walk.completeness
    if walk.by_name:  # PARTIAL until the name is resolved; whatever else was unclear stays unclear after that
        completeness = Completeness.PARTIAL if completeness is Completeness.FULL else Completeness.OPAQUE
    return Statement(
        text=text,
        verb=walk.verb or "unknown",
        effects=ALL_EFFECTS if completeness is Completeness.OPAQUE else frozenset(walk.effects),
        resources=_resources(walk.resources, relations, functions),
        relations=relations,
        functions=functions,
        columns=frozenset(walk.columns),
        star=walk.star,
        completeness=completeness,
        redacted=redacted,
        fingerprint=mark,
        name=walk.name,
        inner=None if walk.inner is None else _finished(walk.inner, text, redacted, mark, writes),
        copy=walk.copy,
        settings=tuple(walk.settings),
        returns_rows=walk.returns_rows,
        count_star_only=walk.count_star_only,
        by_name=walk.by_name,
        writes=writes,
    )


def _resources(
    found: set[Resource], relations: tuple[Relation, ...], functions: tuple[Function, ...]
) -> tuple[Resource, ...]:
    everything = set(found)
    everything.update(Resource("relation", _dotted(r.schema, r.name), r.access) for r in relations)
    everything.update(Resource("function", _dotted(f.schema, f.name), Access.USE) for f in functions)
    return tuple(sorted(everything)) if len(everything) > 1 else tuple(everything)


def _dotted(schema: str | None, name: str) -> str:
    return _part(name) if schema is None else f"{_part(schema)}.{_part(name)}"


def _part(name: str) -> str:
    """Return a name so that dots inside it cannot be taken for the dot between schema and name."""
    return '"' + name.replace('"', '""') + '"' if "." in name or '"' in name else name


def _opaque(text: str, error: str) -> Analysis:
    redacted = opaque_redaction(text)
    return Analysis((_unknown(text, redacted, fingerprint(redacted)),), error)


def _unknown(text: str, redacted: str, mark: str) -> Statement:
    return Statement(
        text=text,
        verb="unknown",
        effects=ALL_EFFECTS,
        completeness=Completeness.OPAQUE,
        redacted=redacted,
        fingerprint=mark,
        star=True,
        returns_rows=True,
    )


__all__ = ["MAX_GROWN", "MAX_NESTING", "MAX_TEXT", "analyse", "swells"]
