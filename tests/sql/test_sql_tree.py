"""What a tree that these tables do not know means: nothing that could be trusted."""

from __future__ import annotations

from hostagent.model.operation import Completeness, Effect
from hostagent.sql.analysis import _HANDLERS
from hostagent.sql.statement import Analysis
from hostagent.sql.walk import Walk


def _walk(tree: object) -> Walk:
    return Walk(_HANDLERS, lambda _: Analysis(())).run(tree)


def test_a_statement_type_of_a_newer_grammar_is_opaque() -> None:
    assert _walk({"FlushEverythingStmt": {"hard": True}}).completeness is Completeness.OPAQUE


def test_a_statement_type_of_a_newer_grammar_inside_a_known_one_is_opaque() -> None:
    tree = {"SelectStmt": {"fromClause": [{"GraphStmt": {}}], "limitOption": "LIMIT_OPTION_DEFAULT"}}
    assert _walk(tree).completeness is Completeness.OPAQUE


def test_an_expression_of_a_newer_grammar_is_partial_and_looked_into() -> None:
    call = {"FuncCall": {"funcname": [{"String": {"sval": "pg_read_file"}}], "funcformat": "COERCE_EXPLICIT_CALL"}}
    walk = _walk({"SelectStmt": {"targetList": [{"NewExpr": {"arg": call}}], "limitOption": "LIMIT_OPTION_DEFAULT"}})
    assert walk.completeness is Completeness.PARTIAL
    assert walk.effects == {Effect.READ, Effect.HOST}


def test_completeness_never_rises() -> None:
    walk = _walk({"NewStmt": {}})
    walk.unclear(Completeness.PARTIAL)
    walk.unclear(Completeness.FULL)
    assert walk.completeness is Completeness.OPAQUE
