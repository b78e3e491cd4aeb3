"""What column rules mean for a statement before it runs: what its results may show, and whether it must be refused."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from hostagent.mask.coverage import SENSITIVE_FUNCTIONS, Coverage, State
from hostagent.mask.sources import moves
from hostagent.model.operation import Access, Completeness, Effect
from hostagent.sql import Relation, Statement
from hostagent.sql.writes import Writes


class Exposure(enum.IntEnum):
    """What may show in results that carry no provenance, and in messages; of several statements the greatest counts.

    MASKED: anything may come from a masked column. COUNT: results are ``count(*)`` only, so they are clear; messages are not.
    """

    NONE = 0
    COUNT = 1
    MASKED = 2


_MOVING = frozenset(
    {
        Effect.INSERT,
        Effect.UPDATE,
        Effect.UPDATE_ALL,
        Effect.CREATE,
        Effect.ALTER,
        Effect.NOTIFY,
        Effect.SESSION,
        Effect.HOST,
    }
)
_DEFINES = frozenset({Effect.CREATE, Effect.ALTER})
_ROW_WRITES = frozenset({Effect.INSERT, Effect.UPDATE, Effect.UPDATE_ALL})
_UNSEEN = frozenset({Effect.EXECUTE, Effect.HOST, Effect.REPLICATION})
_HARMLESS_DEFINITIONS = frozenset(
    {"create index", "create statistics", "create policy", "comment", "refresh materialized view", "create sequence"}
)
# Functions that leave what they are given where a later statement can read it: a setting, a sequence, a lock's key, a large
# object, the state of random().
_CARRYING = ("set_config", "setval", "setseed", "pg_notify", "pg_advisory_", "pg_try_advisory_", "lo_", "lowrite")
_NO_CATALOGUE = "columns are masked here, and the database's catalogue is not at hand to say which"


def exposure(statement: Statement, coverage: Coverage) -> Exposure:
    """Return what ``statement`` may show of masked columns beyond what its result columns say of themselves."""
    if not coverage.rules:
        return Exposure.NONE
    if _unseen(statement, coverage):
        return Exposure.MASKED
    if not any(_touches(relation, coverage) for relation in statement.relations):
        return Exposure.NONE
    if not statement.count_star_only:
        return Exposure.MASKED
    return Exposure.COUNT if _mentions(statement, coverage) else Exposure.NONE


def _mentions(statement: Statement, coverage: Coverage) -> bool:
    """Return whether any masked column is so much as mentioned, so that an error could quote its value."""
    if statement.star:
        return True
    for relation in statement.relations:
        if coverage.state(relation.schema, relation.name) is State.UNKNOWN:
            return True
        columns = coverage.masked_columns(relation.schema, relation.name)
        if columns is None or not columns.isdisjoint(statement.columns):
            return True
    return False


def _unseen(statement: Statement, coverage: Coverage) -> bool:
    """Return whether code may run that can read anything: not understood, or not PostgreSQL's own."""
    if statement.completeness is not Completeness.FULL or not _UNSEEN.isdisjoint(statement.effects):
        return True
    own = coverage.catalogue.functions if coverage.catalogue is not None else frozenset()
    return any(
        function.name in SENSITIVE_FUNCTIONS
        or _reads_by_text(function.name)
        or (function.name in own and function.schema != "pg_catalog")
        for function in statement.functions
    )


def _reads_by_text(name: str) -> bool:
    """Return whether a function of PostgreSQL's own runs SQL, or reads relations, that it is given as text."""
    return "_to_xml" in name or name in ("ts_stat", "ts_rewrite")


def _touches(relation: Relation, coverage: Coverage) -> bool:
    state = coverage.state(relation.schema, relation.name)
    return state is State.MASKED or (state is State.UNKNOWN and relation.access is not Access.DEFINE)


def _source(relation: Relation, coverage: Coverage) -> bool:
    """Return whether a relation may bring masked values into the statement (or is redefined while masked)."""
    state = coverage.state(relation.schema, relation.name)
    return state is State.MASKED or (state is State.UNKNOWN and relation.access is Access.READ)


def refuses(statement: Statement, coverage: Coverage) -> str | None:
    """Return why column rules could not be enforced on ``statement``, or None when they can.

    Refused: what would copy masked values to a place that is not masked (another table, a view, a setting, a notification,
    a file), what would rename or reshape a masked relation, COPY of unknown columns, code that cannot be seen into when
    it also writes, and everything that reads when there is no catalogue.
    """
    if statement.copy is not None and statement.copy.direction == "out" and _recoded(statement.copy.options):
        return "COPY in another encoding than UTF8 cannot be read, and so not masked"
    if not coverage.rules:
        return None
    if coverage.catalogue is None:
        return _NO_CATALOGUE if _needs_catalogue(statement) else None
    if statement.verb == "do":
        return "columns are masked in this database, and a DO block could copy them unseen"
    return _refuses_copy(statement, coverage) or _refuses_moving(statement, coverage)


def _recoded(options: Mapping[str, str]) -> bool:
    encoding = options.get("encoding", "utf8").lower()
    return encoding.replace("-", "").replace("_", "") not in ("utf8", "unicode")


def _needs_catalogue(statement: Statement) -> bool:
    own = (r for r in statement.relations if r.schema not in ("pg_catalog", "information_schema"))
    return statement.completeness is not Completeness.FULL or any(own) or not _UNSEEN.isdisjoint(statement.effects)


def _refuses_copy(statement: Statement, coverage: Coverage) -> str | None:
    copied = statement.copy
    if copied is None or copied.direction == "in":
        return None
    if copied.relation is None:
        if exposure(statement, coverage) == Exposure.NONE:
            return None
        return "COPY of a query over masked columns carries no column names; use SELECT, or COPY the table itself"
    if _unseen(statement, coverage) or coverage.named(copied.relation.schema, copied.relation.name) is None:
        return f"COPY of {copied.relation.name}, whose columns are not known here; name its schema"
    return None


def _refuses_moving(statement: Statement, coverage: Coverage) -> str | None:
    moving = statement.effects & _MOVING
    carries = any(function.name.startswith(_CARRYING) for function in statement.functions)
    if carries and statement.verb.startswith(("create ", "alter ")):
        return "columns are masked in this database, and this would install code that could carry them elsewhere"
    if not (moving or carries) or statement.verb in _HARMLESS_DEFINITIONS:
        return None
    if statement.verb == "rename" and any(each.kind in ("schema", "database") for each in statement.resources):
        return "columns are masked in this database by names that this would change"
    if statement.copy is not None and statement.copy.direction == "in":
        return None  # the client's own values
    if _unseen(statement, coverage) and not _stands_alone(statement):
        return "columns are masked in this database, and this statement writes through code that cannot be seen into"
    sources = [relation for relation in statement.relations if _source(relation, coverage)]
    if not sources:
        return None
    names = ", ".join(sorted({relation.name for relation in sources}))
    if moving & _DEFINES or not _row_write(statement):
        if moving & _DEFINES or any(relation.access is Access.READ for relation in sources):
            return f"this would carry masked columns of {names} to where they are not masked"
        return None
    if moves(_writes(statement), coverage.state, coverage.masked_columns, coverage.hidden_columns):
        return f"this would write masked columns of {names} to where they are not masked"
    return None


def _stands_alone(statement: Statement) -> bool:
    """Return whether a definition that reaches the host neither touches a relation nor runs code (CREATE EXTENSION)."""
    return not statement.relations and not statement.returns_rows and Effect.EXECUTE not in statement.effects


def _row_write(statement: Statement) -> bool:
    return bool(statement.effects & _ROW_WRITES) and not statement.effects & {Effect.NOTIFY, Effect.SESSION, Effect.HOST}


def _writes(statement: Statement) -> Writes | None:
    if statement.verb in ("execute", "fetch", "move"):
        return statement.inner.writes if statement.inner is not None else None
    return statement.writes
