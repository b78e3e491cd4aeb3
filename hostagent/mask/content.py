"""Content masking of one value: detectors applied with knowledge of the value's type and format.

A value is *plain* when its bytes in the message are the text that detectors read; plain values of many rows are scanned in
one go. Other values hide their content from a plain scan (binary integers, hexadecimal bytes, JSON escapes) and are looked
at one by one; for these ``extra_trigger`` widens the cheap first scan so that it still never misses one.
"""

from __future__ import annotations

import functools
import html
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Final

from hostagent.mask.detectors import EFFORT, Hit, Scanner, TooCostly
from hostagent.mask.escapes import Places, deeper, quotes_only, unescaped
from hostagent.mask.pattern import compile_bytes
from hostagent.mask.transform import MASKED, Replace, redacted
from hostagent.mask.types import BINARY_FORMAT, Kind, decode_integer, decode_numeric, element_of, float_digits, kind_of


@dataclass(slots=True)
class Counts:
    """How many values were replaced by column rules, and how often each detector hit."""

    masked: int = 0
    detections: dict[str, int] = field(default_factory=dict)

    def detected(self, hits: Sequence[Hit]) -> None:
        """Add detector hits."""
        for hit in hits:
            self.detections[hit.detector] = self.detections.get(hit.detector, 0) + 1


class ContentMask:
    """The detectors of one set of obligations and what each of them puts in place of a match."""

    __slots__ = ("_replace", "scanner")

    def __init__(self, scanner: Scanner, replace: Mapping[str, Replace]) -> None:
        """Keep the scanner and a replacement for each of its detectors."""
        self.scanner = scanner
        self._replace = replace

    def replaced(self, value: bytes, hits: Sequence[Hit], offset: int = 0) -> bytes | None:
        """Return ``value`` with ``hits`` replaced; None when one of them takes the whole value away.

        The hits' offsets count from ``offset``.
        """
        parts: list[bytes] = []
        at = 0
        for hit in hits:
            start, end = hit.start - offset, hit.end - offset
            stand_in = self._replace[hit.detector](value[start:end])
            if stand_in is None:
                return None
            parts += (value[at:start], stand_in)
            at = end
        parts.append(value[at:])
        return b"".join(parts)

    def text(self, value: bytes, counts: Counts) -> bytes | None:
        """Return ``value`` (any text) with every hit replaced; the same object when there is none.

        Raises:
            TooCostly: see ``Scanner.limit``.
        """
        if self.scanner.trigger.search(value) is None:
            return value
        hits = self.scanner.hits(value)
        if not hits:
            return value
        counts.detected(hits)
        return self.replaced(value, hits)

    def large(self, value: bytes, treatment: Treatment, counts: Counts) -> bytes | None:
        """Return what stands for one cell's ``value``; what would cost more than ``limited`` leaves counts as one hit: it goes whole."""
        scanner = self.scanner
        try:
            if treatment.repair is None and len(value) > LARGE:
                if scanner.trigger.search(value) is None and not _hides(treatment.extra_trigger, value):
                    return value
                scanner.spend(len(value) >> 8)  # decoding, unescaping
            return treatment.scrub(self, value, counts)
        except TooCostly:
            counts.masked += 1
            return treatment.whole

    @contextmanager
    def limited(self, size: int, least: int) -> Iterator[bool]:
        """Limit the time that detectors may take to ``EFFORT`` if ``size`` (bytes of a row or text) is more than ``least``."""
        if size <= least:
            yield False
            return
        self.scanner.limit(EFFORT)
        try:
            yield True
        finally:
            self.scanner.limit(None)


Repair = Callable[[ContentMask, bytes, Sequence[Hit], int], "bytes | None"]
"""From a plain value and its hits (offsets from the last argument) to what replaces it."""

Scrub = Callable[[ContentMask, bytes, Counts], "bytes | None"]
"""From a value to what replaces it: the same object when nothing was found."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """How values of one column are scanned: plain ones by ``repair``, others by ``scrub``.

    Values of fewer bytes than ``shortest`` cannot hold anything that is looked for. ``whole`` stands for a value that is taken
    away as a whole because looking at it closely would cost too much; None is SQL NULL.
    """

    repair: Repair | None
    scrub: Scrub
    extra_trigger: bytes = b""
    shortest: int = 6  # ``a@b.co``
    whole: bytes | None = None


_SHORTEST_NUMBER = 13  # of all detectors only a card number is made of digits alone

_HEXADECIMAL = rb"\\x[0-9a-fA-F]{14}"
_ESCAPE = rb"\\u00[0-9a-fA-F]{2}|(?::|com)\\+/"
_SCIENTIFIC = rb"[0-9][eE]\+?[12][0-9]"
_LENGTH_8 = rb"\x00\x00\x00\x08"
_BINARY_INT8 = (
    _LENGTH_8
    + rb"(?:\x00\x00\x00[\xe8-\xff]|\x00\x00[\x01-\xff][\x00-\xff]|\x00[\x01-\xff][\x00-\xff]{2}|[\x01-\x7f][\x00-\xff]{3})"
)  # at least 10 ** 12, which is 0xe8 << 32 and more
_BINARY_FLOAT8 = _LENGTH_8 + rb"[\x42-\x44\xc2-\xc4]"  # 2 ** 33 to 2 ** 81, both signs
_BINARY_NUMERIC = rb"\x00[\x01-\xff]\x00[\x03\x04][\x00\x40]\x00"  # count, weight 3 or 4 (13 to 20 digits), sign
_HIDDEN_TEXT = b"|".join((_HEXADECIMAL, _ESCAPE, _SCIENTIFIC))
_HIDDEN_BINARY = b"|".join((_BINARY_INT8, _BINARY_FLOAT8, _BINARY_NUMERIC))

_HEXADECIMAL_RUN = re.compile(rb"\\x((?:[0-9a-fA-F]{2}){7,})")
_SCIENTIFIC_WORD = compile_bytes(rb"[0-9A-Za-z.]*[0-9][eE]\+?[12][0-9][0-9A-Za-z]*")
_SCIENTIFIC_NUMBER = re.compile(rb"[0-9][0-9.]*[eE]\+?[12][0-9]")  # and not a piece of a hexadecimal word
_SUSPICIOUS = compile_bytes(_HIDDEN_TEXT)
_JSON_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]*")
_NUMERIC = frozenset(b"0123456789.eE+-")


_framed = functools.lru_cache(maxsize=16)(compile_bytes)


def _hides(extra_trigger: bytes, value: bytes) -> bool:
    """Return whether ``value`` may hold something that shows only when decoded."""
    return bool(extra_trigger) and _framed(extra_trigger).search(struct.pack(">i", len(value)) + value) is not None


def hidden_hits(mask: ContentMask, value: bytes) -> list[Hit]:
    """Return hits in what a text value spells in another way: hexadecimal bytes, JSON escapes, scientific numbers."""
    if _SUSPICIOUS.search(value) is None:
        return []
    return encoded_hits(mask, value) + escaped_hits(mask, value, ())


def encoded_hits(mask: ContentMask, value: bytes) -> list[Hit]:
    """Return hits in what ``value`` spells as hexadecimal bytes or scientific numbers. All are scanned together."""
    spelled = [bytes.fromhex(run[1].decode()) for run in _HEXADECIMAL_RUN.finditer(value)]
    for run in _SCIENTIFIC_WORD.finditer(value):
        mask.scanner.spend(2)
        word = value[run.start() : run.end()]
        if _SCIENTIFIC_NUMBER.fullmatch(word) is None:
            continue
        digits = float_digits(word.decode())
        if len(digits) >= _SHORTEST_NUMBER:
            spelled.append(digits.encode())
    return mask.scanner.hits(b"\x00".join(spelled)) if spelled else []


def escaped_hits(mask: ContentMask, value: bytes, known: Sequence[bytes]) -> list[Hit]:
    """Return hits in what ``value`` is once its JSON escapes are undone, as often as that goes; but not the texts ``known``."""
    mask.scanner.spend(value.count(b"\\"))
    return _other_hits(mask, deeper(value), known) if b"\\" in value else []


def _other_hits(mask: ContentMask, texts: Iterable[bytes], known: Sequence[bytes]) -> list[Hit]:
    seen = Counter(known)
    for text in texts:
        mask.scanner.spend(len(text) >> 4)
        hits = mask.scanner.hits(text)
        if Counter(text[hit.start : hit.end] for hit in hits) - seen:
            return hits
    return []


def _in_place(mask: ContentMask, value: bytes, hits: Sequence[Hit], offset: int) -> bytes | None:
    return mask.replaced(value, hits, offset)


def _scrub_text(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
    return mask.text(value, counts)


def _scrub_document(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
    """Scrub text of which nobody knows how it will be read: as JSON, as HTML. What only such a reader sees takes it all away."""
    hits = mask.scanner.hits(value)
    known = [value[hit.start : hit.end] for hit in hits]
    hidden = escaped_hits(mask, value, known)
    if not hidden and b"&" in value:
        mask.scanner.spend(value.count(b"&"))
        inner = html.unescape(value.decode("utf-8", "replace")).encode()
        hidden = _other_hits(mask, chain((inner,), deeper(inner)), known)
    counts.detected(hidden or hits)
    if hidden:
        return MASKED
    return mask.replaced(value, hits) if hits else value


def _whole(stand_in: bytes | None, shortest: int) -> Treatment:
    """Return the treatment of plain values that can only be replaced as a whole."""

    def repair(mask: ContentMask, value: bytes, hits: Sequence[Hit], offset: int) -> bytes | None:
        return stand_in

    def scrub(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
        hits = mask.scanner.hits(value)
        counts.detected(hits)
        return stand_in if hits else value

    return Treatment(repair, scrub, shortest=shortest)


def _decoded(decode: Callable[[bytes], str], stand_in: bytes | None, extra_trigger: bytes) -> Treatment:
    """Return the treatment of numbers whose digits appear only when decoded."""

    def scrub(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
        digits = decode(value)
        if len(digits) < _SHORTEST_NUMBER:
            return value
        hits = mask.scanner.hits(digits.encode())
        counts.detected(hits)
        return stand_in if hits else value

    return Treatment(None, scrub, extra_trigger)


def _hiding(stand_in: bytes | None) -> Treatment:
    """Return the treatment of composed text values: plain hits in place, hidden ones take the whole value."""

    def scrub(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
        hidden = hidden_hits(mask, value)
        if hidden:
            counts.detected(hidden)
            return stand_in
        hits = mask.scanner.hits(value)
        counts.detected(hits)
        if any(hit.end == len(value) for hit in hits):
            return stand_in  # it swallowed the closing bracket
        return mask.replaced(value, hits) if hits else value

    return Treatment(None, scrub, _HIDDEN_TEXT)


def _scrub_json(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
    mask.scanner.spend(value.count(b"\\u") + value.count(b"\\/"))
    plain, places = unescaped(value)
    hits = mask.scanner.hits(plain)
    hidden = encoded_hits(mask, plain) if _SUSPICIOUS.search(plain) is not None else []
    if not hidden and b"\\" in plain:  # JSON inside a string
        mask.scanner.spend(value.count(b"\\"))
        known = [plain[hit.start : hit.end] for hit in hits]
        hidden = next((each for each in (escaped_hits(mask, inner, known) for inner in islice(deeper(value), 1)) if each), [])
    counts.detected(hidden or hits)
    if hidden:
        return redacted(Kind.JSON, 0)
    return _json_in_place(mask, value, plain, places, hits) if hits else value


def _json_in_place(mask: ContentMask, value: bytes, plain: bytes, places: Places, hits: Sequence[Hit]) -> bytes | None:
    """Return valid JSON with the hits replaced: inside strings in place, numbers by 0, anything else as a whole."""
    quotes = quotes_only(value)
    parts: list[bytes] = []
    at = counted = passed = 0
    for hit in hits:
        start, end = places.raw(hit.start, hit.end)
        if start < at:
            continue  # the number that was replaced before
        passed += quotes.count(b'"', counted, start)
        counted = start
        if passed % 2:
            stand_in = mask.replaced(plain[hit.start : hit.end], [hit], hit.start)
            if stand_in is None:
                return None
            stand_in, whole = _in_string(stand_in), end <= quotes.find(b'"', start)
        else:
            number = _JSON_NUMBER.search(value, _beginning_of_number(value, start))
            start, stop = number.span() if number is not None else (end, end)
            stand_in, whole, end = b"0", start <= places.raw(hit.start, hit.end)[0] and end <= stop, stop
        if not whole:
            return redacted(Kind.JSON, 0)
        parts += (value[at:start], stand_in)
        at = end
    parts.append(value[at:])
    return b"".join(parts)


_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _in_string(text: bytes) -> bytes:
    return _quoted(text.decode("utf-8", "replace"))[1:-1].encode()


def _beginning_of_number(value: bytes, at: int) -> int:
    while at and value[at - 1] in _NUMERIC:
        at -= 1
    return at


def _scrub_jsonb(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
    body = value[1:]
    stand_in = _scrub_json(mask, body, counts)
    if stand_in is None or stand_in is body:
        return value if stand_in is body else None
    return value[:1] + stand_in


def _scrub_hexadecimal(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
    """Scrub a bytea in text format (``bytea_output`` hex; the older escape form is read as it stands)."""
    if value[:2] != b"\\x":
        return mask.text(value, counts)
    plain = bytes.fromhex(value[2:].decode())
    stand_in = mask.text(plain, counts)
    if stand_in is None or stand_in is plain:
        return value if stand_in is plain else None
    return b"\\x" + stand_in.hex().encode()


def _scrub_composed(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
    """Scrub a binary value of parts (array, record, range) or of a type not known: any hit takes the whole value."""
    hits = mask.scanner.hits(value) or _numbers_within(mask, value)
    counts.detected(hits)
    return None if hits else value


_NUMBER_WITHIN = compile_bytes(_HIDDEN_BINARY)


def _numbers_within(mask: ContentMask, value: bytes) -> list[Hit]:
    """Return hits in anything inside ``value`` that could be a binary integer, float or numeric."""
    texts = [decode_numeric(value), _integer_text(value), _float_text(value)]
    at = 0
    while (match := _NUMBER_WITHIN.search(value, at)) is not None:
        start = match.start()
        at = start + 1
        eight = value[start + 4 : start + 12]
        count = int.from_bytes(value[start : start + 2], "big")
        texts += (_integer_text(eight), _float_text(eight), decode_numeric(value[start : start + 8 + 2 * count]))
    found: list[Hit] = []
    for text in texts:
        if len(text) >= _SHORTEST_NUMBER:
            found += mask.scanner.hits(text.encode())
    return found


def _integer_text(value: bytes) -> str:
    number = decode_integer(Kind.INT8, value)
    return "" if number is None else str(number)


def _float_text(value: bytes) -> str:
    return float_digits(repr(struct.unpack(">d", value)[0])) if len(value) == 8 else ""


LARGE = 16_384
"""Bytes of a row or text from which on the time that detectors take is limited (``ContentMask.large``)."""

_COMPOSED = frozenset({Kind.ARRAY, Kind.RANGE, Kind.RECORD, Kind.UNKNOWN})
_PLAIN = Treatment(_in_place, _scrub_text)
TEXT = Treatment(_in_place, _scrub_text, whole=MASKED)
"""The treatment of texts beside the rows."""
DOCUMENT: Final = Treatment(None, _scrub_document, _ESCAPE + rb"|&(?:#|commat|period|plus|lowbar|hyphen|sol|colon)", whole=MASKED)
"""The treatment of a whole text by its media type."""
_BINARY = {
    Kind.INT8: _decoded(_integer_text, bytes(8), _BINARY_INT8),
    Kind.FLOAT8: _decoded(_float_text, bytes(8), _BINARY_FLOAT8),
    Kind.NUMERIC: _decoded(decode_numeric, bytes(8), _BINARY_NUMERIC),
    Kind.JSONB: Treatment(None, _scrub_jsonb, _HIDDEN_TEXT),
    Kind.BYTEA: Treatment(None, _scrub_text),
}
_TEXT = {
    Kind.INT8: _whole(b"0", _SHORTEST_NUMBER),
    Kind.NUMERIC: _whole(b"0", _SHORTEST_NUMBER),
    Kind.RANGE: _whole(None, _SHORTEST_NUMBER),
    Kind.FLOAT8: _decoded(lambda value: float_digits(value.decode("ascii", "replace")), b"0", _SCIENTIFIC),
    Kind.JSONB: Treatment(None, _scrub_json, _HIDDEN_TEXT),
    Kind.BYTEA: Treatment(None, _scrub_hexadecimal, _HEXADECIMAL),
    Kind.ARRAY: _hiding(None),
    Kind.RECORD: _hiding(None),
    Kind.UNKNOWN: _hiding(None),
}
_TEXT_ELEMENTS = frozenset({Kind.TEXT, Kind.RECORD, Kind.UNKNOWN})


def treatment(kind: Kind, form: int, type_oid: int) -> Treatment:
    """Return how values of this kind (one that ``holds_content``) are scanned in format ``form``."""
    return replace(_treatment(kind, form, type_oid), whole=redacted(kind, form))


def _treatment(kind: Kind, form: int, type_oid: int) -> Treatment:
    if kind is Kind.JSON:
        return Treatment(None, _scrub_json, _HIDDEN_TEXT)
    if form == BINARY_FORMAT:
        if kind in _COMPOSED:
            return Treatment(None, _scrub_composed, _HIDDEN_BINARY + b"|" + _HIDDEN_TEXT)
        return _BINARY.get(kind, _PLAIN)
    if kind is Kind.ARRAY and element_of(type_oid) and kind_of(element_of(type_oid), {}) not in _TEXT_ELEMENTS:
        return _taking(_hiding(None))
    return _TEXT.get(kind, _PLAIN)


def _taking(inner: Treatment) -> Treatment:
    """Return ``inner`` changed so that any hit takes the whole value: its parts are numbers or JSON."""

    def scrub(mask: ContentMask, value: bytes, counts: Counts) -> bytes | None:
        stand_in = inner.scrub(mask, value, counts)
        return value if stand_in is value else None

    return Treatment(None, scrub, inner.extra_trigger)
