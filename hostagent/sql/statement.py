"""What a SQL text means: the values that ``analyse`` returns. No parsing here.

Everything is a frozen value. ``effects`` is what was understood; whoever judges uses ``judged_effects``, because anything
not FULLY understood counts as every effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hostagent.model.operation import ALL_EFFECTS, Access, Completeness, Effect, Resource
from hostagent.sql.writes import Writes


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """A table, view, sequence or the like, as written (``schema`` is None when the text did not say). Never a CTE."""

    schema: str | None
    name: str
    access: Access


@dataclass(frozen=True, slots=True, order=True)
class Function:
    """A function, procedure or aggregate that is called, as written."""

    schema: str | None
    name: str


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """A COPY that uses the connection (STDIN, STDOUT).

    ``relation`` is None when a query is copied (``query`` is True; see ``Statement.inner``). ``columns`` is empty when
    the text names none, which means every column. ``options`` has lower-case names; the value of an option without an
    argument is ``"true"``, lists are joined by commas.
    """

    direction: Literal["in", "out"]
    relation: Relation | None
    columns: tuple[str, ...]
    query: bool
    format: Literal["text", "csv", "binary"]
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        text: exact source of this statement without surrounding white space; never to be stored.
        verb: lower-case words as in a command tag: ``select``, ``drop table``, ``create function``; ``unknown``.
        effects: what was understood. See ``judged_effects``.
        resources: everything touched, sorted, without repetition.
        relations: relations touched, sorted; CTE names are not among them.
        functions: functions called, sorted.
        columns: last name of every column reference and of every USING column, anywhere in the statement.
        star: a ``*`` or a whole-row reference occurs, so ``columns`` does not tell all.
        completeness: how much was understood.
        redacted: the text with every literal replaced by ``?`` and comments dropped; may be stored.
        fingerprint: 16 hex digits; equal for statements that differ only in literals, white space, letter case of
            keywords, or the length of a list of literals.
        name: prepared statement or cursor the statement is about (PREPARE, EXECUTE, DEALLOCATE, DECLARE, FETCH, MOVE,
            CLOSE), else empty; also empty for ALL.
        inner: the statement inside PREPARE, DECLARE CURSOR, EXPLAIN, COPY (query), CREATE TABLE AS, CREATE VIEW.
        copy: set for COPY through the connection.
        settings: names (lower case) and new values of settings that SET, RESET or set_config() touch, in order; None is
            "default or not known"; the name ``*`` is RESET ALL and DISCARD ALL.
        returns_rows: the statement may send a RowDescription.
        count_star_only: the only outputs are ``count(*)``.
        by_name: the meaning depends on what ``name`` was prepared or declared as; see ``resolved``.
        writes: the one write in it, also of what is inside; None for none, for several, and where it was not understood.
    """

    text: str
    verb: str
    effects: frozenset[Effect]
    resources: tuple[Resource, ...] = ()
    relations: tuple[Relation, ...] = ()
    functions: tuple[Function, ...] = ()
    columns: frozenset[str] = frozenset()
    star: bool = False
    completeness: Completeness = Completeness.FULL
    redacted: str = ""
    fingerprint: str = ""
    name: str = ""
    inner: Statement | None = None
    copy: CopyStatement | None = None
    settings: tuple[tuple[str, str | None], ...] = field(default=())
    returns_rows: bool = False
    count_star_only: bool = False
    by_name: bool = False
    writes: Writes | None = None

    @property
    def judged_effects(self) -> frozenset[Effect]:
        """The effects that policy sees: all of them unless the statement was fully understood."""
        return self.effects if self.completeness is Completeness.FULL else ALL_EFFECTS


@dataclass(frozen=True, slots=True)
class Analysis:
    """The statements of one text, in order.

    ``error`` is empty or one line that says why the text was not understood; then ``statements`` is exactly one OPAQUE
    statement with every effect. White space and comments alone give no statement and no error.
    """

    statements: tuple[Statement, ...]
    error: str = ""


def resolved(statement: Statement, stored: Statement) -> Statement:
    """Return ``statement`` (one with ``by_name``) with the remembered meaning of its name filled in.

    ``stored`` is what the name stands for: the PREPAREd or DECLAREd statement, or the one of a protocol-level Parse. The
    result has the effects and objects of both and is as complete as the stored one. Of the statement itself only the name
    was unknown, so nothing that ``analyse`` understood is lost; a statement that does not go by name is returned as is.
    """
    if not statement.by_name:
        return statement
    meaning = stored.inner if stored.inner is not None and stored.verb in ("prepare", "declare cursor") else stored
    return replace(
        statement,
        effects=statement.effects | stored.effects,
        resources=tuple(sorted({*statement.resources, *stored.resources})),
        relations=tuple(sorted({*statement.relations, *stored.relations}, key=relation_key)),
        functions=tuple(sorted({*statement.functions, *stored.functions}, key=function_key)),
        columns=statement.columns | stored.columns,
        star=statement.star or stored.star,
        completeness=stored.completeness if statement.completeness is Completeness.PARTIAL else Completeness.OPAQUE,
        inner=meaning,
        settings=statement.settings + stored.settings,
        returns_rows=meaning.returns_rows and statement.verb not in ("move", "create table as"),
        count_star_only=meaning.count_star_only and statement.verb in ("execute", "fetch"),
        by_name=False,
    )


def relation_key(relation: Relation) -> tuple[str, str, str]:
    """Return a total order over relations (None sorts as the empty schema)."""
    return (relation.schema or "", relation.name, relation.access)


def function_key(function: Function) -> tuple[str, str]:
    """Return a total order over functions (None sorts as the empty schema)."""
    return (function.schema or "", function.name)
