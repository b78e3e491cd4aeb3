"""Handlers for the nodes inside statements: references, calls, operators, locking."""

from __future__ import annotations

from hostagent.model.operation import Access, Completeness, Effect, Resource
from hostagent.sql.functions import RELATION_ARGUMENT, SQL_ARGUMENTS, UNTOLD
from hostagent.sql.lexer import Kind, tokens
from hostagent.sql.statement import Analysis, Relation
from hostagent.sql.tree import Fields, Tree, qualified, text_of
from hostagent.sql.walk import Handler, Scope, Walk

_CONCAT_DEPTH = 20
_SAMPLERS = frozenset({(None, "bernoulli"), (None, "system")})
_SEQUENCE_WRITERS = frozenset({"nextval", "setval"})


def _column_ref(walk: Walk, fields: Fields, scope: Scope) -> None:
    last = fields["fields"][-1]
    if "A_Star" in last:
        walk.star = True
    else:
        walk.columns.add(text_of(last))


def _star(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.star = True


def _indirection(walk: Walk, fields: Fields, scope: Scope) -> None:
    for part in fields["indirection"]:
        if "String" in part:
            walk.columns.add(text_of(part))
    walk.visit(fields, scope)


def _join(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.columns.update(text_of(name) for name in fields.get("usingClause", ()))
    walk.visit(fields, scope)


def _operator(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.operator(fields["name"])
    walk.visit(fields, scope, "name")


def _sort(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.operator(fields.get("useOp", []))
    walk.visit(fields, scope, "useOp")


def _sublink(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.operator(fields.get("operName", []))
    walk.visit(fields, scope, "operName")


def _locking(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.effects.add(Effect.LOCK)  # lockedRels are names of this query's own range table


def _sample(walk: Walk, fields: Fields, scope: Scope) -> None:
    if qualified(fields["method"]) not in _SAMPLERS:
        walk.call(*qualified(fields["method"]))
    walk.visit(fields, scope, "method")


def call(walk: Walk, fields: Fields, scope: Scope) -> None:
    """Handle a function call: its effects, and what its constant arguments say."""
    schema, name = qualified(fields["funcname"])
    walk.call(schema, name)
    arguments: list[Tree] = fields.get("args", [])
    if name == "set_config":
        _set_config(walk, arguments)
    elif name == "pg_notify" and arguments:
        walk.resources.add(Resource("channel", constant_text(arguments[0]) or "*", Access.USE))
    elif name in RELATION_ARGUMENT:
        _named_relation(walk, name, arguments)
    elif name == "ts_rewrite":
        _sql_arguments(walk, arguments, (1,) if len(arguments) == 2 else ())
    elif name in SQL_ARGUMENTS:
        _sql_arguments(walk, arguments, SQL_ARGUMENTS[name])
    if UNTOLD.match(name) is not None:
        walk.unclear(Completeness.PARTIAL)
    walk.visit(fields, scope, "funcname")


def _set_config(walk: Walk, arguments: list[Tree]) -> None:
    name = constant_text(arguments[0]) if arguments else None
    if name is None:
        walk.unclear(Completeness.PARTIAL)
        return
    value = constant_text(arguments[1]) if len(arguments) > 1 else None
    walk.setting(name, value, known=value is not None)
    walk.resources.add(Resource("setting", name.lower(), Access.WRITE))


def _named_relation(walk: Walk, function: str, arguments: list[Tree]) -> None:
    text = constant_text(arguments[0]) if arguments else None
    access = Access.WRITE if function in _SEQUENCE_WRITERS else Access.READ
    parts = _identifiers(text) if text is not None else []
    if parts:
        walk.relations.add(Relation(parts[-2] if len(parts) > 1 else None, parts[-1], access))
    elif function.startswith("table_"):
        walk.unclear(Completeness.PARTIAL)
    else:
        walk.resources.add(Resource("relation", "*", access))


def _identifiers(text: str) -> list[str]:
    """Return the parts of a qualified name as ``regclass`` input reads them, or nothing when it is no such name."""
    parts: list[str] = []
    for index, token in enumerate(tokens(text)):
        if index % 2:
            if token.text != ".":
                return []
        elif token.kind is Kind.WORD:
            parts.append(token.text.lower())
        elif token.kind is Kind.QUOTED and token.text.startswith('"'):
            parts.append(token.text[1:-1].replace('""', '"'))
        else:
            return []
    return parts


def _sql_arguments(walk: Walk, arguments: list[Tree], positions: tuple[int, ...]) -> None:
    """Judge SQL text handed to a function that runs it; text that is not constant could be anything."""
    for position in positions:
        if position >= len(arguments):
            continue
        text = constant_text(arguments[position])
        if text is None:
            walk.unclear(Completeness.PARTIAL)
            walk.effects.add(Effect.EXECUTE)
        else:
            adopt_analysis(walk, walk.nested(text))


def adopt_analysis(walk: Walk, analysis: Analysis) -> None:
    """Take over everything that SQL text inside the statement means."""
    for statement in analysis.statements:
        walk.effects |= statement.effects
        walk.relations.update(statement.relations)
        walk.functions.update(statement.functions)
        walk.resources.update(statement.resources)
        walk.columns |= statement.columns
        walk.settings += statement.settings
        walk.star |= statement.star
        walk.unclear(statement.completeness)


def constant_text(node: Tree, depth: int = _CONCAT_DEPTH) -> str | None:
    """Return the text of a string constant, a cast of one, or constants joined by ``||``; None for anything else."""
    if not isinstance(node, dict) or depth == 0:
        return None
    if "A_Const" in node:
        value = node["A_Const"].get("sval")
        return str(value.get("sval", "")) if value is not None else None
    if "TypeCast" in node:
        return constant_text(node["TypeCast"]["arg"], depth - 1)
    expression = node.get("A_Expr")
    if expression is None or [text_of(part) for part in expression["name"]] != ["||"]:
        return None
    left = constant_text(expression.get("lexpr"), depth - 1)
    right = constant_text(expression.get("rexpr"), depth - 1)
    return left + right if left is not None and right is not None else None


EXPRESSIONS: dict[str, Handler] = {
    "ColumnRef": _column_ref,
    "A_Star": _star,
    "A_Indirection": _indirection,
    "JoinExpr": _join,
    "A_Expr": _operator,
    "SortBy": _sort,
    "SubLink": _sublink,
    "LockingClause": _locking,
    "RangeTableSample": _sample,
    "FuncCall": call,
}
