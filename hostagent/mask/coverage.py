"""Coverage: which relations and columns of one database the column rules reach, through views, partitions and all."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from hostagent.mask.pattern import glob
from hostagent.mask.transform import strictest
from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.verdict import MaskColumn

SENSITIVE_SYSTEM: Mapping[str, frozenset[str]] = {
    "pg_statistic": frozenset(),
    "pg_stats": frozenset(),
    "pg_statistic_ext_data": frozenset(),
    "pg_stats_ext": frozenset(),
    "pg_stats_ext_exprs": frozenset(),
    "pg_largeobject": frozenset({"data"}),
    "pg_stat_activity": frozenset({"query"}),
}
"""PostgreSQL's own relations that hold other relations' values, with the columns that do (none named: every column)."""

SENSITIVE_FUNCTIONS = frozenset({"pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_mcv_list_items", "lo_get", "loread"})
"""Functions that PostgreSQL builds the above on."""


class State(enum.Enum):
    """What is known of a relation by its name."""

    CLEAR = "clear"
    MASKED = "masked"
    UNKNOWN = "unknown"


class Coverage:
    """The column rules that apply to one database, resolved against its catalogue.

    ``rules`` is empty when no column rule applies here; then nothing else is of interest. Without a catalogue every
    relation is UNKNOWN.
    """

    __slots__ = ("_direct", "_names", "_whole", "catalogue", "rules")

    def __init__(self, rules: Iterable[MaskColumn], catalogue: Catalogue | None, database: str) -> None:
        """Resolve ``rules`` for ``database``."""
        self.rules = tuple(r for r in rules if glob(r.database).fullmatch(database.encode()))
        self.catalogue = catalogue
        self._direct: dict[int, dict[int, MaskColumn]] = {}
        self._whole: set[int] = set()
        self._names: dict[str, list[CatalogueRelation]] = {}
        if catalogue is not None:
            for relation in catalogue.relations.values():
                self._names.setdefault(relation.name, []).append(relation)
            if self.rules:
                self._resolve(catalogue)

    def _resolve(self, catalogue: Catalogue) -> None:
        self._match(catalogue.relations.values())
        self._sensitive(catalogue.relations.values())
        self._inherit(catalogue)
        self._compute(catalogue)
        sources = set(self._direct) | {oid for oid, relation in catalogue.relations.items() if relation.opaque}
        self._whole |= {oid for oid, relation in catalogue.relations.items() if relation.opaque}
        for oid, relation in catalogue.relations.items():
            if not sources.isdisjoint(relation.depends_on):
                self._whole.add(oid)

    def _match(self, relations: Iterable[CatalogueRelation]) -> None:
        compiled = [(rule, glob(rule.schema), glob(rule.table), glob(rule.column)) for rule in self.rules]
        for relation in relations:
            schema, name = relation.schema.encode(), relation.name.encode()
            fitting = [(r, column) for r, s, t, column in compiled if t.fullmatch(name) and s.fullmatch(schema)]
            if not fitting:
                continue
            for number, title in relation.columns.items():
                hits = [rule for rule, column in fitting if column.fullmatch(title.encode())]
                if hits:
                    self._direct.setdefault(relation.oid, {})[number] = _strictest(hits)

    def _sensitive(self, relations: Iterable[CatalogueRelation]) -> None:
        for relation in relations:
            if relation.schema != "pg_catalog" or relation.name not in SENSITIVE_SYSTEM:
                continue
            only = SENSITIVE_SYSTEM[relation.name]
            for number, title in relation.columns.items():
                if not only or title in only:
                    self._direct.setdefault(relation.oid, {})[number] = _redacting(self.rules[0])

    def _inherit(self, catalogue: Catalogue) -> None:
        """Carry column rules to inheritance parents and children, where columns keep their names."""
        families = {relation.kin for oid in self._direct if (relation := catalogue.relations[oid]).kin}
        for family in families:
            by_name: dict[str, list[MaskColumn]] = {}
            members = [catalogue.relations[oid] for oid in family if oid in catalogue.relations]
            for relation in members:
                for number, rule in self._direct.get(relation.oid, {}).items():
                    by_name.setdefault(relation.columns[number], []).append(rule)
            strict = {title: _strictest(rules) for title, rules in by_name.items()}
            for relation in members:
                known = self._direct.setdefault(relation.oid, {})
                known.update({number: strict[title] for number, title in relation.columns.items() if title in strict})

    def _compute(self, catalogue: Catalogue) -> None:
        """Redact generated columns that are made from masked ones."""
        for oid, ruled in self._direct.items():
            for number, sources in catalogue.relations[oid].computed.items():
                if number not in ruled and not sources.isdisjoint(ruled):
                    ruled[number] = _redacting(self.rules[0])

    def rule_for(self, table_oid: int, attnum: int) -> MaskColumn | None:
        """Return the rule for a result column that PostgreSQL says comes from this column, or None when it is clear.

        A relation or column not known, a whole row (attribute 0) of a masked relation, and anything read through a masked
        view are redacted as a whole. System columns (below 0) hold no data.
        """
        whole = _redacting(self.rules[0])
        if self.catalogue is None:
            return whole
        if table_oid in self._whole:
            return whole
        relation = self.catalogue.relations.get(table_oid)
        if relation is None:
            return None if table_oid in self.catalogue.system_oids else whole
        if attnum > 0 and attnum not in relation.columns:
            return whole
        if table_oid in self._direct and attnum >= 0:
            return self._direct[table_oid].get(attnum) if attnum else whole
        return None

    def state(self, schema: str | None, name: str) -> State:
        """Return what is known of a relation by name. Without a schema, any relation of that name counts."""
        if self.catalogue is None:
            return State.UNKNOWN
        found = [r for r in self._names.get(name, ()) if schema is None or r.schema == schema or _temporary(schema, r)]
        if any(r.oid in self._whole or r.oid in self._direct for r in found):
            return State.MASKED
        if found or schema == "information_schema":
            return State.CLEAR
        system = schema in (None, "pg_catalog") and name in self.catalogue.system_relations
        return State.CLEAR if system else State.UNKNOWN

    def masked_columns(self, schema: str | None, name: str) -> frozenset[str] | None:
        """Return the names of masked columns of a relation; None when every column of it is."""
        names: set[str] = set()
        for relation in self._names.get(name, ()):
            if schema is None or relation.schema == schema:
                if relation.oid in self._whole:
                    return None
                names |= {relation.columns[number] for number in self._direct.get(relation.oid, {})}
        return frozenset(names)

    def hidden_columns(self, schema: str | None, name: str) -> frozenset[str] | None:
        """Return the names of masked columns that show nothing at all of their values; None when every column is one.

        What is written to a column that shows some of its value (the last digits, a hash to compare) can be read back there.
        """
        names: set[str] = set()
        shown: set[str] = set()
        for relation in self._names.get(name, ()):
            if schema is None or relation.schema == schema:
                if relation.oid in self._whole:
                    return None
                for number, rule in self._direct.get(relation.oid, {}).items():
                    (names if rule.transform in _SHOWING_NOTHING else shown).add(relation.columns[number])
        return frozenset(names - shown)

    def named(self, schema: str | None, name: str) -> CatalogueRelation | None:
        """Return the only relation of that name (in that schema), or None when there is none or more than one."""
        found = [r for r in self._names.get(name, ()) if schema is None or r.schema == schema]
        return found[0] if len(found) == 1 else None


_SHOWING_NOTHING = frozenset({"redact", "null"})
_MOST_KEPT = 64
_kept: dict[tuple[tuple[MaskColumn, ...], str, str], Coverage] = {}


def coverage_of(rules: tuple[MaskColumn, ...], catalogue: Catalogue | None, database: str) -> Coverage:
    """Return the coverage of ``rules``; the same object for equal rules and an equal catalogue, because making one is dear."""
    if catalogue is None:
        return Coverage(rules, None, database)
    key = (rules, catalogue.version, database)
    found = _kept.get(key)
    if found is None or found.catalogue is not catalogue:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        found = _kept[key] = Coverage(rules, catalogue, database)
    return found


def _temporary(schema: str, relation: CatalogueRelation) -> bool:
    return schema == "pg_temp" and relation.schema.startswith("pg_temp")


def _strictest(rules: list[MaskColumn]) -> MaskColumn:
    transform = strictest([rule.transform for rule in rules])
    return next(rule for rule in rules if rule.transform == transform)


def _redacting(rule: MaskColumn) -> MaskColumn:
    return MaskColumn(rule.rule, rule.table, rule.column, rule.schema, rule.database)
