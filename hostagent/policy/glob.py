"""Patterns that operators write: ``*`` is any run of characters, ``?`` any one, all else stands for itself.

Compiled to google-re2, so that no pattern and no name can make matching slow; plain names become a set look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import re2

QUALIFIED_KINDS = frozenset({"relation", "function", "type", "sequence", "view", "index", "procedure", "operator"})
"""Kinds of resource whose names are ``schema.name``; any other name (file, host, setting) is matched as a whole."""

Matcher = Callable[[str], bool]


def _always(_: str) -> bool:
    return True


def is_glob(pattern: str) -> bool:
    """Return whether ``pattern`` holds a wildcard."""
    return "*" in pattern or "?" in pattern


def matcher(patterns: Sequence[str]) -> Matcher:
    """Return a test that is true for a text that any of ``patterns`` matches in full; letters must be equal in case."""
    if "*" in patterns:
        return _always
    if not any(map(is_glob, patterns)):
        return frozenset(patterns).__contains__
    compiled = re2.compile("(?s)(?:" + "|".join(map(_expression, patterns)) + ")")
    fullmatch = compiled.fullmatch
    return lambda text: fullmatch(text) is not None


def _expression(pattern: str) -> str:
    words = {"*": ".*", "?": "."}
    return "".join(words.get(char) or re2.escape(char) for char in pattern)


def path_matcher(patterns: Sequence[str]) -> Matcher:
    """Return a test for paths: ``*`` is any run without a slash, ``**`` any run, ``?`` any one character but a slash."""
    compiled = re2.compile("(?s)(?:" + "|".join(map(_path_expression, patterns)) + ")")
    fullmatch = compiled.fullmatch
    return lambda text: fullmatch(text) is not None


def _path_expression(pattern: str) -> str:
    words = {"*": "[^/]*", "?": "[^/]"}
    parts = ("".join(words.get(char) or re2.escape(char) for char in part) for part in pattern.split("**"))
    return ".*".join(parts)


class NamePattern(NamedTuple):
    """A pattern for object names, ``name`` or ``schema.name``.

    A pattern without a dot matches the last part of a name, whatever the schema. A pattern with a dot matches both parts.
    A name written without a schema could mean any schema (the server's search_path decides, and the session may change
    it): under ``strict`` (a rule that permits) it matches only a pattern whose schema is ``*`` or absent, otherwise
    (a rule that forbids, holds or masks) it matches whatever the pattern's schema is.
    """

    schema: Matcher | None
    name: Matcher
    any_schema: bool
    qualified: bool = True

    def matches(self, name: str, *, strict: bool) -> bool:
        """Return whether ``name``, as written in the statement, is or may be meant by this pattern."""
        if not self.qualified:
            return self.name(name)
        schema, dot, last = name.rpartition(".")
        if not self.name(last):
            return False
        if self.schema is None:
            return True
        if not dot:
            return self.any_schema or not strict
        return self.schema(schema.rpartition(".")[2])


def name_pattern(pattern: str, kind: str = "relation") -> NamePattern:
    """Return the compiled form of ``pattern`` for names of resources of ``kind``."""
    schema, dot, last = pattern.rpartition(".")
    if kind not in QUALIFIED_KINDS:
        return NamePattern(None, matcher([pattern]), any_schema=True, qualified=False)
    if not dot:
        return NamePattern(None, matcher([pattern]), any_schema=True)
    return NamePattern(matcher([schema]), matcher([last]), any_schema=schema == "*")
