"""What a server holds: relations, their columns and who reads whom, for one target, database and role.

The proxy's own connection fetches it (``hostagent.inspectors.postgres.catalogue``); masking resolves names and OIDs by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CatalogueRelation:
    """One relation.

    ``kind`` is ``pg_class.relkind`` (r table, v view, m materialised view, p partitioned table, f foreign table, t TOAST
    table, S sequence). ``columns`` and ``column_types`` go by attribute number. ``depends_on`` holds the OIDs of every
    relation this one reads through rules, transitively (for a TOAST table, its owner). ``kin`` is the family of
    inheritance parents and children, partitions included, the relation itself among them, or empty. ``opaque`` is true when it reads through code that the catalogue
    cannot see into (a function or operator that is not PostgreSQL's own). ``computed`` holds, for each generated column, the
    columns of the same relation that it is made from.
    """

    oid: int
    schema: str
    name: str
    kind: str
    columns: Mapping[int, str]
    column_types: Mapping[int, int] = field(default_factory=dict)
    depends_on: frozenset[int] = frozenset()
    kin: frozenset[int] = frozenset()
    opaque: bool = False
    computed: Mapping[int, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CatalogueType:
    """One type that is not PostgreSQL's own.

    ``kind`` is ``typtype``, ``category`` is ``typcategory``, ``base`` is the base type of a domain or the element type of an
    array, else 0.
    """

    oid: int
    schema: str
    name: str
    kind: str
    category: str
    base: int = 0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A snapshot. ``version`` is a hash of everything in it. ``functions`` are names outside PostgreSQL's own schemas.

    PostgreSQL's own relations are absent, except those that hold other relations' values. ``system_relations`` has the
    names of all in ``pg_catalog``; ``system_oids`` the OIDs of all in ``pg_catalog`` and ``information_schema``.
    """

    relations: Mapping[int, CatalogueRelation]
    functions: frozenset[str]
    search_path: tuple[str, ...]
    types: Mapping[int, CatalogueType]
    version: str
    system_relations: frozenset[str] = frozenset()
    system_oids: frozenset[int] = frozenset()
