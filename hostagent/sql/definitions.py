"""Handlers for statements that create, alter, drop and grant. Mostly one table; the rest are the odd ones.

Whatever installs code that the server will run later by itself (functions, triggers, rules, operators, casts) also counts as
EXECUTE; whatever reaches outside the server (extensions, foreign data, untrusted languages) as HOST.
"""

from __future__ import annotations

from typing import NamedTuple

from hostagent.model.operation import Access, Effect, Resource
from hostagent.sql.queries import option_text
from hostagent.sql.session import change_setting, note_language
from hostagent.sql.statement import Relation
from hostagent.sql.tree import Fields, Tree, qualified, text_of
from hostagent.sql.walk import Handler, Scope, Walk

_CREATE = frozenset({Effect.CREATE})
_ALTER = frozenset({Effect.ALTER})
_DROP = frozenset({Effect.DROP})
_CODE = frozenset({Effect.EXECUTE})
_HOST = frozenset({Effect.HOST})
_PRIVILEGE = frozenset({Effect.PRIVILEGE})
_ADMIN = frozenset({Effect.ADMIN})
_REPLICATION = frozenset({Effect.REPLICATION, Effect.HOST})


class Row(NamedTuple):
    """How one statement type reads: its verb, its effects, and which field names the object of which kind."""

    verb: str
    effects: frozenset[Effect]
    kind: str = ""
    field: str = ""


# The field that holds the relation being defined is found by name, see _RELATION_FIELDS.
_TABLE: dict[str, Row] = {
    "CreateStmt": Row("create table", _CREATE),
    "CreateSeqStmt": Row("create sequence", _CREATE),
    "IndexStmt": Row("create index", _CREATE, "index", "idxname"),
    "CreateStatsStmt": Row("create statistics", _CREATE, "statistics", "defnames"),
    "CreateSchemaStmt": Row("create schema", _CREATE, "schema", "schemaname"),
    "CompositeTypeStmt": Row("create type", _CREATE),
    "CreateEnumStmt": Row("create type", _CREATE, "type", "typeName"),
    "CreateRangeStmt": Row("create type", _CREATE | _CODE, "type", "typeName"),
    "CreateDomainStmt": Row("create domain", _CREATE, "type", "domainname"),
    "CreateTrigStmt": Row("create trigger", _CREATE | _CODE, "trigger", "trigname"),
    "CreateEventTrigStmt": Row("create event trigger", _CREATE | _CODE | _ADMIN, "trigger", "trigname"),
    "CreateCastStmt": Row("create cast", _CREATE | _CODE),
    "CreateConversionStmt": Row("create conversion", _CREATE | _CODE, "conversion", "conversion_name"),
    "CreateTransformStmt": Row("create transform", _CREATE | _CODE),
    "CreateOpClassStmt": Row("create operator class", _CREATE | _CODE, "operator class", "opclassname"),
    "CreateOpFamilyStmt": Row("create operator family", _CREATE | _CODE, "operator family", "opfamilyname"),
    "CreateAmStmt": Row("create access method", _CREATE | _CODE | _HOST, "access method", "amname"),
    "CreatePLangStmt": Row("create language", _CREATE | _CODE | _HOST, "language", "plname"),
    "CreateExtensionStmt": Row("create extension", _CREATE | _HOST, "extension", "extname"),
    "CreateFdwStmt": Row("create foreign data wrapper", _CREATE | _HOST, "foreign data wrapper", "fdwname"),
    "CreateForeignServerStmt": Row("create server", _CREATE | _HOST, "server", "servername"),
    "CreateUserMappingStmt": Row("create user mapping", _CREATE | _HOST | _PRIVILEGE, "server", "servername"),
    "ImportForeignSchemaStmt": Row("import foreign schema", _CREATE | _HOST, "server", "server_name"),
    "CreatePublicationStmt": Row("create publication", _CREATE | _REPLICATION, "publication", "pubname"),
    "CreateSubscriptionStmt": Row("create subscription", _CREATE | _REPLICATION, "subscription", "subname"),
    "CreateTableSpaceStmt": Row("create tablespace", _CREATE | _HOST | _ADMIN, "tablespace", "tablespacename"),
    "CreatedbStmt": Row("create database", _CREATE | _ADMIN, "database", "dbname"),
    "CreateRoleStmt": Row("create role", _CREATE | _PRIVILEGE, "role", "role"),
    "CreatePolicyStmt": Row("create policy", _CREATE | _PRIVILEGE, "policy", "policy_name"),
    "RuleStmt": Row("create rule", _CREATE | _CODE, "rule", "rulename"),
    "RefreshMatViewStmt": Row("refresh materialized view", frozenset({Effect.UPDATE, Effect.READ})),
    "AlterSeqStmt": Row("alter sequence", _ALTER),
    "AlterDomainStmt": Row("alter domain", _ALTER, "type", "typeName"),
    "AlterEnumStmt": Row("alter type", _ALTER, "type", "typeName"),
    "AlterTypeStmt": Row("alter type", _ALTER | _CODE, "type", "typeName"),
    "AlterOperatorStmt": Row("alter operator", _ALTER | _CODE),
    "AlterOpFamilyStmt": Row("alter operator family", _ALTER | _CODE, "operator family", "opfamilyname"),
    "AlterFunctionStmt": Row("alter function", _ALTER | _CODE, "function", "func"),
    "AlterCollationStmt": Row("alter collation", _ALTER, "collation", "collname"),
    "AlterStatsStmt": Row("alter statistics", _ALTER, "statistics", "defnames"),
    "AlterTSDictionaryStmt": Row("alter text search dictionary", _ALTER, "text search dictionary", "dictname"),
    "AlterTSConfigurationStmt": Row("alter text search configuration", _ALTER, "text search configuration", "cfgname"),
    "AlterObjectDependsStmt": Row("alter depends", _ALTER, "object", "object"),
    "AlterObjectSchemaStmt": Row("alter set schema", _ALTER, "object", "object"),
    "AlterOwnerStmt": Row("alter owner", _ALTER | _PRIVILEGE, "object", "object"),
    "AlterEventTrigStmt": Row("alter event trigger", _ALTER | _ADMIN, "trigger", "trigname"),
    "AlterExtensionStmt": Row("alter extension", _ALTER | _HOST, "extension", "extname"),
    "AlterExtensionContentsStmt": Row("alter extension", _ALTER | _HOST, "extension", "extname"),
    "AlterFdwStmt": Row("alter foreign data wrapper", _ALTER | _HOST, "foreign data wrapper", "fdwname"),
    "AlterForeignServerStmt": Row("alter server", _ALTER | _HOST, "server", "servername"),
    "AlterUserMappingStmt": Row("alter user mapping", _ALTER | _HOST | _PRIVILEGE, "server", "servername"),
    "AlterPublicationStmt": Row("alter publication", _ALTER | _REPLICATION, "publication", "pubname"),
    "AlterSubscriptionStmt": Row("alter subscription", _ALTER | _REPLICATION, "subscription", "subname"),
    "AlterTableSpaceOptionsStmt": Row("alter tablespace", _ALTER | _ADMIN, "tablespace", "tablespacename"),
    "AlterTableMoveAllStmt": Row("alter table all", _ALTER | _ADMIN, "tablespace", "orig_tablespacename"),
    "AlterDatabaseStmt": Row("alter database", _ALTER | _ADMIN, "database", "dbname"),
    "AlterDatabaseRefreshCollStmt": Row("alter database", _ALTER | _ADMIN, "database", "dbname"),
    "AlterRoleStmt": Row("alter role", _ALTER | _PRIVILEGE),
    "AlterPolicyStmt": Row("alter policy", _ALTER | _PRIVILEGE, "policy", "policy_name"),
    "AlterDefaultPrivilegesStmt": Row("alter default privileges", _PRIVILEGE),
    "GrantRoleStmt": Row("grant role", _PRIVILEGE),
    "ReassignOwnedStmt": Row("reassign owned", _ALTER | _PRIVILEGE),
    "DropOwnedStmt": Row("drop owned", _DROP | _PRIVILEGE),
    "DropRoleStmt": Row("drop role", _DROP | _PRIVILEGE),
    "DropdbStmt": Row("drop database", _DROP | _ADMIN, "database", "dbname"),
    "DropTableSpaceStmt": Row("drop tablespace", _DROP | _ADMIN, "tablespace", "tablespacename"),
    "DropSubscriptionStmt": Row("drop subscription", _DROP | _REPLICATION, "subscription", "subname"),
    "DropUserMappingStmt": Row("drop user mapping", _DROP | _PRIVILEGE, "server", "servername"),
    "SecLabelStmt": Row("security label", _PRIVILEGE, "object", "object"),
}
_RELATION_FIELDS = ("relation", "sequence", "typevar", "table")
_RELATION_KINDS = frozenset(
    {"OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_FOREIGN_TABLE", "OBJECT_SEQUENCE"}
)
_PART_KINDS = frozenset({"OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE", "OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"})
_HOST_KINDS = frozenset({"OBJECT_EXTENSION", "OBJECT_FDW", "OBJECT_FOREIGN_SERVER", "OBJECT_LANGUAGE"})
_PRIVILEGE_KINDS = frozenset({"OBJECT_POLICY", "OBJECT_ROLE"})
_COMMANDS: dict[str, frozenset[Effect]] = {
    "AT_DropColumn": _DROP,
    "AT_ChangeOwner": _PRIVILEGE,
    "AT_EnableRowSecurity": _PRIVILEGE,
    "AT_DisableRowSecurity": _PRIVILEGE,
    "AT_ForceRowSecurity": _PRIVILEGE,
    "AT_NoForceRowSecurity": _PRIVILEGE,
    "AT_GenericOptions": _HOST,
    "AT_AlterColumnGenericOptions": _HOST,
    "AT_SetTableSpace": _ADMIN,
}


def _by_table(row: Row) -> Handler:
    def handle(walk: Walk, fields: Fields, scope: Scope) -> None:
        walk.begin(row.verb)
        walk.effects |= row.effects
        if row.field in fields:
            define(walk, row.kind, object_name(fields[row.field]))
        _visit_definition(walk, fields, scope)

    return handle


def define(walk: Walk, kind: str, name: str) -> None:
    """Note that an object is created, altered, dropped or granted."""
    walk.resources.add(Resource(kind, name, Access.DEFINE))


def _visit_definition(walk: Walk, fields: Fields, scope: Scope) -> None:
    """Note the relation that is being defined and visit the rest."""
    for field in _RELATION_FIELDS:
        if field in fields:
            walk.relation(fields[field], Access.DEFINE)
    walk.visit(fields, scope, *_RELATION_FIELDS)


def object_name(node: Tree) -> str:
    """Return the dotted name of an object however the tree spells it; empty when it has none."""
    if isinstance(node, str):
        return node
    if isinstance(node, list):
        return ".".join(part for part in map(object_name, node) if part)
    if not isinstance(node, dict):
        return ""
    for key in ("String", "List", "TypeName", "ObjectWithArgs", "RangeVar"):
        if key in node:
            return object_name(node[key])
    for key in ("sval", "items", "names", "objname", "relname"):
        if key in node:
            return object_name(node[key])
    return ""


def _create_function(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("create procedure" if fields.get("is_procedure") else "create function")
    walk.effects |= _CREATE | _CODE
    define(walk, "function", object_name(fields["funcname"]))
    options = {item["DefElem"]["defname"]: item["DefElem"] for item in fields.get("options", [])}
    language = option_text(options["language"]).lower() if "language" in options else "sql"
    note_language(walk, language)
    if language == "sql" and "as" in options:
        for statement in walk.nested(option_text(options["as"])).statements:
            _mention(walk, statement.relations, statement.columns)
    if "sql_body" in fields:
        body = walk.child(fields["sql_body"])
        _mention(walk, tuple(body.relations), frozenset(body.columns))
    walk.visit(fields, scope, "sql_body", "options", "funcname", "returnType")


def _mention(walk: Walk, relations: tuple[Relation, ...], columns: frozenset[str]) -> None:
    """Note what a function body will touch when it runs one day; creating it reads nothing."""
    walk.relations.update(Relation(r.schema, r.name, Access.READ) for r in relations)
    walk.columns |= columns


def _define(walk: Walk, fields: Fields, scope: Scope) -> None:
    """CREATE AGGREGATE, OPERATOR, TYPE, COLLATION, TEXT SEARCH …; the first three install code."""
    kind = _plain(fields["kind"])
    walk.begin(f"create {kind}")
    walk.effects |= _CREATE
    if kind in ("aggregate", "operator", "type", "tsparser", "tstemplate"):
        walk.effects |= _CODE
    define(walk, kind, object_name(fields["defnames"]))


def _plain(object_type: str) -> str:
    return object_type.removeprefix("OBJECT_").lower().replace("_", " ")


def _note_object(walk: Walk, object_type: str, node: Tree) -> None:
    """Note one object of DROP, COMMENT and the like: a relation, a part of one, or something else."""
    names = node["List"]["items"] if isinstance(node, dict) and "List" in node else []
    plain = bool(names) and all("String" in name for name in names)
    if plain and object_type in _RELATION_KINDS:
        walk.relations.add(Relation(*qualified(names), Access.DEFINE))
    elif plain and object_type in _PART_KINDS and len(names) > 1:
        walk.relations.add(Relation(*qualified(names[:-1]), Access.DEFINE))
        define(walk, _plain(object_type), text_of(names[-1]))
    else:
        define(walk, _plain(object_type), object_name(node))
    if object_type in _PRIVILEGE_KINDS:
        walk.effects.add(Effect.PRIVILEGE)


def _drop(walk: Walk, fields: Fields, scope: Scope) -> None:
    object_type = fields["removeType"]
    walk.begin("drop " + _plain("MATERIALIZED_VIEW" if object_type == "OBJECT_MATVIEW" else object_type))
    walk.effects |= _DROP
    for node in fields["objects"]:
        _note_object(walk, object_type, node)
    if fields.get("behavior") == "DROP_CASCADE":
        walk.resources.add(Resource("relation", "*", Access.DEFINE))  # whatever depends on these goes with them
    if object_type in _HOST_KINDS:
        walk.effects |= _HOST


def _comment(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("comment")
    walk.effects |= _ALTER
    _note_object(walk, fields["objtype"], fields["object"])


def _alter_table(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin(f"alter {_plain(fields['objtype'])}")
    walk.effects |= _ALTER
    for item in fields["cmds"]:
        command = item["AlterTableCmd"]
        walk.effects |= _COMMANDS.get(command["subtype"], frozenset())
        if "name" in command:
            walk.columns.add(command["name"])
        walk.visit(command, scope)
    walk.relation(fields["relation"], Access.DEFINE)


def _rename(walk: Walk, fields: Fields, scope: Scope) -> None:
    object_type = fields["renameType"]
    walk.begin("rename")
    walk.effects |= _ALTER
    if object_type == "OBJECT_COLUMN":
        walk.columns.add(fields["subname"])
    if object_type == "OBJECT_ROLE":
        walk.effects |= _PRIVILEGE
    if object_type == "OBJECT_DATABASE":
        walk.effects |= _ADMIN
    if "object" in fields:
        define(walk, _plain(object_type), object_name(fields["object"]))
    elif "relation" not in fields:
        define(walk, _plain(object_type), str(fields.get("subname", "")))
    _visit_definition(walk, fields, scope)


def _grant(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("grant" if fields.get("is_grant") else "revoke")
    walk.effects |= _PRIVILEGE
    for node in fields.get("objects", []):
        if "RangeVar" in node:
            walk.relation(node["RangeVar"], Access.DEFINE)
        else:
            whole_schema = fields["targtype"] == "ACL_TARGET_ALL_IN_SCHEMA"
            define(walk, "schema" if whole_schema else _plain(fields["objtype"]), object_name(node))
    walk.visit(fields, scope, "objects")


def _set_for_others(walk: Walk, fields: Fields, scope: Scope) -> None:
    """ALTER ROLE … SET and ALTER DATABASE … SET: settings of sessions to come."""
    of_role = "setstmt" in fields and "role" in fields
    walk.begin("alter role" if "dbname" not in fields or of_role else "alter database")
    inner = Walk(walk.handlers, walk.nested)
    change_setting(inner, fields["setstmt"])
    walk.resources |= inner.resources
    walk.effects |= _ALTER | (_ADMIN if "dbname" in fields else frozenset()) | (inner.effects - {Effect.SESSION})
    walk.effects.add(Effect.PRIVILEGE)
    if fields.get("dbname"):
        define(walk, "database", fields["dbname"])
    walk.visit(fields, scope, "setstmt")


def _foreign_table(walk: Walk, fields: Fields, scope: Scope) -> None:
    walk.begin("create foreign table")
    walk.effects |= _CREATE | _HOST
    define(walk, "server", fields["servername"])
    _visit_definition(walk, fields["base"], scope)


DEFINITIONS: dict[str, Handler] = {
    **{kind: _by_table(row) for kind, row in _TABLE.items()},
    "CreateFunctionStmt": _create_function,
    "DefineStmt": _define,
    "DropStmt": _drop,
    "CommentStmt": _comment,
    "AlterTableStmt": _alter_table,
    "RenameStmt": _rename,
    "GrantStmt": _grant,
    "AlterRoleSetStmt": _set_for_others,
    "AlterDatabaseSetStmt": _set_for_others,
    "CreateForeignTableStmt": _foreign_table,
}
