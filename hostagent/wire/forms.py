"""Bodies of forms: application/x-www-form-urlencoded (WHATWG URL §5) and multipart/form-data (RFC 7578), read in one way or none.

Layout of the latter::

    *("--" boundary CRLF *(field CRLF) CRLF octets CRLF) "--" boundary "--" [CRLF]

Refused, because servers disagree about it: text before the first part or behind the last, folded lines, parameters of
Content-Disposition in any but the plain quoted form, transfer encodings, a semicolon between fields.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hostagent.wire.http1.location import query_pairs

_ENCODED: Final = re.compile(rb"(?:[\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")
_BOUNDARY: Final = re.compile(r'(?i)[ \t]*boundary=(?:"([A-Za-z0-9\'()+_,./:=? -]{0,69}[A-Za-z0-9\'()+_,./:=?-])"|([A-Za-z0-9\'+_.-]{1,70}))[ \t]*')
_DISPOSITION: Final = re.compile(rb'form-data; name="([^"\\\x00-\x1f\x7f%]*)"(; filename="([^"\x00-\x1f\x7f]*)")?')
_MOST_PARTS: Final = 1000
"""Fields of a form."""
_SPELLED_OTHERWISE: Final = str.maketrans(". [", "___")


class Field(NamedTuple):
    """One field. ``value`` is None for a file, or what is not text. ``filename`` and ``media_type`` are a file's."""

    name: str
    value: str | None
    filename: str | None = None
    media_type: str = ""


Form = tuple[Field, ...]


def spelled(name: str) -> str:
    """Return ``name`` as the least exact reader takes it: PHP makes underscores of dots, blanks and brackets; others fold letters."""
    return name.lstrip().casefold().translate(_SPELLED_OTHERWISE).rstrip("_]")


def parse_urlencoded(body: bytes) -> Form | None:
    """Return the fields of ``body``; None when servers would not agree on them."""
    if body.count(b"&") >= _MOST_PARTS or _ENCODED.fullmatch(body) is None:
        return None
    pairs = query_pairs(body.decode("ascii"))
    return None if pairs is None else tuple(Field(name, value) for name, value in pairs)


def boundary(parameters: list[str]) -> str | None:
    """Return the boundary that the parameters of a Content-Type name; None when there is not exactly one."""
    found = [match for each in parameters if "boundary" in each.lower() for match in [_BOUNDARY.fullmatch(each)]]
    if len(found) != 1 or found[0] is None:
        return None
    return found[0][1] or found[0][2]


def parse_multipart(body: bytes, mark: str) -> Form | None:
    """Return the fields of ``body``, whose parts ``mark`` stands between; None when servers would not agree on them."""
    line = b"--" + mark.encode("ascii")
    first, *parts = (b"\r\n" + body).split(b"\r\n" + line)
    if first or not parts or parts.pop() not in (b"--", b"--\r\n") or len(parts) > _MOST_PARTS:
        return None
    if any(line in part for part in parts):  # some find it in the middle of a line
        return None
    fields = [_part(part) for part in parts]
    return None if None in fields else tuple(field for field in fields if field is not None)


def _part(part: bytes) -> Field | None:
    head, blank, content = part.partition(b"\r\n\r\n")
    begin, *lines = head.split(b"\r\n")
    if begin or not blank or b"\r" in head.replace(b"\r\n", b"") or b"\n" in head.replace(b"\r\n", b""):
        return None
    named: list[re.Match[bytes]] = []
    kind = b""
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name.lower() not in (b"content-disposition", b"content-type", b"content-length"):
            return None
        if name.lower() == b"content-disposition":
            found = _DISPOSITION.fullmatch(value.strip(b" \t"))
            if found is None:
                return None
            named.append(found)
        if name.lower() == b"content-type":
            kind = value.partition(b";")[0].strip(b" \t").lower()
    if len(named) != 1:
        return None
    try:
        name_text = named[0][1].decode()
        if named[0][2] is not None:
            return Field(name_text, None, named[0][3].decode(), kind.decode("latin-1"))
        return Field(name_text, content.decode())
    except UnicodeDecodeError:
        return None
