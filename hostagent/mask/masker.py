"""The masker: everything that one verdict's obligations mean in one database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hostagent.mask.content import ContentMask, Counts, treatment
from hostagent.mask.copyout import CopyPlan
from hostagent.mask.coverage import State, coverage_of
from hostagent.mask.detectors import expand, scanner
from hostagent.mask.document import maskable, masked_document
from hostagent.mask.kubernetes import ObjectMask
from hostagent.mask.messages import generic_message, masked_message, masked_text
from hostagent.mask.paths import PROTOCOLS as PATHS_PROTOCOLS
from hostagent.mask.paths import PathMask
from hostagent.mask.pattern import Pattern
from hostagent.mask.rows import Cell, RowPlan, compile_trigger
from hostagent.mask.statements import Exposure, exposure, refuses
from hostagent.mask.transform import chosen, column_transform, content_transform, redacted, strictest
from hostagent.mask.types import BINARY_FORMAT, holds_content, kind_of
from hostagent.model.catalogue import Catalogue, CatalogueRelation, CatalogueType
from hostagent.model.verdict import MaskColumn, MaskContent, MaskKubernetes, MaskPath, Obligation
from hostagent.sql import Statement


class ResultColumn(NamedTuple):
    """One column of a RowDescription (PostgreSQL 17 §53.7). ``table_oid`` is 0 for expressions; ``format`` 0 text, 1 binary."""

    name: str
    table_oid: int
    attnum: int
    type_oid: int
    format: int


class Masker:
    """The obligations of one verdict, resolved for one database.

    Making one costs time in proportion to the catalogue; keep it for as long as obligations and catalogue are the same.
    ``empty`` means that nothing needs masking here, so that rows, copies and texts may pass without asking.
    """

    __slots__ = ("_content", "_coverage", "_key", "_objects", "_paths", "_triggers", "empty")

    def __init__(
        self, obligations: tuple[Obligation, ...], catalogue: Catalogue | None, database: str, key: bytes = b""
    ) -> None:
        """Resolve ``obligations``. ``key`` is the secret of the ``hash`` transform, which without one is ``redact``.

        Raises:
            ValueError: a detector or transform does not exist, so the obligation could not be met.
        """
        columns = tuple(rule for rule in obligations if isinstance(rule, MaskColumn))
        for rule in columns:
            chosen(rule.transform)
        self._key = key
        self._coverage = coverage_of(columns, catalogue, database)
        self._content = _content_mask([rule for rule in obligations if isinstance(rule, MaskContent)], key)
        paths = tuple(rule for rule in obligations if isinstance(rule, MaskPath))
        self._paths = PathMask(paths, key) if paths else None
        objects = tuple(rule for rule in obligations if isinstance(rule, MaskKubernetes))
        self._objects = ObjectMask(objects, key) if objects else None
        self._triggers: dict[bytes, Pattern] = {}
        self.empty = not self._coverage.rules and self._content is None and self._paths is None and self._objects is None

    def unenforceable(self, protocol: str) -> str | None:
        """Return why the obligations cannot be enforced on anything of ``protocol``, or None when they can."""
        if self._paths is not None and protocol not in PATHS_PROTOCOLS:
            return "a rule masks places in JSON documents, which can be enforced on HTTP only"
        return None

    def exposure(self, statement: Statement) -> Exposure:
        """Return what ``statement`` may show of masked columns where no result column says so."""
        return exposure(statement, self._coverage)

    def refuses(self, statement: Statement) -> str | None:
        """Return why the obligations could not be enforced on ``statement``, or None when they can."""
        return refuses(statement, self._coverage)

    def rows(self, columns: Sequence[ResultColumn], exposed: Exposure) -> RowPlan:
        """Return the plan for rows of this shape."""
        cells = [self._cell(column, exposed) for column in columns]
        return RowPlan(cells, self._content, self._trigger(cells))

    def copy_out(self, statement: Statement) -> CopyPlan | None:
        """Return the plan for the stream of this COPY TO STDOUT; None when it cannot be masked and must not pass."""
        if statement.copy is None or statement.copy.direction != "out" or self.refuses(statement) is not None:
            return None
        form = BINARY_FORMAT if statement.copy.format == "binary" else 0
        cells = self._copied_cells(statement, form)
        return CopyPlan(statement.copy, cells, self._cell(ResultColumn("", 0, 0, 0, form), Exposure.NONE), self._content)

    def message(self, fields: Mapping[str, str], exposed: Exposure) -> Mapping[str, str]:
        """Return the fields of an ErrorResponse or NoticeResponse as the client may see them."""
        if self._coverage.rules and (exposed != Exposure.NONE or self._about_masked(fields)):
            return generic_message(fields)
        return masked_message(fields, self._content, Counts())

    def _about_masked(self, fields: Mapping[str, str]) -> bool:
        """Return whether a message names a table that is masked or not known: a cascade reaches what no statement names."""
        table = fields.get("t")
        return table is not None and self._coverage.state(fields.get("s"), table) is not State.CLEAR

    def text(self, value: str) -> tuple[str, dict[str, int]]:
        """Return one text with every detected value replaced, and how often each detector hit."""
        counts = Counts()
        return masked_text(value, self._content, counts), counts.detections

    def maskable(self, media_type: str) -> bool:
        """Return whether a body of that type can be masked at all."""
        in_json = self._paths is None and self._objects is None
        return maskable(media_type) and (in_json or PathMask.maskable(media_type))

    def document(self, media_type: str, body: bytes) -> tuple[bytes, Counts] | None:
        """Return a whole body with every masked value replaced and how often each detector hit; None: it cannot be masked."""
        counts = Counts()
        if self._objects is not None:
            shown = self._objects.document(body, counts)
            if shown is None:
                return None
            body = shown
        if self._paths is not None:
            placed = self._paths.document(media_type, body, counts)
            if placed is None:
                return None
            body = placed
        if self._content is None:
            return body, counts
        masked = masked_document(media_type, body, self._content, counts)
        return None if masked is None else (masked, counts)

    def _types(self) -> Mapping[int, CatalogueType]:
        return self._coverage.catalogue.types if self._coverage.catalogue is not None else {}

    def _trigger(self, cells: Sequence[Cell]) -> Pattern | None:
        return compile_trigger(self._content, cells, self._triggers) if self._content is not None else None

    def _cell(self, column: ResultColumn, exposed: Exposure) -> Cell:
        """Return how a column is treated: by the rule for where it comes from, whole if that may be masked, by content."""
        rule = self._rule(column, exposed)
        kind = kind_of(column.type_oid, self._types())
        if rule is not None:
            replace, fixed = column_transform(chosen(rule.transform), kind, column.format, self._key)
            return Cell(rule.rule, fixed, replace, None)
        if self._content is None or not holds_content(kind):
            return Cell("", None, None, None)
        return Cell("", None, None, treatment(kind, column.format, column.type_oid))

    def _rule(self, column: ResultColumn, exposed: Exposure) -> MaskColumn | None:
        rules = self._coverage.rules
        if not rules:
            return None
        if column.table_oid:
            return self._coverage.rule_for(column.table_oid, column.attnum)
        if exposed != Exposure.MASKED:
            return None
        first = rules[0]
        return MaskColumn(first.rule, first.table, first.column, first.schema, first.database)

    def _copied_cells(self, statement: Statement, form: int) -> tuple[Cell, ...] | None:
        """Return the treatment of each column copied, or None when columns are not known (and need no rule)."""
        assert statement.copy is not None
        copied = statement.copy.relation
        if copied is None:
            return None
        relation = self._coverage.named(copied.schema, copied.name)
        if relation is None:
            return None
        by_name = {name: number for number, name in relation.columns.items()}
        stored = (name for number, name in sorted(relation.columns.items()) if number not in relation.computed)
        names = statement.copy.columns or tuple(stored)  # generated columns are not copied
        return tuple(self._copied_cell(relation, by_name.get(name), name, form) for name in names)

    def _copied_cell(self, relation: CatalogueRelation, number: int | None, name: str, form: int) -> Cell:
        if number is None:  # a column added since: whole
            return Cell(self._coverage.rules[0].rule, redacted(kind_of(0, {}), form), None, None)
        column = ResultColumn(name, relation.oid, number, relation.column_types.get(number, 0), form)
        return self._cell(column, Exposure.NONE)


def _content_mask(rules: Sequence[MaskContent], key: bytes) -> ContentMask | None:
    transforms: dict[str, list[str]] = {}
    for rule in rules:
        chosen(rule.transform)
        for name in expand(rule.detectors):
            transforms.setdefault(name, []).append(rule.transform)
    if not transforms:
        return None
    replace = {name: content_transform(strictest(names), name, key) for name, names in transforms.items()}
    return ContentMask(scanner(frozenset(transforms)), replace)
