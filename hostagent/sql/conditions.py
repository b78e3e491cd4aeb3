"""Does a WHERE pick rows, or does it hold for every row? ``WHERE true`` is no WHERE.

A condition is judged without data. One that mentions no column says the same of every row, so unless it is provably false it
counts as holding for all of them; so does one that compares a column with itself in a way that always holds. Conditions that
merely tend to hold (``id > 0``, ``id IS NOT NULL``, ``EXISTS`` over another table) count as picking rows: telling those apart
takes the data.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping
from typing import Any

from hostagent.sql.tree import Tree

Node = Mapping[str, Any]

_DEPTH = 60
_REFLEXIVE = frozenset({"=", "<=", ">=", "~~", "@>", "<@"})
_IRREFLEXIVE = frozenset({"<>", "<", ">"})
_FALSE_WORDS = frozenset({"f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"})
_VOLATILE = ("FuncCall", "ParamRef", "SubLink", "SQLValueFunction")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


class Reach(enum.IntEnum):
    """Which rows a condition lets through, from fewest to most."""

    NONE = 0  # provably none
    SOME = 1  # depends on the row
    SAME = 2  # the same answer for every row, not known which
    EVERY = 3  # provably every row (but for NULLs)


def holds_for_every_row(where: Node | None, table: str = "") -> bool:
    """Return whether a DELETE or UPDATE of ``table`` with this condition (None: no WHERE) may reach all rows."""
    return where is None or _reach(where, table, _DEPTH) >= Reach.SAME


def _reach(node: Node, table: str, depth: int) -> Reach:
    if depth == 0:
        return Reach.SAME  # too deep to look at: the stricter reading
    kind, fields = next(iter(node.items()))
    judge = _JUDGES.get(kind)
    found = judge(fields, table, depth - 1) if judge is not None else None
    if found is not None:
        return found
    return Reach.SOME if _contains(node, ("ColumnRef", "CurrentOfExpr")) else Reach.SAME


def _constant(fields: Node, _table: str, _depth: int) -> Reach | None:
    if "isnull" in fields:
        return Reach.NONE
    if "boolval" in fields:
        return Reach.EVERY if fields["boolval"].get("boolval") else Reach.NONE
    word = str(fields.get("sval", {}).get("sval", "t")).strip().lower()
    return Reach.NONE if word in _FALSE_WORDS else Reach.EVERY


def _cast(fields: Node, table: str, depth: int) -> Reach | None:
    """Judge ``'t'::boolean`` as its constant; any other cast makes the value unknown."""
    names = [name["String"]["sval"] for name in fields["typeName"].get("names", [])]
    if names[-1:] != ["bool"]:
        return None
    constant = fields["arg"].get("A_Const", {})
    if "ival" in constant:
        return Reach.EVERY if constant["ival"].get("ival") else Reach.NONE
    return _reach(fields["arg"], table, depth)


def _bool_expr(fields: Node, table: str, depth: int) -> Reach | None:
    parts = [_reach(arg, table, depth) for arg in fields["args"]]
    match fields["boolop"]:
        case "AND_EXPR":
            return min(parts)
        case "OR_EXPR":
            return Reach.EVERY if _complementary(fields["args"]) else max(parts)
        case _:
            return _negated(parts[0])


def _negated(reach: Reach) -> Reach:
    return {Reach.NONE: Reach.EVERY, Reach.EVERY: Reach.NONE}.get(reach, reach)


def _complementary(args: list[Node]) -> bool:
    """Return whether two arguments are ``x IS NULL`` and ``x IS NOT NULL``, or ``c`` and ``NOT c``."""
    bare = [_bare(arg) for arg in args]
    for arg in bare:
        test = arg.get("NullTest")
        if test is not None:
            other = "IS_NOT_NULL" if test["nulltesttype"] == "IS_NULL" else "IS_NULL"
            if {"NullTest": {**test, "nulltesttype": other}} in bare:
                return True
        negation = arg.get("BoolExpr")
        if negation is not None and negation["boolop"] == "NOT_EXPR" and negation["args"][0] in bare:
            return True
    return False


def _comparison(fields: Node, _table: str, _depth: int) -> Reach | None:
    if len(fields["name"]) != 1:
        return None  # OPERATOR(schema.=) is anybody's
    left, right = _bare(fields.get("lexpr")), _bare(fields.get("rexpr"))
    kind, name = fields["kind"], fields["name"][0]["String"].get("sval", "")
    steady = not _contains([left, right], _VOLATILE)
    if left is not None and left == right and steady:
        return _same_sides(kind, name)
    if kind in ("AEXPR_LIKE", "AEXPR_ILIKE"):
        pattern = _value(right)
        if isinstance(pattern, str) and pattern and not pattern.strip("%"):
            return Reach.EVERY if name in ("~~", "~~*") else Reach.NONE
    if kind == "AEXPR_IN" and steady and isinstance(right, dict) and left in right.get("List", {}).get("items", []):
        return Reach.EVERY if name == "=" else Reach.NONE
    if kind == "AEXPR_OP" and name in _COMPARE:
        return _compare_numbers(name, _value(left), _value(right))
    return None


def _same_sides(kind: str, name: str) -> Reach | None:
    if kind in ("AEXPR_NOT_DISTINCT", "AEXPR_DISTINCT"):
        return Reach.EVERY if kind == "AEXPR_NOT_DISTINCT" else Reach.NONE
    if kind in ("AEXPR_OP", "AEXPR_LIKE") and name in _REFLEXIVE:
        return Reach.EVERY
    return Reach.NONE if kind == "AEXPR_OP" and name in _IRREFLEXIVE else None


def _compare_numbers(name: str, left: object, right: object) -> Reach | None:
    """Compare two integer constants. Strings are left open: types, collations and padding decide those."""
    if not isinstance(left, int) or not isinstance(right, int):
        return None
    return Reach.EVERY if _COMPARE[name](left, right) else Reach.NONE


def _null_test(fields: Node, _table: str, _depth: int) -> Reach | None:
    constant = fields["arg"].get("A_Const")
    if constant is None:
        return None
    return Reach.EVERY if ("isnull" in constant) == (fields["nulltesttype"] == "IS_NULL") else Reach.NONE


def _boolean_test(fields: Node, table: str, depth: int) -> Reach | None:
    inner = _reach(fields["arg"], table, depth)
    match fields["booltesttype"]:
        case "IS_TRUE":
            return inner
        case "IS_NOT_TRUE":
            return _negated(inner)
        case "IS_FALSE":  # of NULL it is false, which cannot be told from false here: the stricter reading
            return _negated(inner)
        case _:
            return None


def _case(fields: Node, table: str, depth: int) -> Reach | None:
    """Judge CASE as its first branch that is certainly taken."""
    if "arg" in fields:
        return None
    for branch in fields["args"]:
        taken = _reach(branch["CaseWhen"]["expr"], table, depth)
        if taken is Reach.EVERY:
            return _reach(branch["CaseWhen"]["result"], table, depth)
        if taken is not Reach.NONE:
            return None
    return _reach(fields["defresult"], table, depth) if "defresult" in fields else Reach.NONE


def _coalesce(fields: Node, table: str, depth: int) -> Reach | None:
    first = _reach(fields["args"][0], table, depth)
    return first if first >= Reach.SAME else None


def _sublink(fields: Node, table: str, depth: int) -> Reach | None:
    """Judge ``EXISTS (…)`` and ``column IN (SELECT column FROM table)``, which without a WHERE inside pick no rows."""
    select = fields["subselect"].get("SelectStmt", {})
    if any(key in select for key in ("limitCount", "limitOffset", "havingClause", "larg", "withClause")):
        return None
    if fields["subLinkType"] == "EXISTS_SUBLINK":
        lone_aggregate = "groupClause" not in select and _contains(select.get("targetList", []), ("FuncCall",))
        free = "whereClause" not in select or _reach(select["whereClause"], table, depth) >= Reach.SAME
        return Reach.SAME if lone_aggregate or free else None
    if fields["subLinkType"] == "ANY_SUBLINK" and "operName" not in fields:
        return Reach.SAME if _selects_itself(fields, select, table, depth) else None
    return None


def _selects_itself(fields: Node, select: Node, table: str, depth: int) -> bool:
    sources, targets = select.get("fromClause", []), select.get("targetList", [])
    if len(sources) != 1 or len(targets) != 1 or sources[0].get("RangeVar", {}).get("relname") != table:
        return False
    where = select.get("whereClause")
    if where is not None and _reach(where, table, depth) < Reach.SAME:
        return False
    chosen = _column(targets[0].get("ResTarget", {}).get("val"))
    return chosen is not None and chosen == _column(fields.get("testexpr"))


def _column(node: Tree) -> object:
    """Return the last name of a column reference, else None."""
    fields = node.get("ColumnRef", {}).get("fields", []) if isinstance(node, dict) else []
    return _bare(fields[-1]) if fields else None


_JUDGES: dict[str, Callable[[Node, str, int], Reach | None]] = {
    "A_Const": _constant,
    "TypeCast": _cast,
    "BoolExpr": _bool_expr,
    "A_Expr": _comparison,
    "NullTest": _null_test,
    "BooleanTest": _boolean_test,
    "CaseExpr": _case,
    "CoalesceExpr": _coalesce,
    "SubLink": _sublink,
}


def _bare(node: Tree) -> Tree:
    """Return ``node`` without source locations, for comparison."""
    if isinstance(node, dict):
        return {key: _bare(value) for key, value in node.items() if key != "location"}
    if isinstance(node, list):
        return [_bare(item) for item in node]
    return node


def _value(node: Tree) -> object:
    constant = node.get("A_Const") if isinstance(node, dict) else None
    if constant is None:
        return None
    if "ival" in constant:
        return int(constant["ival"].get("ival", 0))
    return str(constant["sval"].get("sval", "")) if "sval" in constant else None


def _contains(node: Tree, kinds: tuple[str, ...]) -> bool:
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if any(kind in item for kind in kinds):
                return True
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False
