"""One walk over one statement's parse tree, collecting what it means.

The tree is what libpg_query prints: ``{"NodeType": {field: value}}``, where a field of one fixed type holds its struct bare
(``"relation": {"relname": …}``). The walk is iterative and visits everything; handlers by node type add meaning and choose
what of a node is still to be visited. A statement type without a handler makes the walk OPAQUE, any other type that is not
known to be harmless makes it PARTIAL: a grammar newer than this table is never trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hostagent.model.operation import Access, Completeness, Effect, Resource
from hostagent.sql.functions import effects_of
from hostagent.sql.settings import keeps_meaning, setting_effects
from hostagent.sql.statement import Analysis, CopyStatement, Function, Relation
from hostagent.sql.tree import Fields, Tree, text_of

Scope = frozenset[str]  # names of the CTEs that are visible
Handler = Callable[["Walk", Fields, Scope], None]

NO_CTES: Scope = frozenset()
_LEAVES = frozenset({"A_Const", "String", "ParamRef", "Integer", "Float", "Boolean", "BitString", "SQLValueFunction"})
_PASSIVE_NAMES = """
    List Alias TableFunc NamedArgExpr BoolExpr GroupingFunc CaseExpr CaseWhen RowExpr CoalesceExpr MinMaxExpr XmlExpr
    JsonFormat JsonReturning JsonValueExpr JsonIsPredicate JsonBehavior NullTest BooleanTest SetToDefault CurrentOfExpr
    MergeSupportFunc InferenceElem TypeName TypeCast CollateClause RoleSpec A_Indices A_ArrayExpr ResTarget
    MultiAssignRef WindowDef RangeSubselect RangeFunction RangeTableFunc RangeTableFuncCol ColumnDef TableLikeClause
    IndexElem DefElem XmlSerialize PartitionElem PartitionSpec PartitionBoundSpec PartitionRangeDatum
    SinglePartitionSpec PartitionCmd GroupingSet InferClause OnConflictClause CTESearchClause CTECycleClause
    TriggerTransition JsonOutput JsonArgument JsonFuncExpr JsonTablePathSpec JsonTable JsonTableColumn JsonKeyValue
    JsonParseExpr JsonScalarExpr JsonSerializeExpr JsonObjectConstructor JsonArrayConstructor
    JsonArrayQueryConstructor JsonAggConstructor JsonObjectAgg JsonArrayAgg Constraint CreateOpClassItem StatsElem
    FunctionParameter ObjectWithArgs AccessPriv VacuumRelation PublicationTable PublicationObjSpec ReturnStmt ReplicaIdentityStmt MergeWhenClause RangeVar
    """
_PASSIVE = frozenset(_PASSIVE_NAMES.split())
_SERVER_FILES = frozenset({"pg_file_settings", "pg_hba_file_rules", "pg_ident_file_mappings"})


class Walk:
    """What one statement means, while it is being found out. Made per statement, then read by ``analysis``."""

    def __init__(self, handlers: Mapping[str, Handler], nested: Callable[[str], Analysis]) -> None:
        """Take the handlers by node type and the function that analyses SQL text found inside the statement."""
        self.handlers = handlers
        self.nested = nested
        self.verb = ""
        self.returns_rows = False
        self.effects: set[Effect] = set()
        self.relations: set[Relation] = set()
        self.functions: set[Function] = set()
        self.resources: set[Resource] = set()
        self.columns: set[str] = set()
        self.settings: list[tuple[str, str | None]] = []
        self.star = False
        self.completeness = Completeness.FULL
        self.by_name = False
        self.name = ""
        self.count_star_only = False
        self.copy: CopyStatement | None = None
        self.inner: Walk | None = None
        self.row_names: set[str] = set()  # what a column reference may name to mean a whole row
        self._stack: list[tuple[Tree, Scope]] = []

    def run(self, node: Tree, scope: Scope = NO_CTES) -> Walk:
        """Visit ``node`` and everything below it; return self."""
        stack = self._stack
        stack.append((node, scope))
        while stack:
            item, visible = stack.pop()
            if type(item) is list:
                stack.extend((part, visible) for part in item)
            elif type(item) is dict:
                self._visit(item, visible)
        if not self.star and not self.columns.isdisjoint(self.row_names):
            self.star = True
        return self

    def _visit(self, item: Fields, scope: Scope) -> None:
        if "relname" in item:
            self.relation(item, Access.READ, scope)
        elif "funcformat" in item:
            self.handlers["FuncCall"](self, item, scope)
            return
        elif "rolename" in item:
            self.resources.add(Resource("role", item["rolename"], Access.USE))
        elif "limitOption" in item:
            self.handlers["SelectStmt"](self, item, scope)
            return
        for key, value in item.items():
            kind = type(value)
            if kind is not dict and kind is not list:
                if key == "aliasname":
                    self.row_names.add(value)
            elif "A" <= key[0] <= "Z":
                self._node(key, value, scope)
            else:
                self._stack.append((value, scope))

    def _node(self, kind: str, fields: Tree, scope: Scope) -> None:
        if kind in _LEAVES:
            return
        handler = self.handlers.get(kind)
        if handler is not None:
            handler(self, fields, scope)
        elif kind in _PASSIVE:
            self._stack.append((fields, scope))
        else:
            self.unclear(Completeness.OPAQUE if kind.endswith("Stmt") else Completeness.PARTIAL)
            self._stack.append((fields, scope))

    # ── what handlers call ──────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, verb: str, *, returns_rows: bool = False) -> bool:
        """Name the statement; only the outermost handler's call counts. Return whether it did."""
        if self.verb:
            return False
        self.verb = verb
        self.returns_rows = returns_rows
        return True

    def visit(self, fields: Fields, scope: Scope, *skip: str) -> None:
        """Put every field of a node but those in ``skip`` on the list of what is to be visited."""
        for key, value in fields.items():
            if key not in skip and type(value) in (dict, list):
                self._stack.append((value, scope))

    def child(self, node: Tree, scope: Scope = NO_CTES) -> Walk:
        """Return a finished walk of a statement inside this one; nothing is adopted from it yet."""
        return Walk(self.handlers, self.nested).run(node, scope)

    def adopt(self, other: Walk) -> None:
        """Take over everything a walk inside this one found: it happens when this statement does."""
        self.effects |= other.effects
        self.relations |= other.relations
        self.settings += other.settings
        self.adopt_names(other)

    def adopt_names(self, other: Walk) -> None:
        """Take over what a walk found but its effects and accesses."""
        self.functions |= other.functions
        self.resources |= other.resources
        self.columns |= other.columns
        self.star |= other.star
        self.by_name |= other.by_name
        self.unclear(other.completeness)

    def unclear(self, completeness: Completeness) -> None:
        """Lower the completeness; it never rises again."""
        order = (Completeness.FULL, Completeness.PARTIAL, Completeness.OPAQUE)
        self.completeness = max(self.completeness, completeness, key=order.index)

    def relation(self, fields: Fields, access: Access, scope: Scope = NO_CTES) -> None:
        """Note the relation of a RangeVar, unless a CTE of that name is in ``scope``."""
        schema, name = fields.get("schemaname"), fields["relname"]
        if "alias" not in fields:
            self.row_names.add(name)
        if schema is None and name in scope:
            return
        self.relations.add(Relation(schema, name, access))
        if name in _SERVER_FILES:
            self.effects.add(Effect.HOST)
        if access is Access.WRITE and (schema == "pg_catalog" or (schema is None and name.startswith("pg_"))):
            self.effects |= {Effect.ADMIN, Effect.PRIVILEGE}
            self.unclear(Completeness.PARTIAL)  # writing pg_settings is SET, writing pg_authid is ALTER ROLE, and so on

    def target(self, fields: Fields) -> None:
        """Note the relation that a data-modifying statement writes; never a CTE. Its alias may name whole rows."""
        self.relation(fields, Access.WRITE)
        if "alias" in fields:
            self.row_names.add(fields["alias"]["aliasname"])

    def common_tables(self, clause: Fields | None, scope: Scope) -> Scope:
        """Visit the queries of a WITH clause and return the scope of the statement it belongs to.

        Without RECURSIVE a query sees only the names before it, so ``WITH t AS (SELECT * FROM t)`` reads the real ``t``
        (PostgreSQL 17 §7.8).
        """
        if clause is None:
            return scope
        tables = [item["CommonTableExpr"] for item in clause["ctes"]]
        everything = scope | {table["ctename"] for table in tables}
        visible = everything if clause.get("recursive") else scope
        for table in tables:
            self.visit(table, visible)
            visible = visible | {table["ctename"]}
        self.row_names |= everything
        return everything

    def call(self, schema: str | None, name: str) -> None:
        """Note a function call and its effects."""
        self.functions.add(Function(schema, name))
        self.effects |= effects_of(schema, name)

    def operator(self, names: list[Fields]) -> None:
        """Note an operator; one from a schema other than ``pg_catalog`` is code that the wire cannot see."""
        if len(names) > 1 and text_of(names[-2]) != "pg_catalog":
            self.effects.add(Effect.EXECUTE)

    def setting(self, name: str, value: str | None, *, known: bool = True) -> None:
        """Note that a setting gets a new value; ``known`` False says the value is not in the text."""
        name = name.lower()
        self.settings.append((name, value))
        self.effects |= {Effect.SESSION} | setting_effects(name)
        if not known and not keeps_meaning(name, "?, pg_catalog"):
            self.unclear(Completeness.PARTIAL)
        if not keeps_meaning(name, value):
            self.unclear(Completeness.PARTIAL)
