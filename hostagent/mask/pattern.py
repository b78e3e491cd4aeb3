"""Patterns over bytes: google-re2 in Latin-1 mode, so that any byte is a character and matching is linear in time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol, cast

import re2

_MEMORY = 64 << 20
"""Bytes the automaton of one pattern may cache; the union of all detectors needs more than the default 8 MiB."""


class Match(Protocol):
    """What a match answers (the part of ``re.Match`` that is used)."""

    def start(self, group: int = 0, /) -> int:
        """Return the offset of the first byte of ``group``, or -1."""

    def end(self, group: int = 0, /) -> int:
        """Return the offset behind the last byte of ``group``, or -1."""


class Pattern(Protocol):
    """A compiled pattern (the part of ``re.Pattern`` that is used)."""

    def search(self, data: bytes, pos: int = ..., /) -> Match | None:
        """Return the leftmost match at or after ``pos``."""

    def finditer(self, data: bytes, pos: int = ..., /) -> Iterator[Match]:
        """Return all matches that do not overlap, from the left."""

    def fullmatch(self, data: bytes, /) -> Match | None:
        """Return the match of all of ``data``."""


def compile_bytes(pattern: bytes) -> Pattern:
    """Compile ``pattern`` (RE2 syntax).

    Raises:
        re2.error: it is not a pattern.
    """
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY
    options.log_errors = False
    return cast("Pattern", re2.compile(pattern, options))


@lru_cache(maxsize=1024)
def glob(text: str) -> Pattern:
    """Compile a glob (``*`` any run, ``?`` any character) that ignores letter case, for use with ``fullmatch``.

    Case is ignored because a rule that fails to match would leave values in clear.
    """
    parts = [{"*": ".*", "?": "."}.get(c) or re2.escape(c) for c in text]
    return compile_bytes(("(?is)" + "".join(parts)).encode())
