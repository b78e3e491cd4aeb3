r"""Masking of COPY TO STDOUT streams: text, CSV and binary.

The boundaries of CopyData messages mean nothing (PostgreSQL 17 §53.2.6), so bytes are collected until rows are complete.
Fields that are not changed keep their exact bytes.

Binary layout (PostgreSQL 17 COPY)::

    'PGCOPY\n\377\r\n\0' | flags 4 | extension length 4 | extension | rows | -1 (2)
    row: fields 2 | fields x ( length 4, -1 is NULL | value )
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from hostagent.mask.content import LARGE, TEXT, ContentMask, Counts
from hostagent.mask.rows import Cell, compile_trigger
from hostagent.model.errors import RemoteWireError
from hostagent.sql import CopyStatement

_SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
_BINARY_HEAD = len(_SIGNATURE) + 8
_FALSE = frozenset({"false", "off", "0", ""})
_WELL_BEHAVED = frozenset(b"\t,;|\"'")
"""Delimiters and quotes that no detector's trigger contains, so that escaping them cannot hide a value from it."""

_UNESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPES = {value: b"\\" + name for name, value in _UNESCAPES.items()} | {b"\\": b"\\\\"}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_UNSAFE = re.compile(rb"[\b\f\n\r\t\v\\]")
_BARE = re.compile(rb"[A-Za-z0-9\[\]:*_]+")


class _Values:
    """The columns' treatments, applied to values; ``default`` is for columns that are not known."""

    __slots__ = ("cells", "content", "counts", "default", "idle", "ruled", "trigger")

    def __init__(self, cells: Sequence[Cell] | None, default: Cell, content: ContentMask | None) -> None:
        self.cells = cells
        self.default = default
        self.content = content
        self.counts = Counts()
        known = [default] if cells is None else list(cells)
        self.ruled = any(cell.rule for cell in known)
        self.idle = not any(cell.rule or cell.treatment for cell in known)
        self.trigger = None if content is None else compile_trigger(content, known, {})

    def row(self, width: int) -> Sequence[Cell]:
        """Return the treatment per field of a row of ``width`` fields.

        Raises:
            RemoteWireError: there are more or fewer fields than columns.
        """
        if self.cells is None:
            return (self.default,) * width
        if len(self.cells) != width:
            raise RemoteWireError("the server copied a row of other columns than the catalogue knows")
        return self.cells

    def value(self, cell: Cell, value: bytes) -> bytes | None:
        """Return what stands for a value (not NULL); the same object when it may pass."""
        if cell.rule:
            self.counts.masked += 1
            return cell.fixed if cell.replace is None else cell.replace(value)
        if cell.treatment is None or self.content is None or len(value) < cell.treatment.shortest:
            return value
        return self.content.large(value, cell.treatment, self.counts)


class _Layout(Protocol):
    """One format: finds complete rows in the buffer and masks them."""

    def complete(self, buffer: bytearray) -> int:
        """Return how many bytes at the start of ``buffer`` are complete rows."""

    def rows(self, data: bytes) -> bytes:
        """Return complete rows, masked."""

    def rest(self, data: bytes) -> bytes:
        """Return what may pass of an incomplete end of the stream."""


class CopyPlan:
    """How one stream is masked; one object per stream. ``transparent`` streams may pass without it."""

    __slots__ = ("_buffer", "_layout", "_values", "transparent")

    def __init__(
        self, copy: CopyStatement, cells: Sequence[Cell] | None, default: Cell, content: ContentMask | None
    ) -> None:
        """Prepare for the format of ``copy``. ``cells`` go by position; None: columns are not known, ``default`` is for all."""
        self._values = _Values(cells, default, content)
        self._buffer = bytearray()
        self._layout = _layout(copy, self._values)
        self.transparent = self._values.idle

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self._values.counts

    def feed(self, data: bytes) -> bytes:
        """Take the payload of one or more CopyData messages; return the payload that may pass now, possibly empty.

        Raises:
            RemoteWireError: the stream is not what the statement asked for.
        """
        if self.transparent:
            return data
        self._buffer += data
        size = self._layout.complete(self._buffer)
        if not size:
            return b""
        ready = bytes(self._buffer[:size])
        del self._buffer[:size]
        return self._rows(ready)

    def _rows(self, data: bytes) -> bytes:
        content = self._values.content
        if content is None:
            return self._layout.rows(data)
        with content.limited(len(data), 4 * LARGE):  # many small rows are what a COPY is made of
            return self._layout.rows(data)

    def finish(self) -> bytes:
        """Return the rest of the payload when the stream has ended."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return self._layout.rest(rest) if rest else b""


def _layout(copy: CopyStatement, values: _Values) -> _Layout:
    if copy.format == "binary":
        return _Binary(values)
    heading = copy.options.get("header", "false").lower() not in _FALSE
    if copy.format == "csv":
        quote = _character(copy, "quote", '"')
        marks = (_character(copy, "delimiter", ","), quote, _character(copy, "escape", quote.decode("latin-1")))
        return _Csv(values, marks, copy.options.get("null", "").encode(), heading)
    return _Text(values, _character(copy, "delimiter", "\t"), copy.options.get("null", "\\N").encode(), heading)


def _character(copy: CopyStatement, option: str, default: str) -> bytes:
    mark = copy.options.get(option, default).encode("latin-1", "replace")
    if len(mark) != 1:
        raise RemoteWireError(f"COPY with a {option} of more than one byte")
    return mark


class _Lines(ABC):
    """What text and CSV share: a heading, and the quick way for rows in which the trigger does not hit."""

    __slots__ = ("_heading", "_values", "_well_behaved")

    def __init__(self, values: _Values, heading: bool, marks: bytes) -> None:
        self._values = values
        self._heading = heading
        self._well_behaved = all(mark in _WELL_BEHAVED for mark in marks)

    def rows(self, data: bytes) -> bytes:
        """Return complete rows, masked; the heading holds names only and is kept but for what detectors find in it."""
        start = b""
        if self._heading:
            self._heading = False
            behind = self.row_end(data)
            start, data = self._names(data[:behind]), data[behind:]
        values = self._values
        if self._well_behaved and not values.ruled and values.trigger is not None and values.trigger.search(data) is None:
            return start + data
        return start + self.masked(data)

    def rest(self, data: bytes) -> bytes:
        """A last row without its newline is still a row."""
        return self.rows(data)

    def _names(self, line: bytes) -> bytes:
        if self._values.content is None:
            return line
        return self._values.content.large(line, TEXT, Counts()) or b"\n"

    @abstractmethod
    def row_end(self, data: bytes) -> int:
        """Return the length of the first row."""

    @abstractmethod
    def masked(self, data: bytes) -> bytes:
        """Return complete rows with every field masked as it must be."""


class _Text(_Lines):
    """Text format: a newline always ends a row, a delimiter that is not escaped always ends a field."""

    __slots__ = ("_delimiter", "_escape", "_null", "_separator")

    def __init__(self, values: _Values, delimiter: bytes, null: bytes, heading: bool) -> None:
        super().__init__(values, heading, delimiter)
        self._delimiter = delimiter
        self._null = null
        self._escape = {**_ESCAPES, delimiter: b"\\" + delimiter} if delimiter != b"\t" else _ESCAPES
        self._separator = re.compile(rb"((?:[^\\" + re.escape(delimiter) + rb"]|\\.)*)" + re.escape(delimiter), re.DOTALL)

    def complete(self, buffer: bytearray) -> int:
        """Return the length up to the last newline."""
        return buffer.rfind(b"\n") + 1

    def row_end(self, data: bytes) -> int:
        """Return the length of the first row."""
        return data.find(b"\n") + 1 or len(data)

    def masked(self, data: bytes) -> bytes:
        """Return rows with masked fields."""
        lines = data.split(b"\n")
        return b"\n".join([self._line(line) for line in lines[:-1]] + [self._line(lines[-1]) if lines[-1] else b""])

    def _quiet(self, line: bytes) -> bool:
        """Return whether the line holds nothing to mask, so far as the trigger can tell."""
        values = self._values
        return self._well_behaved and not values.ruled and (values.trigger is None or values.trigger.search(line) is None)

    def _line(self, line: bytes) -> bytes:
        if self._quiet(line) or (not line and self._values.cells is not None and len(self._values.cells) != 1):
            return line  # the latter has no columns
        fields = self._fields(line)
        cells = self._values.row(len(fields))
        return self._delimiter.join([self._field(cell, field) for cell, field in zip(cells, fields, strict=True)])

    def _fields(self, line: bytes) -> list[bytes]:
        if self._delimiter == b"\t" or b"\\" not in line:
            return line.split(self._delimiter)
        fields: list[bytes] = []
        at = 0
        while (match := self._separator.match(line, at)) is not None:
            fields.append(match[1])
            at = match.end()
        return [*fields, line[at:]]

    def _field(self, cell: Cell, field: bytes) -> bytes:
        if field == self._null or not (cell.rule or cell.treatment):
            return field
        plain = field if b"\\" not in field else _ESCAPED.sub(lambda m: _UNESCAPES.get(m[1], m[1]), field)
        masked = self._values.value(cell, plain)
        if masked is plain:
            return field
        if masked is None:
            return self._null
        escaped = _UNSAFE.sub(lambda m: self._escape[m[0]], masked)
        if self._delimiter != b"\t":
            escaped = escaped.replace(self._delimiter, b"\\" + self._delimiter)
        return escaped


class _Csv(_Lines):
    """CSV: a newline or delimiter inside quotes is data; the escape character quotes a quote or itself inside quotes."""

    __slots__ = ("_delimiter", "_escape", "_field_form", "_mark", "_null", "_quote", "_quoted", "_seen")

    def __init__(self, values: _Values, marks: tuple[bytes, bytes, bytes], null: bytes, heading: bool) -> None:
        super().__init__(values, heading, b"".join(marks))
        self._delimiter, self._quote, self._escape = marks
        self._null = null
        self._quoted = False
        self._seen = 0
        quote, escape, delimiter = (re.escape(mark) for mark in (self._quote, self._escape, self._delimiter))
        self._mark = re.compile(rb"[\n" + quote + escape + rb"]")
        body = rb"(?:[^" + quote + escape + rb"]|" + escape + rb"[" + quote + escape + rb"]"
        alone = b"" if self._quote == self._escape else rb"|" + escape
        self._field_form = re.compile(
            rb"(?:" + quote + body + alone + rb")*+" + quote + rb"|[^\n" + delimiter + rb"])*+", re.DOTALL
        )

    def _ends(self, data: bytes | bytearray, at: int, quoted: bool) -> tuple[int, int, bool]:
        """Return the offset behind the last row end from ``at``, how far was read, and whether it ends inside quotes."""
        last = 0
        size = len(data)
        while (match := self._mark.search(data, at)) is not None:
            mark, here = match[0], match.start()
            if quoted and mark == self._escape and here + 1 < size and data[here + 1 : here + 2] in (self._quote, self._escape):
                at = here + 2
                continue
            if quoted and mark == self._escape and here + 1 == size:
                return last, here, quoted  # the next byte decides
            if mark == self._quote:
                quoted = not quoted
            elif mark == b"\n" and not quoted:
                last = here + 1
            at = here + 1
        return last, size, quoted

    def complete(self, buffer: bytearray) -> int:
        """Return the length up to the last newline outside quotes."""
        last, read, self._quoted = self._ends(buffer, self._seen, self._quoted)
        self._seen = read - last
        return last

    def row_end(self, data: bytes) -> int:
        """Return the length of the first row."""
        at, quoted = 0, False
        while True:
            behind = data.find(b"\n", at) + 1
            if not behind:
                return len(data)
            _, _, quoted = self._ends(data[:behind], at, quoted)
            if not quoted:
                return behind
            at = behind

    def masked(self, data: bytes) -> bytes:
        """Return rows with masked fields."""
        parts: list[bytes] = []
        at = 0
        while at < len(data):
            fields, at, ended = self._record(data, at)
            cells = self._values.row(len(fields)) if fields != [b""] or self._values.cells else ()
            masked = [self._field(cell, field) for cell, field in zip(cells, fields, strict=True)] if cells else fields
            parts += (self._delimiter.join(masked), b"\n" if ended else b"")
        return b"".join(parts)

    def _record(self, data: bytes, at: int) -> tuple[list[bytes], int, bool]:
        fields: list[bytes] = []
        while True:
            match = self._field_form.match(data, at)
            at = match.end() if match is not None else at
            fields.append(match[0] if match is not None else b"")
            behind = data[at : at + 1]
            if behind != self._delimiter:
                if behind not in (b"", b"\n"):
                    raise RemoteWireError("the server copied CSV that cannot be read")
                return fields, at + 1, bool(behind)
            at += 1

    def _field(self, cell: Cell, field: bytes) -> bytes:
        if field == self._null or not (cell.rule or cell.treatment):
            return field
        plain = self._unquoted(field)
        masked = self._values.value(cell, plain)
        if masked is plain:
            return field
        if masked is None:
            return self._null
        if _BARE.fullmatch(masked) and masked != self._null and not set(masked) & set(self._quote + self._delimiter):
            return masked
        body = masked.replace(self._escape, self._escape * 2)
        if self._quote != self._escape:
            body = body.replace(self._quote, self._escape + self._quote)
        return self._quote + body + self._quote

    def _unquoted(self, field: bytes) -> bytes:
        if self._quote not in field:
            return field
        parts: list[bytes] = []
        quoted, at = False, 0
        while at < len(field):
            byte, following = field[at : at + 1], field[at + 1 : at + 2]
            if quoted and byte == self._escape and following and following in (self._quote, self._escape):
                parts.append(following)
                at += 2
                continue
            if byte == self._quote:
                quoted = not quoted
            else:
                parts.append(byte)
            at += 1
        return b"".join(parts)


class _Binary:
    """Binary format."""

    __slots__ = ("_ended", "_started", "_values")

    def __init__(self, values: _Values) -> None:
        self._values = values
        self._started = False
        self._ended = False

    def complete(self, buffer: bytearray) -> int:
        """Return the length of the heading and of every complete row."""
        at = 0
        if not self._started:
            at = _heading_size(buffer)
            if not at:
                return 0
        while (behind := _row_size(buffer, at)) > at:
            at = behind
        return at

    def rows(self, data: bytes) -> bytes:
        """Return rows with masked fields."""
        at = 0
        parts: list[bytes] = []
        if not self._started:
            self._started = True
            at = _heading_size(data)
            if any(data[len(_SIGNATURE) : len(_SIGNATURE) + 4]):
                raise RemoteWireError("binary COPY with flags that are not known")
            parts.append(data[:at])
        while at < len(data):
            if self._ended:
                raise RemoteWireError("binary COPY goes on behind its end")
            (width,) = struct.unpack_from(">h", data, at)
            parts.append(data[at : at + 2])
            at += 2
            if width < 0:
                self._ended = True
                continue
            at = self._row(data, at, self._values.row(width), parts)
        return b"".join(parts)

    def _row(self, data: bytes, at: int, cells: Sequence[Cell], parts: list[bytes]) -> int:
        for cell in cells:
            (length,) = struct.unpack_from(">i", data, at)
            behind = at + 4 + max(length, 0)
            value = data[at + 4 : behind]
            masked = self._values.value(cell, value) if length >= 0 else value
            if masked is value:
                parts.append(data[at:behind])
            else:
                parts.append(b"\xff\xff\xff\xff" if masked is None else struct.pack(">i", len(masked)) + masked)
            at = behind
        return at

    def rest(self, data: bytes) -> bytes:
        """Return nothing: a row that is cut off cannot be judged.

        Raises:
            RemoteWireError: always.
        """
        raise RemoteWireError("binary COPY ended inside a row")


def _heading_size(buffer: bytes | bytearray) -> int:
    """Return the length of the heading, or 0 when it is not complete.

    Raises:
        RemoteWireError: it is not a binary COPY.
    """
    if buffer[: len(_SIGNATURE)] != _SIGNATURE[: len(buffer)]:
        raise RemoteWireError("binary COPY without its signature")
    if len(buffer) < _BINARY_HEAD:
        return 0
    (extension,) = struct.unpack_from(">i", buffer, _BINARY_HEAD - 4)
    if extension < 0:
        raise RemoteWireError("binary COPY with a negative length")
    size = _BINARY_HEAD + int(extension)
    return size if len(buffer) >= size else 0


def _row_size(buffer: bytearray, at: int) -> int:
    """Return the offset behind the row at ``at``, or ``at`` when it is not complete."""
    if len(buffer) < at + 2:
        return at
    (width,) = struct.unpack_from(">h", buffer, at)
    end = at + 2
    for _ in range(width):
        if len(buffer) < end + 4:
            return at
        (length,) = struct.unpack_from(">i", buffer, end)
        if length < -1:
            raise RemoteWireError("binary COPY with a negative length")
        end += 4 + max(int(length), 0)
    return end if len(buffer) >= end else at
