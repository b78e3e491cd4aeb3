"""Handlers for statements about the session, transactions, the server, and code whose effect cannot be seen."""

from __future__ import annotations

from hostagent.model.operation import Access, Completeness, Effect, Resource
from hostagent.sql.expressions import constant_text
from hostagent.sql.queries import option_text
from hostagent.sql.tree import Fields, Tree, qualified
from hostagent.sql.walk import Handler, Scope, Walk

TRUSTED_LANGUAGES = frozenset({"sql", "plpgsql", "plperl", "pltcl", "plv8"})

_TRANSACTION_VERBS = {
    "TRANS_STMT_BEGIN": "begin",
    "TRANS_STMT_START": "begin",
    "TRANS_STMT_COMMIT": "commit",
    "TRANS_STMT_ROLLBACK": "rollback",
    "TRANS_STMT_SAVEPOINT": "savepoint",
    "TRANS_STMT_RELEASE": "release",
    "TRANS_STMT_ROLLBACK_TO": "rollback to",
    "TRANS_STMT_PREPARE": "prepare transaction",
    "TRANS_STMT_COMMIT_PREPARED": "commit prepared",
    "TRANS_STMT_ROLLBACK_PREPARED": "rollback prepared",
}


def _transaction(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin(_TRANSACTION_VERBS.get(fields["kind"], "transaction"))
    walk.effects.add(Effect.TRANSACTION)


def _constraints(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("set constraints")
    walk.effects.add(Effect.TRANSACTION)


def _set(walk: Walk, fields: Fields, scope: Scope) -> None:
    kind = fields["kind"]
    if kind == "VAR_SET_MULTI":
        _set_transaction(walk, fields)
        return
    resetting = kind in ("VAR_RESET", "VAR_RESET_ALL")
    walk.begin("reset" if resetting else "set")
    change_setting(walk, fields)


def _set_transaction(walk: Walk, fields: Fields) -> None:
    """``SET TRANSACTION`` belongs to one transaction, ``SET SESSION CHARACTERISTICS`` to the session."""
    lasting = fields["name"] == "SESSION CHARACTERISTICS"
    walk.begin("set session characteristics" if lasting else "set transaction")
    walk.effects.add(Effect.SESSION if lasting else Effect.TRANSACTION)


def change_setting(walk: Walk, fields: Fields) -> None:
    """Note what a ``VariableSetStmt`` changes."""
    name = str(fields.get("name", "*")).lower()
    parts = [setting_text(argument) for argument in fields.get("args", ())]
    value = ", ".join(parts) if parts else None
    walk.setting(name, value, known=fields["kind"] != "VAR_SET_CURRENT")
    walk.resources.add(Resource("setting", name, Access.WRITE))
    if name in ("role", "session_authorization"):
        walk.resources.add(Resource("role", value or "*", Access.USE))


def setting_text(node: Tree) -> str:
    """Return one argument of SET as text."""
    constant = node.get("A_Const")
    if constant is None:
        return constant_text(node) or "?"
    if "ival" in constant:
        return str(constant["ival"].get("ival", 0))
    if "fval" in constant:
        return str(constant["fval"].get("fval", ""))
    if "boolval" in constant:
        return "true" if constant["boolval"].get("boolval") else "false"
    return str(constant.get("sval", {}).get("sval", ""))


def _show(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("show", returns_rows=True)
    walk.effects.add(Effect.READ)
    walk.resources.add(Resource("setting", str(fields.get("name", "*")).lower(), Access.READ))


def _discard(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("discard")
    walk.effects.add(Effect.SESSION)
    if fields["target"] == "DISCARD_ALL":
        walk.settings.append(("*", None))


def _notify(walk: Walk, fields: Fields, scope: Scope) -> None:
    _channel(walk, "notify", fields)


def _listen(walk: Walk, fields: Fields, scope: Scope) -> None:
    _channel(walk, "listen", fields)


def _unlisten(walk: Walk, fields: Fields, scope: Scope) -> None:
    _channel(walk, "unlisten", fields)


def _channel(walk: Walk, verb: str, fields: Fields) -> None:
    walk.begin(verb)
    walk.effects.add(Effect.NOTIFY)
    walk.resources.add(Resource("channel", fields.get("conditionname", "*"), Access.USE))


def _lock(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("lock table")
    walk.effects.add(Effect.LOCK)
    for item in fields["relations"]:
        walk.relation(item["RangeVar"], Access.USE)


def _do(walk: Walk, fields: Fields, scope: Scope) -> None:
    """A DO body is code in another language: not looked into, and therefore never fully understood."""
    walk.begin("do")
    walk.effects.add(Effect.EXECUTE)
    walk.unclear(Completeness.PARTIAL)
    language = "plpgsql"
    for item in fields["args"]:
        if item["DefElem"]["defname"] == "language":
            language = option_text(item["DefElem"])
    note_language(walk, language)


def note_language(walk: Walk, language: str) -> None:
    """Note the language of code; one that is not trusted reaches the host."""
    walk.resources.add(Resource("language", language.lower(), Access.USE))
    if language.lower() not in TRUSTED_LANGUAGES:
        walk.effects.add(Effect.HOST)


def _call(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("call", returns_rows=True)
    walk.effects |= {Effect.EXECUTE, Effect.TRANSACTION}  # a procedure may commit
    schema, name = qualified(fields["funccall"]["funcname"])
    walk.resources.add(Resource("procedure", name if schema is None else f"{schema}.{name}", Access.USE))
    walk.visit(fields, scope)


def _maintain(walk: Walk, verb: str, fields: Fields, scope: Scope) -> None:
    walk.begin(verb)
    walk.effects.add(Effect.ADMIN)
    walk.visit(fields, scope)


def _vacuum(walk: Walk, fields: Fields, scope: Scope) -> None:
    _maintain(walk, "vacuum" if fields.get("is_vacuumcmd") else "analyze", fields, scope)


def _cluster(walk: Walk, fields: Fields, scope: Scope) -> None:
    _maintain(walk, "cluster", fields, scope)


def _reindex(walk: Walk, fields: Fields, scope: Scope) -> None:
    _maintain(walk, "reindex", fields, scope)


def _checkpoint(walk: Walk, fields: Fields, scope: Scope) -> None:
    _maintain(walk, "checkpoint", fields, scope)


def _alter_system(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("alter system")
    walk.effects |= {Effect.ADMIN, Effect.ALTER}
    name = str(fields["setstmt"].get("name", "*")).lower()
    walk.resources.add(Resource("setting", name, Access.DEFINE))


def _load(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("load")
    walk.effects.add(Effect.HOST)
    walk.resources.add(Resource("file", fields["filename"], Access.USE))


SESSION: dict[str, Handler] = {
    "TransactionStmt": _transaction,
    "ConstraintsSetStmt": _constraints,
    "VariableSetStmt": _set,
    "VariableShowStmt": _show,
    "DiscardStmt": _discard,
    "NotifyStmt": _notify,
    "ListenStmt": _listen,
    "UnlistenStmt": _unlisten,
    "LockStmt": _lock,
    "DoStmt": _do,
    "CallStmt": _call,
    "VacuumStmt": _vacuum,
    "ClusterStmt": _cluster,
    "ReindexStmt": _reindex,
    "CheckPointStmt": _checkpoint,
    "AlterSystemStmt": _alter_system,
    "LoadStmt": _load,
}
