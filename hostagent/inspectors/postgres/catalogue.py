"""The catalogue query of PostgreSQL 12 to 18 and what its answer means.

The query goes out as one simple Query on the proxy's own connection. It first asks for the session's default search path,
then pins the path so that nothing in the database can stand in for PostgreSQL's own objects, then asks for everything else
as one JSON text. Sources: PostgreSQL 17 §52 (system catalogs); ``pg_depend`` knows which relations, functions and operators
a view's rule uses, but none of PostgreSQL's own (pinned) objects. The columns that a generated column is made from are
there as dependencies of its default (15 and newer) or of the column itself (12 to 14).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hostagent.model.catalogue import Catalogue, CatalogueRelation, CatalogueType
from hostagent.model.errors import RemoteWireError

CATALOGUE_QUERY = """\
SELECT pg_catalog.array_to_json(pg_catalog.current_schemas(true))::pg_catalog.text;
SET search_path = pg_catalog, pg_temp;
SELECT json_build_object(
  'relations', (
    SELECT coalesce(json_agg(json_build_array(
        c.oid::int8, n.nspname, c.relname, c.relkind,
        (SELECT coalesce(json_agg(json_build_array(a.attnum, a.attname, a.atttypid::int8) ORDER BY a.attnum), '[]'::json)
           FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY c.oid), '[]'::json)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f', 'S')
       AND (n.nspname NOT IN ('pg_catalog', 'information_schema') OR c.oid >= 16384
            OR c.relname IN ('pg_statistic', 'pg_stats', 'pg_statistic_ext_data', 'pg_stats_ext', 'pg_stats_ext_exprs',
                             'pg_largeobject', 'pg_stat_activity'))),
  'toast', (
    SELECT coalesce(json_agg(json_build_array(t.oid::int8, tn.nspname, t.relname, c.oid::int8) ORDER BY t.oid), '[]'::json)
      FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
     WHERE c.oid >= 16384),
  'reads', (
    SELECT coalesce(json_agg(DISTINCT jsonb_build_array(r.ev_class::int8, d.refobjid::int8)), '[]'::json)
      FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
     WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class),
  'opaque', (
    SELECT coalesce(json_agg(DISTINCT r.ev_class::int8), '[]'::json)
      FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
     WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid >= 16384
       AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)),
  'inherits', (
    SELECT coalesce(json_agg(json_build_array(inhrelid::int8, inhparent::int8) ORDER BY inhrelid, inhparent), '[]'::json)
      FROM pg_inherits),
  'computed', (
    SELECT coalesce(json_agg(json_build_array(a.attrelid::int8, a.attnum, (
               SELECT coalesce(json_agg(DISTINCT r.refobjsubid), '[]'::json) FROM pg_depend r
                WHERE r.refclassid = 'pg_class'::regclass AND r.refobjid = a.attrelid AND r.refobjsubid NOT IN (0, a.attnum)
                  AND ((r.classid = 'pg_attrdef'::regclass AND r.objid = d.oid)
                       OR (r.classid = 'pg_class'::regclass AND r.objid = a.attrelid AND r.objsubid = a.attnum))))
             ORDER BY a.attrelid, a.attnum), '[]'::json)
      FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attgenerated <> ''),
  'functions', (
    SELECT coalesce(json_agg(DISTINCT p.proname), '[]'::json)
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')),
  'types', (
    SELECT coalesce(json_agg(json_build_array(
        t.oid::int8, n.nspname, t.typname, t.typtype, t.typcategory,
        CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END::int8) ORDER BY t.oid), '[]'::json)
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
     WHERE t.oid >= 16384 AND (t.typtype <> 'c' OR t.typrelid IN (SELECT oid FROM pg_class WHERE relkind = 'c'))),
  'system', (
    SELECT coalesce(json_agg(json_build_array(c.oid::int8, n.nspname, c.relname) ORDER BY c.oid), '[]'::json)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.oid < 16384)
)::text
"""
"""Three statements for one simple Query; the first and the last answer one row of one text column each."""


def parse(rows: Sequence[str]) -> Catalogue:
    """Return the catalogue that the two rows of ``CATALOGUE_QUERY`` describe.

    Raises:
        RemoteWireError: the answer is not what the query asked for.
    """
    try:
        path, body = rows
        found = json.loads(body)
        version = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        return _catalogue(tuple(json.loads(path)), found, version)
    except (ValueError, KeyError, TypeError) as wrong:
        raise RemoteWireError(f"the server's catalogue cannot be read: {wrong}") from wrong


def _catalogue(path: tuple[str, ...], found: Mapping[str, Any], version: str) -> Catalogue:
    reads = _closure(_pairs([*found["reads"], *((toast, owner) for toast, _, _, owner in found["toast"])]))
    kin = _families(_pairs([pair for child, parent in found["inherits"] for pair in ((child, parent), (parent, child))]))
    opaque = frozenset(found["opaque"])
    computed: dict[int, dict[int, frozenset[int]]] = {}
    for oid, number, sources in found["computed"]:
        computed.setdefault(oid, {})[number] = frozenset(sources)
    relations = {
        oid: CatalogueRelation(
            oid,
            schema,
            name,
            kind,
            {number: title for number, title, _ in columns},
            {number: type_oid for number, _, type_oid in columns},
            reads.get(oid, frozenset()) - {oid},
            kin.get(oid, frozenset()),
            oid in opaque,
            computed.get(oid, {}),
        )
        for oid, schema, name, kind, columns in found["relations"]
    }
    for oid, schema, name, _ in found["toast"]:
        relations[oid] = CatalogueRelation(oid, schema, name, "t", {}, depends_on=reads.get(oid, frozenset()))
    return Catalogue(
        relations,
        frozenset(found["functions"]),
        path,
        {row[0]: CatalogueType(*row) for row in found["types"]},
        version,
        frozenset(name for _, schema, name in found["system"] if schema == "pg_catalog"),
        frozenset(oid for oid, _, _ in found["system"]),
    )


def _pairs(rows: Iterable[Sequence[int]]) -> dict[int, set[int]]:
    edges: dict[int, set[int]] = {}
    for source, target in rows:
        edges.setdefault(source, set()).add(target)
    return edges


def _reached(edges: Mapping[int, set[int]], start: int) -> frozenset[int]:
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        for node in edges.get(waiting.pop(), ()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return frozenset(seen)


def _closure(edges: Mapping[int, set[int]]) -> dict[int, frozenset[int]]:
    """Return everything that can be reached from each node."""
    return {start: _reached(edges, start) for start in edges}


def _families(edges: Mapping[int, set[int]]) -> dict[int, frozenset[int]]:
    """Return the connected nodes of each node, itself included; one shared set per family, which may be large."""
    families: dict[int, frozenset[int]] = {}
    for start in edges:
        if start not in families:
            family = _reached(edges, start)
            families.update(dict.fromkeys(family, family))
    return families
