"""Obligations as an inspector needs them: what ``hostagent.mask`` offers, behind ``hostagent.inspectors.ports.Masking``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostagent.inspectors.ports import Column, CopyPlan, Planned, Shape
from hostagent.mask import Counts, Exposure, Masker, ResultColumn
from hostagent.model.catalogue import Catalogue
from hostagent.model.verdict import Obligation
from hostagent.sql.statement import Statement

# The server gives everything made after its initdb an OID from here on (PostgreSQL ``FirstNormalObjectId``).
_FIRST_OWN = 16_384

_SHARED_MOST = 64


class Obliged:
    """The obligations of one verdict in one database."""

    def __init__(self, masker: Masker, catalogue: Catalogue | None) -> None:
        """Compile nothing yet: every shape is compiled when it is first met."""
        self.shapes: dict[object, Shape] = {}
        self._masker = masker
        self._catalogue = catalogue

    @classmethod
    def of(
        cls, obligations: tuple[Obligation, ...], catalogue: Catalogue | None, database: str, key: bytes
    ) -> Obliged | None:
        """Return the masking that ``obligations`` ask for, or None when nothing of them applies.

        Sessions under the same obligations and snapshot share it: making one costs time in proportion to the catalogue,
        and nothing in it is any session's own.

        Raises:
            ValueError: an obligation names something that masking does not have.
        """
        asked = (obligations, database, key)
        snapshot, kept = _SHARED.get(asked, (None, None))
        if kept is not None and snapshot is catalogue:
            return kept
        masker = Masker(obligations, catalogue, database, key)
        if masker.empty:
            return None
        if len(_SHARED) >= _SHARED_MOST:
            _SHARED.clear()
        made = cls(masker, catalogue)
        _SHARED[asked] = (catalogue, made)
        return made

    def unenforceable(self, protocol: str) -> str | None:
        """Return why the obligations cannot be enforced on anything of ``protocol``, or None."""
        return self._masker.unenforceable(protocol)

    def refuses(self, statement: Statement) -> str | None:
        """Return why masking could not be enforced on ``statement``, or None."""
        return self._masker.refuses(statement)

    def exposed(self, statement: Statement) -> int:
        """Return how far ``statement`` can show masked data where no column says so; 0 is not at all."""
        return int(self._masker.exposure(statement))

    def rows(self, columns: Sequence[Column], exposed: int) -> Planned:
        """Return the plan for rows of ``columns``."""
        results = tuple(ResultColumn(*column) for column in columns)
        plan = self._masker.rows(results, Exposure(exposed))
        lines = [
            {"name": column.name, **self._origin(column), "type": column.type_oid, "masked": masked or ""}
            for column, masked in zip(columns, plan.masked, strict=True)
        ]
        return Planned(None if plan.transparent else plan, lines, any(map(self._unknown, columns)))

    def _unknown(self, column: Column) -> bool:
        known = self._catalogue
        return known is not None and column.table_oid >= _FIRST_OWN and column.table_oid not in known.relations

    def _origin(self, column: Column) -> dict[str, object]:
        relation = None if self._catalogue is None else self._catalogue.relations.get(column.table_oid)
        if relation is None:
            return {"table": "", "column": ""}
        return {"table": f"{relation.schema}.{relation.name}", "column": relation.columns.get(column.attnum, "")}

    def copy_out(self, statement: Statement) -> CopyPlan | None:
        """Return the plan for this COPY's stream, or None when it cannot be masked and must not pass."""
        return self._masker.copy_out(statement)

    def message(self, fields: Mapping[str, str], exposed: int) -> Mapping[str, str]:
        """Return the fields of an error or notice as the client may see them."""
        return self._masker.message(fields, Exposure(exposed))

    def text(self, value: str) -> str:
        """Return ``value`` with every detected secret replaced."""
        return self._masker.text(value)[0]

    def maskable(self, media_type: str) -> bool:
        """Return whether a body of that type can be masked at all."""
        return self._masker.maskable(media_type)

    def document(self, media_type: str, body: bytes) -> tuple[bytes, Counts] | None:
        """Return a whole body with every detected value replaced and what that did; None when it cannot be masked."""
        return self._masker.document(media_type, body)


_SHARED: dict[tuple[tuple[Obligation, ...], str, bytes], tuple[Catalogue | None, Obliged]] = {}
