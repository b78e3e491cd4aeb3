"""Handlers for statements that read and write rows, and for those that carry another statement."""

from __future__ import annotations

from typing import Literal

from hostagent.model.operation import Access, Completeness, Effect, Resource
from hostagent.sql.conditions import holds_for_every_row
from hostagent.sql.expressions import constant_text
from hostagent.sql.statement import CopyStatement, Relation
from hostagent.sql.tree import Fields, Tree, text_of
from hostagent.sql.walk import Handler, Scope, Walk

_MERGE_EFFECTS = {
    "CMD_INSERT": (Effect.INSERT, None),
    "CMD_UPDATE": (Effect.UPDATE, Effect.UPDATE_ALL),
    "CMD_DELETE": (Effect.DELETE, Effect.DELETE_ALL),
}
_FORMATS: dict[str, Literal["text", "csv", "binary"]] = {"text": "text", "csv": "csv", "binary": "binary"}
_FALSE = frozenset({"false", "off"})


def _select(walk: Walk, fields: Fields, scope: Scope) -> None:
    into = fields.get("intoClause")
    outermost = walk.begin("select into" if into else "select", returns_rows=not into)
    if outermost:
        walk.count_star_only = _only_counts(fields)
    if outermost or "valuesLists" not in fields:  # the VALUES of an INSERT read nothing
        walk.effects.add(Effect.READ)
    if into is not None:
        walk.effects.add(Effect.CREATE)
        walk.relation(into["rel"], Access.DEFINE)
    visible = walk.common_tables(fields.get("withClause"), scope)
    walk.visit(_setting_named(fields), visible, "withClause", "intoClause")


def _setting_named(fields: Fields) -> Fields:
    """Return ``SELECT set_config(name, …) FROM pg_settings WHERE name = 'x'`` with ``'x'`` in place of the column.

    That is how pg_dump changes a setting only on servers that have it; other queries are returned as they are.
    """
    sources: list[Tree] = fields.get("fromClause", [])
    where: Fields = fields.get("whereClause", {}).get("A_Expr", {})
    if len(sources) != 1 or sources[0].get("RangeVar", {}).get("relname") != "pg_settings" or not where:
        return fields
    equals = where["kind"] == "AEXPR_OP" and [text_of(part) for part in where["name"]] == ["="]
    if not equals or not _is_name_column(where.get("lexpr")) or constant_text(where.get("rexpr")) is None:
        return fields
    targets = [_with_first_argument(target, where["rexpr"]) for target in fields.get("targetList", [])]
    return {**fields, "targetList": targets}


def _is_name_column(node: Tree) -> bool:
    names = node.get("ColumnRef", {}).get("fields", []) if isinstance(node, dict) else []
    return len(names) == 1 and "String" in names[0] and text_of(names[0]) == "name"


def _with_first_argument(target: Tree, constant: Tree) -> Tree:
    call = target.get("ResTarget", {}).get("val", {}).get("FuncCall", {})
    arguments = call.get("args", [])
    if not arguments or text_of(call["funcname"][-1]) != "set_config" or not _is_name_column(arguments[0]):
        return target
    return {"ResTarget": {"val": {"FuncCall": {**call, "args": [constant, *arguments[1:]]}}}}


def _only_counts(fields: Fields) -> bool:
    """Return whether every output is a plain ``count(*)`` over the whole input."""
    if fields.get("op") != "SETOP_NONE" or any(key in fields for key in ("groupClause", "havingClause", "intoClause")):
        return False
    calls = [target["ResTarget"]["val"].get("FuncCall", {}) for target in fields.get("targetList", [])]
    return bool(calls) and all(
        call.get("agg_star") and text_of(call["funcname"][-1]) == "count" and "over" not in call for call in calls
    )


def _returning(walk: Walk, fields: Fields) -> bool:
    """Note the reading that RETURNING does; return whether there is any."""
    if "returningList" not in fields:
        return False
    walk.effects.add(Effect.READ)
    target = fields["relation"]
    walk.relations.add(Relation(target.get("schemaname"), target["relname"], Access.READ))
    return True


def _insert(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("insert", returns_rows=_returning(walk, fields))
    walk.effects.add(Effect.INSERT)
    if fields.get("onConflictClause", {}).get("action") == "ONCONFLICT_UPDATE":
        walk.effects.add(Effect.UPDATE)
    walk.target(fields["relation"])
    visible = walk.common_tables(fields.get("withClause"), scope)
    walk.visit(fields, visible, "withClause", "relation")


def _update(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("update", returns_rows=_returning(walk, fields))
    walk.effects.add(Effect.UPDATE)
    _changed(walk, fields, Effect.UPDATE_ALL, scope, "fromClause")


def _delete(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("delete", returns_rows=_returning(walk, fields))
    walk.effects.add(Effect.DELETE)
    _changed(walk, fields, Effect.DELETE_ALL, scope, "usingClause")


def _changed(walk: Walk, fields: Fields, all_rows: Effect, scope: Scope, sources: str) -> None:
    if holds_for_every_row(fields.get("whereClause"), fields["relation"]["relname"]):
        walk.effects.add(all_rows)
    if sources in fields:
        walk.effects.add(Effect.READ)
    walk.target(fields["relation"])
    visible = walk.common_tables(fields.get("withClause"), scope)
    walk.visit(fields, visible, "withClause", "relation")


def _merge(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("merge", returns_rows=_returning(walk, fields))
    walk.effects.add(Effect.READ)
    every = holds_for_every_row(fields["joinCondition"])
    for item in fields["mergeWhenClauses"]:
        clause = item["MergeWhenClause"]
        one, whole = _MERGE_EFFECTS.get(clause["commandType"], (None, None))
        if one is not None:
            walk.effects.add(one)
        # Rows that no source row matches may be all of them: the source may be empty.
        unmatched = clause["matchKind"] == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE"
        if whole is not None and (every or unmatched) and holds_for_every_row(clause.get("condition")):
            walk.effects.add(whole)
    walk.target(fields["relation"])
    visible = walk.common_tables(fields.get("withClause"), scope)
    walk.visit(fields, visible, "withClause", "relation")


def _truncate(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("truncate")
    walk.effects.add(Effect.TRUNCATE)
    for item in fields["relations"]:
        walk.relation(item["RangeVar"], Access.WRITE)
    if fields.get("behavior") == "DROP_CASCADE":
        walk.resources.add(Resource("relation", "*", Access.WRITE))  # tables that refer to these go with them


def _copy(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("copy")
    incoming = bool(fields.get("is_from"))
    relation = _copied(walk, fields, incoming)
    options = {item["DefElem"]["defname"].lower(): option_text(item["DefElem"]) for item in fields.get("options", [])}
    columns = tuple(text_of(name) for name in fields.get("attlist", ()))
    walk.columns.update(columns)
    layout = _FORMATS.get(options.get("format", "text").lower())
    if layout is None:
        walk.unclear(Completeness.PARTIAL)
    if fields.get("is_program"):
        walk.effects.add(Effect.HOST)
        walk.resources.add(Resource("program", "*", Access.USE))  # the command line may hold a secret
    elif "filename" in fields:
        walk.effects.add(Effect.HOST)
        walk.resources.add(Resource("file", fields["filename"], Access.READ if incoming else Access.WRITE))
    else:
        walk.effects.add(Effect.IMPORT if incoming else Effect.EXPORT)
        direction: Literal["in", "out"] = "in" if incoming else "out"
        walk.copy = CopyStatement(direction, relation, columns, "query" in fields, layout or "text", options)
    walk.visit(fields, scope, "relation", "query", "attlist", "options")


def _copied(walk: Walk, fields: Fields, incoming: bool) -> Relation | None:
    """Note what is copied; return the relation, or None for a query."""
    if "query" in fields:
        walk.inner = walk.child(fields["query"])
        walk.adopt(walk.inner)
        return None
    target = fields["relation"]
    walk.effects.add(Effect.INSERT if incoming else Effect.READ)
    access = Access.WRITE if incoming else Access.READ
    walk.relation(target, access)
    walk.star |= "attlist" not in fields
    return Relation(target.get("schemaname"), target["relname"], access)


def option_text(element: Fields) -> str:
    """Return the argument of a ``DefElem`` as text: ``true`` when it has none, lists joined by commas."""
    argument: Tree = element.get("arg")
    if argument is None:
        return "true"
    kind, value = next(iter(argument.items()))
    match kind:
        case "String":
            return str(value.get("sval", ""))
        case "Integer":
            return str(value.get("ival", 0))
        case "Float":
            return str(value.get("fval", ""))
        case "Boolean":
            return "true" if value.get("boolval") else "false"
        case "A_Star":
            return "*"
        case "List":
            return ",".join(text_of(item) for item in value.get("items", []) if "String" in item)
        case _:
            return ""


def _explain(walk: Walk, fields: Fields, scope: Scope) -> None:
    """EXPLAIN ANALYZE runs its statement. Plain EXPLAIN plans it, which may already run functions.

    ``ANALYZE 0`` counts as ANALYZE: a number must never decide what a statement is, because statements that differ only in
    numbers share their judgement.
    """
    walk.begin("explain", returns_rows=True)
    inner = walk.inner = walk.child(fields["query"])
    walk.effects.add(Effect.READ)
    options = [item["DefElem"] for item in fields.get("options", [])]
    if any(o["defname"].lower() == "analyze" and option_text(o).lower() not in _FALSE for o in options):
        walk.adopt(inner)
        return
    walk.effects |= inner.effects & {Effect.EXECUTE, Effect.HOST}
    walk.relations |= {Relation(r.schema, r.name, Access.READ) for r in inner.relations}
    walk.adopt_names(inner)
    walk.name = inner.name


def _prepare(walk: Walk, fields: Fields, scope: Scope) -> None:
    _carry(walk, "prepare", fields["name"], fields["query"])


def _declare(walk: Walk, fields: Fields, scope: Scope) -> None:
    _carry(walk, "declare cursor", fields["portalname"], fields["query"])


def _carry(walk: Walk, verb: str, name: str, query: Tree) -> None:
    walk.begin(verb)
    walk.name = name
    walk.inner = walk.child(query)
    walk.adopt(walk.inner)


def _execute(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("execute", returns_rows=True)
    walk.name = fields["name"]
    walk.by_name = True
    walk.visit(fields, scope)


def _fetch(walk: Walk, fields: Fields, scope: Scope) -> None:
    moves = bool(fields.get("ismove"))
    walk.begin("move" if moves else "fetch", returns_rows=not moves)
    walk.effects.add(Effect.READ)
    walk.name = fields["portalname"]
    walk.by_name = True


def _close(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("close")
    walk.effects.add(Effect.SESSION)
    walk.name = fields.get("portalname", "")


def _deallocate(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("deallocate")
    walk.effects.add(Effect.SESSION)
    walk.name = fields.get("name", "")


def _create_as(walk: Walk, fields: Fields, scope: Scope) -> None:
    matview = fields.get("objtype") == "OBJECT_MATVIEW"
    walk.begin("create materialized view" if matview else "create table as")
    walk.effects.add(Effect.CREATE)
    walk.relation(fields["into"]["rel"], Access.DEFINE)
    walk.inner = walk.child(fields["query"])
    walk.adopt(walk.inner)
    walk.name = walk.inner.name
    walk.visit(fields, scope, "into", "query")


def _view(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("create view")
    walk.effects.add(Effect.CREATE)
    walk.relation(fields["view"], Access.DEFINE)
    walk.inner = walk.child(fields["query"])
    walk.adopt(walk.inner)
    walk.visit(fields, scope, "view", "query")


QUERIES: dict[str, Handler] = {
    "SelectStmt": _select,
    "InsertStmt": _insert,
    "UpdateStmt": _update,
    "DeleteStmt": _delete,
    "MergeStmt": _merge,
    "TruncateStmt": _truncate,
    "CopyStmt": _copy,
    "ExplainStmt": _explain,
    "PrepareStmt": _prepare,
    "DeclareCursorStmt": _declare,
    "ExecuteStmt": _execute,
    "FetchStmt": _fetch,
    "ClosePortalStmt": _close,
    "DeallocateStmt": _deallocate,
    "CreateTableAsStmt": _create_as,
    "ViewStmt": _view,
}
