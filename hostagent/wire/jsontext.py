"""JSON (RFC 8259) read in one way or none, and written anew.

What two readers could understand differently is an error: a name given twice (letters of either case are one name, because some
readers take them for one), numbers that are none, half a surrogate pair, NUL, a byte order mark, another character set, depth that
some readers do not follow. Numbers keep their spelling.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

DEEPEST: Final = 64
"""Most arrays and objects inside each other."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    literal: str


JSON = dict[str, "JSON"] | list["JSON"] | str | Number | bool | None


def _distinct(pairs: list[tuple[str, JSON]]) -> JSON:
    if len({name.casefold() for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return dict(pairs)


def _given_once(pairs: list[tuple[str, JSON]]) -> JSON:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return dict(pairs)


def _no_number(text: str) -> JSON:
    raise ValueError(f"{text} is no number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=Number, parse_float=Number, parse_constant=_no_number)


_CASED: Final = json.JSONDecoder(object_pairs_hook=_given_once, parse_int=Number, parse_float=Number, parse_constant=_no_number)


def parse(data: bytes, *, cased: bool = False) -> JSON:
    """Return the value that ``data`` is. ``cased``: all readers take letters of either case for two names.

    Raises:
        ValueError: it is not JSON, or not the same JSON to every reader.
    """
    try:
        text = data.decode()
        value: JSON = (_CASED if cased else _DECODER).decode(text)
    except RecursionError:
        raise ValueError("the document is too deep") from None
    build(value)
    return value


def build(value: JSON) -> bytes:
    """Return ``value`` as JSON in UTF-8, without blanks.

    Raises:
        ValueError: too deep, or a text that is none (half a surrogate pair, NUL).
    """
    parts: list[str] = []
    _write(value, parts, DEEPEST)
    text = "".join(parts)
    if "\\u0000" in text and "\0" in "".join(_texts(value)):
        raise ValueError("a text holds NUL")
    return text.encode()  # UnicodeEncodeError, which is a ValueError, for half a surrogate pair


def _write(value: JSON, parts: list[str], depth: int) -> None:
    match value:
        case dict() | list() if not depth:
            raise ValueError("the document is too deep")
        case dict():
            mark = "{"
            for name, item in value.items():
                parts += (mark, _quoted(name), ":")
                _write(item, parts, depth - 1)
                mark = ","
            parts.append("}" if value else "{}")
        case list():
            mark = "["
            for item in value:
                parts.append(mark)
                _write(item, parts, depth - 1)
                mark = ","
            parts.append("]" if value else "[]")
        case Number():
            parts.append(value.literal)
        case _:
            parts.append(_quoted(value))


_quoted = json.JSONEncoder(ensure_ascii=False).encode


def _texts(value: JSON) -> list[str]:
    """Return every name and text in ``value``."""
    found: list[str] = []
    left = [value]
    while left:
        match left.pop():
            case dict() as item:
                found += item
                left += item.values()
            case list() as items:
                left += items
            case str() as text:
                found.append(text)
            case _:
                pass
    return found


def scalar_text(value: JSON) -> str | None:
    """Return a scalar as rules compare it (``true``, ``null``, ``3``; 3.0 and 3e0 are 3); None for an array or object."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case Number(literal):
            return _number_text(literal)
        case _:
            return None


_EXACT = 1 << 53
"""Integers below this are the same to readers that keep all numbers as IEEE 754 doubles."""


def _number_text(literal: str) -> str:
    if literal.lstrip("-").isdigit():
        return "0" if literal == "-0" else literal
    number = float(literal)
    return str(int(number)) if number.is_integer() and abs(number) < _EXACT else repr(number)
