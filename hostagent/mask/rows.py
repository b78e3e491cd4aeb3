"""Masking of DataRow messages, compiled once per result shape.

A run is any number of complete DataRow messages (PostgreSQL 17 §53.7)::

    'D' | length 4 (self included) | columns 2 | columns x ( length 4, -1 is NULL | value )

Column rules need a walk over the cells; detectors need one scan over the run's raw bytes, and a closer look only at the
rows in which that scan hit.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from hostagent.mask.content import LARGE, ContentMask, Counts, Treatment
from hostagent.mask.pattern import Pattern, compile_bytes
from hostagent.mask.transform import Replace
from hostagent.model.errors import RemoteWireError

_HEAD = struct.Struct(">BiH")
_LENGTH = struct.Struct(">i")
_START = struct.Struct(">Bi")
_NULL = _LENGTH.pack(-1)
_DATA_ROW = 0x44


class Cell(NamedTuple):
    """How one column's values are treated: by a column rule, by detectors, or not at all (``rule`` empty, no treatment).

    ``fixed`` is the replacement when ``replace`` is None; None stands for SQL NULL.
    """

    rule: str
    fixed: bytes | None
    replace: Replace | None
    treatment: Treatment | None


class _Change(NamedTuple):
    row: int
    start: int  # of the cell's length
    end: int
    value: bytes | None


class RowPlan:
    """How rows of one shape are masked. ``masked`` has the rule id per column, or an empty text.

    A ``transparent`` plan changes no row whatever it holds.
    """

    __slots__ = ("_cells", "_content", "_last", "_steps", "_tails", "_trigger", "masked", "transparent")

    def __init__(self, cells: Sequence[Cell], content: ContentMask | None, trigger: Pattern | None) -> None:
        """Compile the plan. ``trigger`` covers ``content``'s detectors and every cell's ``extra_trigger``."""
        self._cells = tuple(cells)
        self.masked = tuple(cell.rule for cell in cells)
        self._steps = _steps(self._cells)
        self._content = content if any(cell.treatment for cell in cells) else None
        self._trigger = trigger
        self._last = max((i for i, cell in enumerate(cells) if cell.treatment), default=-1) + 1
        self._tails = tuple(cell.treatment for cell in cells[: self._last])
        self.transparent = not self._steps and self._content is None

    def clear(self, buffer: bytes, offset: int) -> int:
        """Return where in ``buffer``, from ``offset`` on, something may have to be changed: at its end if nowhere.

        Messages of rows that begin at ``offset`` pass as they are if they end before that.
        """
        if self._steps or self._trigger is None:
            return offset
        match = self._trigger.search(buffer, offset)
        return len(buffer) if match is None else match.start()

    def apply(self, run: bytes) -> tuple[bytes, Counts]:
        """Return ``run`` with every obligation met, and what was done.

        Raises:
            RemoteWireError: the rows do not have the shape the server announced.
        """
        counts = Counts()
        try:
            if self._steps:
                run = self._replace_columns(run, counts)
            if self._content is not None and self._trigger is not None:
                run = self._replace_content(run, self._content, self._trigger, counts)
        except struct.error as short:
            raise RemoteWireError("the server sent a row that ends too early") from short
        return run, counts

    def _replace_columns(self, run: bytes, counts: Counts) -> bytes:
        parts: list[bytes] = []
        append = parts.append
        length_at = _LENGTH.unpack_from
        pack, width, steps = _START.pack, len(self._cells), self._steps
        at, size, masked = 0, len(run), 0
        while at < size:
            kind, length, columns = _HEAD.unpack_from(run, at)
            end = at + 1 + length
            if kind != _DATA_ROW or columns != width or end > size:
                raise RemoteWireError("the server sent a row that is not of the shape it announced")
            slot, copied, cell, grown = len(parts), at + 5, at + 7, 0
            append(b"")
            for skip, stand_in, replace in steps:
                while skip:
                    (value_length,) = length_at(run, cell)
                    cell += 4 + value_length if value_length > 0 else 4
                    skip -= 1
                (value_length,) = length_at(run, cell)
                if value_length < 0:
                    cell += 4
                    continue
                behind = cell + 4 + value_length
                if replace is not None:
                    stand_in = _cell(replace(run[cell + 4 : behind]))
                append(run[copied:cell])
                append(stand_in)
                grown += len(stand_in) - 4 - value_length
                copied = cell = behind
                masked += 1
            if cell > end:
                raise RemoteWireError("the server sent a row that is longer than it says")
            append(run[copied:end])
            parts[slot] = pack(_DATA_ROW, length + grown)
            at = end
        counts.masked += masked
        return b"".join(parts)

    def _replace_content(self, run: bytes, content: ContentMask, trigger: Pattern, counts: Counts) -> bytes:
        match = trigger.search(run)
        if match is None:
            return run
        rows: list[tuple[int, int]] = []
        at = 0
        length_at = _LENGTH.unpack_from
        while match is not None:
            start, end = match.start(), match.end()
            while at < end:
                behind = at + 1 + length_at(run, at + 1)[0]
                if behind > start:
                    rows.append((at, behind))
                if behind <= at:
                    raise RemoteWireError("the server sent a row without a length")
                at = behind
            match = trigger.search(run, at)
        return _rebuilt(run, self._changes(run, rows, content, counts))

    def _changes(
        self, run: bytes, rows: list[tuple[int, int]], content: ContentMask, counts: Counts
    ) -> list[_Change]:
        """Return what detectors change in these rows. Plain values are joined by NUL and scanned in one go."""
        changes: list[_Change] = []
        plain: list[tuple[int, int, int, Treatment]] = []
        values: list[bytes] = []
        for row, row_end in rows:
            with content.limited(row_end - row, LARGE) as large:
                self._row_changes(run, row, row_end, content, counts, changes, plain, values, large=large)
        _plain_changes(content, plain, values, changes, counts)
        changes.sort()
        return changes

    def _row_changes(
        self,
        run: bytes,
        row: int,
        row_end: int,
        content: ContentMask,
        counts: Counts,
        changes: list[_Change],
        plain: list[tuple[int, int, int, Treatment]],
        values: list[bytes],
        *,
        large: bool,
    ) -> None:
        """Add to ``changes`` what detectors change in one row, or to ``plain`` and ``values`` what is scanned later."""
        length_at = _LENGTH.unpack_from
        at = row + 7
        if len(self._cells) != _HEAD.unpack_from(run, row)[2]:
            raise RemoteWireError("the server sent a row that is not of the shape it announced")
        for treatment in self._tails:
            (length,) = length_at(run, at)
            start, at = at, at + 4 + length if length > 0 else at + 4
            if treatment is None or length < treatment.shortest:
                continue
            if treatment.repair is not None and not large:
                plain.append((row, start, at, treatment))
                values.append(run[start + 4 : at])
                continue
            value = run[start + 4 : at]
            stand_in = content.large(value, treatment, counts) if large else treatment.scrub(content, value, counts)
            if stand_in is not value:
                changes.append(_Change(row, start, at, stand_in))
        if at > row_end:
            raise RemoteWireError("the server sent a row that is longer than it says")


def _plain_changes(
    content: ContentMask,
    cells: list[tuple[int, int, int, Treatment]],
    values: list[bytes],
    changes: list[_Change],
    counts: Counts,
) -> None:
    hits = content.scanner.hits(b"\x00".join(values))
    if not hits:
        return
    counts.detected(hits)
    offsets: list[int] = []
    total = 0
    for value in values:
        offsets.append(total)
        total += len(value) + 1
    taken = 0
    while taken < len(hits):
        index = bisect_right(offsets, hits[taken].start) - 1
        behind = taken + 1
        limit = offsets[index] + len(values[index])
        while behind < len(hits) and hits[behind].start < limit:
            behind += 1
        row, start, end, treatment = cells[index]
        assert treatment.repair is not None
        stand_in = treatment.repair(content, values[index], hits[taken:behind], offsets[index])
        changes.append(_Change(row, start, end, stand_in))
        taken = behind


def _rebuilt(run: bytes, changes: list[_Change]) -> bytes:
    if not changes:
        return run
    parts: list[bytes] = []
    copied = taken = 0
    while taken < len(changes):
        row = changes[taken].row
        parts.append(run[copied:row])
        slot, copied, grown = len(parts), row + 5, 0
        parts.append(b"")
        while taken < len(changes) and changes[taken].row == row:
            _, start, end, value = changes[taken]
            stand_in = _cell(value)
            parts += (run[copied:start], stand_in)
            grown += len(stand_in) - (end - start)
            copied = end
            taken += 1
        parts[slot] = _START.pack(_DATA_ROW, _LENGTH.unpack_from(run, row + 1)[0] + grown)
    parts.append(run[copied:])
    return b"".join(parts)


def _cell(value: bytes | None) -> bytes:
    return _NULL if value is None else _LENGTH.pack(len(value)) + value


def _steps(cells: Sequence[Cell]) -> tuple[tuple[int, bytes, Replace | None], ...]:
    """Return, per masked column, how many cells to skip before it and what replaces it."""
    steps: list[tuple[int, bytes, Replace | None]] = []
    skip = 0
    for cell in cells:
        if not cell.rule:
            skip += 1
            continue
        steps.append((skip, _cell(cell.fixed), cell.replace))
        skip = 0
    return tuple(steps)


def compile_trigger(content: ContentMask, cells: Sequence[Cell], cache: dict[bytes, Pattern]) -> Pattern:
    """Return the pattern whose misses are safe for rows of these cells; compiled patterns are kept in ``cache``."""
    extras = sorted({cell.treatment.extra_trigger for cell in cells if cell.treatment and cell.treatment.extra_trigger})
    if not extras:
        return content.scanner.trigger
    source = b"|".join([content.scanner.trigger_source, *extras])
    if source not in cache:
        cache[source] = compile_bytes(source)
    return cache[source]
