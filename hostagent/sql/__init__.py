"""Meaning of SQL: text → effects, relations, functions, columns, redacted form. PostgreSQL, by its own grammar.

Lives here: the lexer, the walk over the parse tree, the tables of what statements, functions and settings do.
May not live here: decisions, masking, protocol messages, session state (which statement a name stands for), any I/O.
"""

from __future__ import annotations

from hostagent.sql.analysis import MAX_TEXT, analyse, hopeless, misunderstood, swells
from hostagent.sql.lexer import fingerprint, redact
from hostagent.sql.statement import Analysis, CopyStatement, Function, Relation, Statement, resolved

__all__ = [
    "MAX_TEXT",
    "Analysis",
    "CopyStatement",
    "Function",
    "Relation",
    "Statement",
    "analyse",
    "fingerprint",
    "hopeless",
    "misunderstood",
    "redact",
    "resolved",
    "swells",
]
