"""What a request carries: JSON, a form, or what nobody can be sure of; and whether it says that another method is meant."""

from __future__ import annotations

import re
from typing import Final, cast

from hostagent.inspectors.http.fields import Listed
from hostagent.model.operation import Content, ContentKind
from hostagent.wire.forms import Form, boundary, parse_multipart, parse_urlencoded, spelled
from hostagent.wire.jsontext import JSON, build, parse

MAX_LOOKED_AT: Final = 1_048_576
"""Longest body that rules or a person look at."""
OVERRIDE: Final = "_method"
"""The field by which Rails, Laravel, Symfony and others take a POST for another method."""

NOTHING: Final = Content(ContentKind.NOTHING)
UNREADABLE: Final = Content(ContentKind.OPAQUE)

_URLENCODED: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_CHARSETS: Final = frozenset({"utf-8", '"utf-8"', "utf8"})


def _media_type(fields: Listed) -> tuple[str, list[str]] | None:
    """Return type and parameters; empty if there is no Content-Type, None if it can be read in two ways."""
    given = [value for name, value in fields if name.lower().replace("_", "-") == "content-type"]
    if len(given) > 1 or any("," in value for value in given):
        return None
    name, *parameters = (given[0] if given else "").split(";")
    return name.strip().lower(), parameters


def is_json(kind: str) -> bool:
    """Return whether that media type is JSON (RFC 6839 §3.1)."""
    return kind == "application/json" or kind.endswith("+json")


def carries_form(method: str, fields: Listed) -> bool:
    """Return whether a server may take the body for a form, and a field of it for another method than ``method``.

    Some take a body of no type, or of one that can be read in two ways, for a form.
    """
    if method != "POST":
        return False
    found = _media_type(fields)
    return found is None or found[0] in ("", _URLENCODED, _MULTIPART)


def carries_json(method: str, fields: Listed) -> bool:
    """Return whether a server may take a member of the body for another method than ``method``."""
    found = _media_type(fields)
    return method == "POST" and found is not None and is_json(found[0])


def read_content(fields: Listed, body: bytes) -> Content:
    """Return what ``body`` is to every server, given the request's ``fields``."""
    if not body:
        return NOTHING
    found = _media_type(fields)
    coded = any(name.lower() == "content-encoding" and value.lower() != "identity" for name, value in fields)
    if found is None or coded or not _readable_charset(found[1]):
        return UNREADABLE
    kind, parameters = found
    if is_json(kind):
        try:
            return Content(ContentKind.JSON, parse(body))
        except ValueError:
            return UNREADABLE
    form: Form | None = None
    if kind in (_URLENCODED, ""):
        form = parse_urlencoded(body)
    elif kind == _MULTIPART and (mark := boundary(parameters)) is not None:
        form = parse_multipart(body, mark)
    return UNREADABLE if form is None else Content(ContentKind.FORM, form)


def _readable_charset(parameters: list[str]) -> bool:
    charsets = [each.partition("=")[2].strip().lower() for each in parameters if each.strip().lower().startswith("charset")]
    return len(charsets) < 2 and _CHARSETS.issuperset(charsets)


def rebuilt(content: Content) -> bytes | None:
    """Return the body to send in place of the one that was understood as ``content``; None: as it came, which nobody reads otherwise."""
    return build(cast("JSON", content.value)) if content.kind is ContentKind.JSON else None


def overrides(content: Content) -> bool:
    """Return whether a server may find another method in ``content``."""
    match content.kind:
        case ContentKind.NOTHING:
            return False
        case ContentKind.JSON:
            return isinstance(content.value, dict) and any(spelled(name) == OVERRIDE for name in content.value)
        case ContentKind.FORM:
            return any(spelled(field.name) == OVERRIDE for field in cast("Form", content.value))
        case ContentKind.OPAQUE:
            return True


def _spellings(letter: str) -> str:
    """Return a pattern of every way in which JSON writes ``letter``."""
    codes = "|".join(f"{ord(each):04x}" for each in {letter.lower(), letter.upper()})
    return rf"(?:{letter}|\\u(?:{codes}))"


class Tripwire:
    """Watches a JSON body that passes on its way: no server may have all of it if it names another method."""

    _LOOKED_FOR: Final = re.compile(('"' + "".join(map(_spellings, OVERRIDE)) + '"').encode(), re.IGNORECASE)
    _LONGEST: Final = 2 + 6 * len(OVERRIDE)

    def __init__(self) -> None:
        """Nothing has passed."""
        self._carry = b""

    def touched(self, content: bytes) -> bool:
        """Return whether ``content``, behind what passed before, completes the name."""
        whole = self._carry + content
        self._carry = whole[-self._LONGEST :]
        return self._LOOKED_FOR.search(whole) is not None
