"""Where in a JSON document: a part of JSONPath (RFC 9535) that names places and computes nothing.

Written: ``$`` for the document, ``.name`` or ``["any name"]`` for a member, ``[3]`` for an element, ``.*`` or ``[*]`` for every
member or element, and ``..name`` for that member at any depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hostagent.wire.jsontext import JSON

_STEP: Final = re.compile(
    r"""(?P<deep>\.\.)?(?:(?(deep)|\.)(?P<name>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff-]*)|(?(deep)|\.)(?P<star>\*)"""
    r"""|\[(?:(?P<every>\*)|(?P<index>0|[1-9][0-9]{0,8})|(?P<quoted>"(?:[^"\\\x00-\x1f]|\\.)*"))\])"""
)


class Step(NamedTuple):
    """One step. ``key``: the name of a member, the number of an element, None for all of them; ``deep``: at any depth below."""

    key: str | int | None
    deep: bool


Path = tuple[Step, ...]


def parse_path(text: str) -> Path:
    """Return the path that ``text`` writes.

    Raises:
        ValueError: it is none, or one of the kinds that are not known here.
    """
    if not text.startswith("$"):
        raise ValueError(f"{text!r} is not a JSON path: it begins with $, such as $.customer.name or $.items[*].id")
    at, steps = 1, []
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise ValueError(f"{text!r} is not a JSON path that is known here: look at {text[at:]!r} (known: .name, [\"name\"], [0], [*], ..name)")
        steps.append(Step(_key(found), found["deep"] is not None))
        at = found.end()
    return tuple(steps)


def _key(found: re.Match[str]) -> str | int | None:
    if found["name"] is not None:
        return found["name"]
    if found["quoted"] is not None:
        return str(json.loads(found["quoted"]))
    return int(found["index"]) if found["index"] is not None else None


def find(path: Path, value: JSON, *, loose: bool) -> Iterator[JSON]:
    """Return what stands at ``path``; ``loose``: names in letters of either case."""
    if not path:
        yield value
        return
    step, rest = path[0], path[1:]
    for key in _keys(step, value, loose=loose):
        yield from find(rest, _at(value, key), loose=loose)
    if step.deep:
        for child in _children(value):
            yield from find(path, child, loose=loose)


def replace(path: Path, value: JSON, change: Callable[[JSON], JSON]) -> JSON:
    """Return ``value`` with whatever stands at ``path`` changed, names in letters of either case. Containers change in place."""
    if not path:
        return change(value)
    step, rest = path[0], path[1:]
    if step.deep:  # below first: what is replaced is not looked into
        for child in _children(value):
            if isinstance(child, (dict, list)):
                replace(path, child, change)
    for key in _keys(step, value, loose=True):
        if isinstance(value, dict):
            value[str(key)] = replace(rest, value[str(key)], change)
        elif isinstance(value, list):
            value[int(key)] = replace(rest, value[int(key)], change)
    return value


def _keys(step: Step, value: JSON, *, loose: bool) -> list[str | int]:
    key = step.key
    match value:
        case dict() if key is None:
            return list(value)
        case dict() if isinstance(key, str):
            if not loose:
                return [key] if key in value else []
            folded = key.casefold()
            return [name for name in value if name.casefold() == folded]
        case list() if key is None:
            return list(range(len(value)))
        case list() if isinstance(key, int):
            return [key] if key < len(value) else []
        case _:
            return []


def _at(value: JSON, key: str | int) -> JSON:
    if isinstance(value, dict):
        return value[str(key)]
    assert isinstance(value, list)
    return value[int(key)]


def _children(value: JSON) -> list[JSON]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
