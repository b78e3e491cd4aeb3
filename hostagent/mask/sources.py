"""Where written values come from: whether an INSERT, UPDATE, DELETE or MERGE could copy masked values elsewhere.

Used only for statements that write while touching a masked relation, to tell apart what is harmless (constants and
parameters into a masked table, conditions on masked columns) from what would copy masked values elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from hostagent.mask.coverage import State
from hostagent.sql.writes import Assigned, Writes

StateOf = Callable[[str | None, str], State]
ColumnsOf = Callable[[str | None, str], frozenset[str] | None]


def moves(writes: Writes | None, state: StateOf, masked_columns: ColumnsOf, hidden_columns: ColumnsOf) -> bool:
    """Return whether a statement that does ``writes`` may write a value of a masked column to a place that shows any of it.

    ``hidden_columns`` are the masked columns that show nothing of their values; only to these may such values be written.
    Errs on the side of yes: so for MERGE, for several writes in one statement, for anything that is not known (None).
    """
    if writes is None or writes.kind == "merge" or _read_elsewhere(writes, state):
        return True
    if writes.kind == "delete" or state(writes.schema, writes.name) is State.CLEAR:
        return False
    columns = masked_columns(writes.schema, writes.name)
    hidden = hidden_columns(writes.schema, writes.name)
    return any(_takes(each, writes, columns) for each in writes.assigned if not _is_hidden(each, hidden))


def _read_elsewhere(writes: Writes, state: StateOf) -> bool:
    """Return whether any masked or unknown relation stands where rows are read from; CTE names aside.

    A CTE that has the name of a masked relation counts as that relation.
    """
    for schema, name in writes.read:
        found = state(schema, name)
        if found is State.MASKED or (found is State.UNKNOWN and name not in writes.tables):
            return True
    return False


def _is_hidden(assigned: Assigned, hidden: frozenset[str] | None) -> bool:
    return hidden is not None and assigned.column in hidden and not assigned.part


def _takes(assigned: Assigned, writes: Writes, columns: frozenset[str] | None) -> bool:
    """Return whether an expression refers to a masked column of the target, or to its whole row.

    ``excluded`` stands for the row that was to be inserted, which holds the client's own values.
    """
    rows = {writes.name, writes.called}
    for parts in assigned.references:
        if writes.kind == "insert" and parts[0] == "excluded" and len(parts) == 2 and "excluded" not in rows and parts[1] != "*":
            continue
        if columns is None or parts[-1] == "*" or parts[-1] in columns or (len(parts) == 1 and parts[0] in rows):
            return True
    return False
