"""JSON (RFC 8259) read in one way or none, and written anew.

What two readers could understand differently is an error: a name given twice (letters of either case are one name, because some
readers take them for one), numbers that are none, half a surrogate pair, NUL, a byte order mark, another character set, depth that
some readers do not follow. Numbers keep their spelling.
"""

from __future__ import annotations

import json
from typing import Final

import msgspec

DEEPEST: Final = 64
"""Most arrays and objects inside each other."""


class Number:
    """A number as it was written; it is never changed. No dataclass, because the encoder makes objects of those."""

    __match_args__ = ("literal",)
    __slots__ = ("literal",)

    def __init__(self, literal: str) -> None:
        """``literal`` is a number as RFC 8259 §6 has it."""
        self.literal: Final = literal

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and other.literal == self.literal

    def __hash__(self) -> int:
        return hash(self.literal)

    def __repr__(self) -> str:
        return f"Number({self.literal!r})"


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
    if "\\u" in text:  # half a surrogate pair and NUL have no other spelling that got here
        build(value)
    else:
        _check_depth(value)
    return value


def build(value: JSON) -> bytes:
    """Return ``value`` as JSON in UTF-8, without blanks.

    Raises:
        ValueError: too deep, or a text that is none (half a surrogate pair, NUL).
    """
    _check_depth(value)
    text = _ENCODER.encode(value)  # UnicodeEncodeError, which is a ValueError, for half a surrogate pair
    if b"\\u0000" in text and "\0" in "".join(_texts(value)):
        raise ValueError("a text holds NUL")
    return text


def _check_depth(value: JSON) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        inside = [each for each in level if isinstance(each, (dict, list))]
        if not inside:
            return
        level = [item for each in inside for item in (each.values() if isinstance(each, dict) else each)]
    raise ValueError("the document is too deep")


def _literally(number: object) -> msgspec.Raw:
    assert isinstance(number, Number)
    return msgspec.Raw(number.literal.encode())


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_literally)


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
