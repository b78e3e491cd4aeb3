"""Whole bodies by media type: JSON with its structure kept, lines of JSON, and text (RFC 9110 §8.3, RFC 8259, RFC 6839)."""

from __future__ import annotations

from typing import Final

from hostagent.mask.content import DOCUMENT, LARGE, ContentMask, Counts, Treatment, treatment
from hostagent.mask.transform import MASKED
from hostagent.mask.types import Kind

_JSON: Final = treatment(Kind.JSON, 0, 0)
_LINES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines"})
_TEXTS: Final = frozenset({"application/xml", "application/javascript", "application/yaml", "application/problem+xml"})
_CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
# Endless, and encoded so that values do not show.
_NOT_TEXT: Final = frozenset({"text/event-stream", "text/vcard", "text/calendar"})
_STRUCTURED: Final = {"+json": _JSON, "+xml": DOCUMENT}


def maskable(media_type: str) -> bool:
    """Return whether a body that its Content-Type says is ``media_type`` can be masked at all."""
    return _reader(media_type) is not None


def is_json(media_type: str) -> bool:
    """Return whether a body of that type is one JSON document."""
    way = _reader(media_type)
    return way is not None and way == (_JSON, False)


def is_lines(media_type: str) -> bool:
    """Return whether a body of that type is lines of JSON."""
    way = _reader(media_type)
    return way is not None and way[1]


def _reader(media_type: str) -> tuple[Treatment, bool] | None:
    """Return how a body is scanned and whether line by line, None if it cannot be."""
    name, *parameters = (part.strip().lower() for part in media_type.split(";"))
    charsets = [each.partition("=")[2].strip(" \t\"'") for each in parameters if each.startswith("charset")]
    if len(charsets) > 1 or not _CHARSETS.issuperset(charsets) or name in _NOT_TEXT:
        return None
    if name == "application/json":
        return _JSON, False
    if name in _LINES:
        return _JSON, True
    suffix = next((way for end, way in _STRUCTURED.items() if name.endswith(end)), None)
    if suffix is not None:
        return suffix, False
    return (DOCUMENT, False) if name.startswith("text/") or name in _TEXTS else None


def masked_document(media_type: str, body: bytes, content: ContentMask, counts: Counts) -> bytes | None:
    """Return ``body`` with every detected value replaced; None when it cannot be read, and so must not pass.

    It is read as UTF-8 without a byte order mark. The detectors' time is limited as for any large text: what would take more is
    replaced as a whole.
    """
    way = _reader(media_type)
    if way is None or b"\0" in body or body.startswith(b"\xef\xbb\xbf"):
        return None
    try:
        body.decode()
    except UnicodeDecodeError:
        return None
    reader, by_line = way
    pieces = body.split(b"\n") if by_line else [body]
    stand_in = b'"[masked]"' if reader is _JSON else MASKED
    with content.limited(len(body), 4 * LARGE):
        if by_line and (whole := _at_once(body, content, counts)) is not None:
            return whole
        found = [content.large(piece, reader, counts) for piece in pieces]
    return b"\n".join(stand_in if piece is None else piece for piece in found)


def _at_once(lines: bytes, content: ContentMask, counts: Counts) -> bytes | None:
    """Return lines of JSON masked in one pass; None when one of them would take all away: then each is looked at alone."""
    found = Counts()
    masked = content.large(lines, _JSON, found)
    if masked is None or masked.count(b"\n") != lines.count(b"\n"):
        return None
    counts.masked += found.masked
    for name, times in found.detections.items():
        counts.detections[name] = counts.detections.get(name, 0) + times
    return masked
