"""Where written values come from: a walk over the parse tree of INSERT, UPDATE, DELETE and MERGE.

Used only for statements that write while touching a masked relation, to tell apart what is harmless (constants and
parameters into a masked table, conditions on masked columns) from what would copy masked values elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pgparse

from hostagent.mask.coverage import State

_WRITES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_MOST_NODES = 2_000_000  # more than the longest text that is understood can make

StateOf = Callable[[str | None, str], State]
ColumnsOf = Callable[[str | None, str], frozenset[str] | None]


def moves(text: str, state: StateOf, masked_columns: ColumnsOf, hidden_columns: ColumnsOf) -> bool:
    """Return whether the statements in ``text`` may write a value of a masked column to a place that shows any of it.

    ``hidden_columns`` are the masked columns that show nothing of their values; only to these may such values be written.
    Errs on the side of yes: so for MERGE, for several writes in one statement, for anything that does not parse.
    """
    try:
        return _moves(pgparse.parse(text), state, masked_columns, hidden_columns)
    except (pgparse.PGQueryError, ValueError, RecursionError):
        return True


def _moves(tree: object, state: StateOf, masked_columns: ColumnsOf, hidden_columns: ColumnsOf) -> bool:
    writes = [(kind, fields) for kind, fields in _nodes(tree) if kind in _WRITES]
    if len(writes) != 1:
        return True
    kind, fields = writes[0]
    target = fields["relation"]
    if kind == "MergeStmt" or _read_elsewhere(tree, target, state):
        return True
    if kind == "DeleteStmt" or state(target.get("schemaname"), target["relname"]) is State.CLEAR:
        return False
    columns = masked_columns(target.get("schemaname"), target["relname"])
    assigned = _assigned(kind, fields, hidden_columns(target.get("schemaname"), target["relname"]))
    return any(_takes(value, target, columns, excluded=kind == "InsertStmt") for value in assigned)


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


def _read_elsewhere(tree: object, target: dict[str, Any], state: StateOf) -> bool:
    """Return whether any masked or unknown relation stands where rows are read from; CTE names aside.

    A CTE that has the name of a masked relation counts as that relation.
    """
    named = {fields["ctename"] for key, fields in _nodes(tree) if key == "CommonTableExpr"}
    for key, fields in _nodes(tree):
        if key != "RangeVar" or fields is target:
            continue
        found = state(fields.get("schemaname"), fields["relname"])
        if found is State.MASKED or (found is State.UNKNOWN and fields["relname"] not in named):
            return True
    return False


def _assigned(kind: str, fields: dict[str, Any], columns: frozenset[str] | None) -> Iterator[Any]:
    """Yield the expressions written to columns other than ``columns`` (None: those may be all)."""
    if kind == "InsertStmt":
        yield from [fields["selectStmt"]] if "selectStmt" in fields else []
        targets = fields.get("onConflictClause", {}).get("targetList", [])
    else:
        targets = fields.get("targetList", [])
    for item in targets:
        name = item["ResTarget"].get("name", "")
        if columns is None or name not in columns or "MultiAssignRef" in item["ResTarget"].get("val", {}):
            yield item["ResTarget"].get("val")


def _takes(value: object, target: dict[str, Any], columns: frozenset[str] | None, *, excluded: bool) -> bool:
    """Return whether an expression refers to a masked column of the target, or to its whole row.

    ``excluded``: that name stands for the row that was to be inserted, which holds the client's own values.
    """
    rows = {target["relname"], target.get("alias", {}).get("aliasname", target["relname"])}
    for key, fields in _nodes([value]):
        if key != "ColumnRef":
            continue
        parts = [part["String"]["sval"] if "String" in part else "*" for part in fields["fields"]]
        if excluded and parts[0] == "excluded" and len(parts) == 2 and "excluded" not in rows and parts[1] != "*":
            continue
        if columns is None or parts[-1] == "*" or parts[-1] in columns or (len(parts) == 1 and parts[0] in rows):
            return True
    return False
