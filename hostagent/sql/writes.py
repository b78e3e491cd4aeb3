"""What a statement writes and what it takes that from: what must be known of it once masked columns are.

Found where the text is analysed, which for a long one is another process: a parse tree of a megabyte takes seconds to walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hostagent.model.operation import Effect

WRITING = frozenset({Effect.INSERT, Effect.UPDATE, Effect.UPDATE_ALL, Effect.DELETE, Effect.DELETE_ALL})
_KINDS = {"InsertStmt": "insert", "UpdateStmt": "update", "DeleteStmt": "delete", "MergeStmt": "merge"}
_MOST_NODES = 2_000_000  # more than the longest text that is understood can make
_MOST_REFERENCES = 10_000


@dataclass(frozen=True, slots=True)
class Assigned:
    """What one column is given. ``references`` are the column references in it, each in its parts (``*`` as such).

    ``column`` is empty for what an INSERT inserts, all columns together. ``part``: it is part of ``(a, b) = (…)``, and nobody
    says which.
    """

    column: str
    part: bool
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Writes:
    """The one write of a statement. ``kind``: insert, update, delete, merge; ``called`` the name its target goes by.

    ``read`` are schema and name of the relations that rows are read from, ``tables`` the names of its common table expressions.
    """

    kind: str
    schema: str | None
    name: str
    called: str
    assigned: tuple[Assigned, ...] = ()
    read: tuple[tuple[str | None, str], ...] = ()
    tables: frozenset[str] = frozenset()


def writes_of(tree: object) -> Writes | None:
    """Return what the statement of ``tree`` writes; None when that is nothing, or several things, or too much to tell."""
    found: list[tuple[str, Any]] = []
    read: set[tuple[str | None, str]] = set()
    tables: set[str] = set()
    try:
        for key, fields in _nodes(tree):
            if key in _KINDS:
                found.append((_KINDS[key], fields))
            elif key == "RangeVar":
                read.add((fields.get("schemaname"), fields["relname"]))
            elif key == "CommonTableExpr":
                tables.add(fields["ctename"])
        if len(found) != 1 or len(read) > _MOST_REFERENCES:
            return None
        kind, fields = found[0]
        target = fields["relation"]
        called = target.get("alias", {}).get("aliasname", target["relname"])
        assigned = tuple(_assigned(kind, fields)) if kind in ("insert", "update") else ()
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if sum(len(each.references) + 1 for each in assigned) > _MOST_REFERENCES:
        return None
    return Writes(kind, target.get("schemaname"), target["relname"], called, assigned, tuple(sorted(read, key=_order)), frozenset(tables))


def _order(named: tuple[str | None, str]) -> tuple[str, str]:
    return named[0] or "", named[1]


def _assigned(kind: str, fields: dict[str, Any]) -> Iterator[Assigned]:
    if kind == "insert":
        if "selectStmt" in fields:
            yield Assigned("", False, _references(fields["selectStmt"]))
        targets = fields.get("onConflictClause", {}).get("targetList", [])
    else:
        targets = fields.get("targetList", [])
    for item in targets:
        value = item["ResTarget"].get("val", {})
        yield Assigned(item["ResTarget"].get("name", ""), "MultiAssignRef" in value, _references(value))


def _references(value: object) -> tuple[tuple[str, ...], ...]:
    found: dict[tuple[str, ...], None] = {}
    for key, fields in _nodes([value]):
        if key == "ColumnRef":
            found[tuple(part["String"]["sval"] if "String" in part else "*" for part in fields["fields"])] = None
    return tuple(found)


def _nodes(tree: object) -> Iterator[tuple[str, Any]]:
    """Yield every (key, mapping) of the tree, without recursion.

    Raises:
        ValueError: the tree is unreasonably large.
    """
    waiting: list[object] = [tree]
    seen = 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > _MOST_NODES:
            raise ValueError("statement too large")
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            for key, value in node.items():
                if isinstance(value, dict):
                    yield key, value
                if isinstance(value, dict | list):
                    waiting.append(value)
