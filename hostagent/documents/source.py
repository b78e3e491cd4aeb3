"""YAML text to plain values, with the line of every value, for every document that a person writes.

Documents are read more strictly than YAML 1.1 asks: ``on``, ``off``, ``yes`` and ``no`` are words, not booleans; ``22:30`` and dates
are text, not numbers (YAML 1.2 core schema); a key given twice, an anchor, an alias, a tag and a second document are refused.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from hostagent.model.errors import DocumentError

MAX_BYTES = 1_048_576
"""Largest document, in characters."""

_MAX_DEPTH = 24
_STANDARD_TAG = "tag:yaml.org,2002:"

_TAGS = frozenset(_STANDARD_TAG + kind for kind in ("map", "seq", "str", "bool", "null", "int", "float"))

Path = tuple[str | int, ...]


class Source(NamedTuple):
    """One document: its value, and for the path of every value in it the line (from 1) on which it stands."""

    name: str
    value: dict[str, Any]
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """Return the line of ``path``, or of the nearest thing that contains it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _CoreLoader(yaml.CSafeLoader):
    """A safe loader with the scalars of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def _resolve(kind: str, pattern: str, first: str) -> None:
    _CoreLoader.add_implicit_resolver(_STANDARD_TAG + kind, re.compile(pattern), list(first))


_resolve("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve("null", r"^(?:~|null|Null|NULL|)$", "~nN")
_CoreLoader.add_implicit_resolver(_STANDARD_TAG + "null", re.compile(r"^$"), [""])
_resolve("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789")
_resolve("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789")


def read(name: str, text: str) -> Source:
    """Return the single mapping in ``text``; an empty document is an empty mapping.

    A key with nothing behind it is refused: absent and forgotten must not look alike.

    Raises:
        DocumentError: ``name:line: what`` for anything that is not strict YAML.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"{name}:1: the document is larger than {MAX_BYTES} characters")
    lines: dict[Path, int] = {(): 1}
    try:
        _refuse_depth(name, text)
        loader = _CoreLoader(text)
        try:
            node = loader.get_single_node()
            value = {} if node is None else _build(_Walk(name, loader, lines, set()), node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError(f"{name}:{line}: {error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DocumentError(f"{name}:1: not YAML: {' '.join(str(error).split())}") from error
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise DocumentError(f"{name}:1: expected a mapping of keys to values")
    return Source(name, value, lines)


def _refuse_depth(name: str, text: str) -> None:
    # libyaml's composer recurses in C without a limit: text that nests too deeply would end the process, not raise.
    depth = 0
    for event in yaml.parse(text, Loader=_CoreLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise DocumentError(f"{name}:{_line_of(event.start_mark)}: nested too deeply")


def _line_of(mark: Any) -> int:  # noqa: ANN401 - Python's and libyaml's marks have no type in common
    return int(mark.line) + 1 if mark else 1


class _Walk(NamedTuple):
    name: str
    loader: _CoreLoader
    lines: dict[Path, int]
    seen: set[int]

    def refuse(self, node: yaml.Node, what: str) -> DocumentError:
        return DocumentError(f"{self.name}:{node.start_mark.line + 1}: {what}")


def _build(walk: _Walk, node: yaml.Node, path: Path) -> object:
    if id(node) in walk.seen:
        raise walk.refuse(node, "anchors and aliases are not used in documents; write the value again")
    if node.tag not in _TAGS:
        raise walk.refuse(node, f"the tag {node.tag} is not used in policy documents")
    walk.seen.add(id(node))
    walk.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(walk, node, path)
    if isinstance(node, yaml.SequenceNode):
        return [_build(walk, item, (*path, index)) for index, item in enumerate(node.value)]
    try:
        value = walk.loader.construct_object(node, deep=True)
    except KeyError:  # what yaml says to `!!bool perhaps`
        raise walk.refuse(node, f"{node.value!r} is no {node.tag.removeprefix(_STANDARD_TAG)}") from None
    if isinstance(value, str) and "\0" in value:
        raise walk.refuse(node, "a zero byte is in no path, name or pattern, and abstract names of sockets cannot be governed")
    if value is None and path:
        # "workload:" with nothing behind it would otherwise mean *any* workload.
        raise walk.refuse(node, f"{path[-1]!r} has no value; leave the key out, or give it one")
    return value


def _mapping(walk: _Walk, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise walk.refuse(key_node, "a key must be a word")
        key = str(key_node.value)
        if key in result:
            raise walk.refuse(key_node, f"the key {key!r} is given twice")
        walk.lines[(*path, key)] = key_node.start_mark.line + 1
        result[key] = _build(walk, value_node, (*path, key))
    return result
