"""JSON's escapes undone (RFC 8259 §7), so that detectors see what a reader will see, and where in the escaped text that stood."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

DEEPEST: Final = 6
"""JSON inside a JSON string inside a JSON string …: nobody unpacks more."""

_ESCAPE = re.compile(rb'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_CHANGING = re.compile(rb"\\[u/]|\x01")
_LETTERS: Final = {b'"': b'"', b"\\": b"\\", b"/": b"/"} | dict.fromkeys((b"b", b"f", b"n", b"r", b"t"), b"\n")
_BLANK: Final = b"\x01\x01"


class Places:
    """Where the bytes of an unescaped text stood in the escaped one."""

    def __init__(self) -> None:
        """Everything where it was: nothing changed its length."""
        self._plain: list[tuple[int, int]] = []
        self._raw: list[tuple[int, int]] = []
        self._ends: list[int] = []

    def note(self, plain: tuple[int, int], raw: tuple[int, int]) -> None:
        """One escape: where what it stands for is, and where it was."""
        self._plain.append(plain)
        self._raw.append(raw)
        self._ends.append(plain[1])

    def raw(self, start: int, end: int) -> tuple[int, int]:
        """Return what ``start`` to ``end`` of the unescaped text is in the escaped one; never a part of an escape."""
        return self._of(start, 0), self._of(end, 1)

    def _of(self, at: int, side: int) -> int:
        index = bisect_right(self._ends, at)
        if index < len(self._plain) and self._plain[index][0] < at:
            return self._raw[index][side]
        return at if not index else self._raw[index - 1][1] + at - self._ends[index - 1]


def unescaped(text: bytes) -> tuple[bytes, Places]:
    """Return ``text`` (JSON, or anything) without escapes; each control character is a line feed, an escaped NUL is not one.

    Escapes of fixed meaning that no value is made of keep their length: text without ``\\u`` and ``\\/`` takes no Python per escape.
    """
    places = Places()
    if b"\\" not in text:
        return text, places
    if _CHANGING.search(text) is None:
        plain = text.replace(b"\\\\", _BLANK).replace(b'\\"', b'""')
        for letter in (b"n", b"r", b"t", b"b", b"f"):
            plain = plain.replace(b"\\" + letter, b"\n\n")
        return plain.replace(_BLANK, b"\\\\"), places
    parts: list[bytes] = []
    at = size = 0
    for escape in _ESCAPE.finditer(text):
        start, end = escape.span()
        stands_for = _meaning(escape)
        size += start - at
        places.note((size, size + len(stands_for)), (start, end))
        parts += (text[at:start], stands_for)
        size += len(stands_for)
        at = end
    parts.append(text[at:])
    return b"".join(parts), places


def _meaning(escape: re.Match[bytes]) -> bytes:
    code, letter = escape.groups()
    return _LETTERS[letter] if code is None else chr(int(code, 16) or 1).encode("utf-8", "surrogatepass")


def deeper(text: bytes) -> Iterator[bytes]:
    """Yield ``text`` unescaped once, twice, and so on as long as that changes it and ``DEEPEST`` allows."""
    for _ in range(DEEPEST):
        inner = _ESCAPE.sub(_meaning, text)
        if inner == text:
            return
        yield inner
        text = inner


def quotes_only(text: bytes) -> bytes:
    """Return ``text``, as long as it is, in which every quote that is left begins or ends a JSON string."""
    return text.replace(b"\\\\", _BLANK).replace(b'\\"', _BLANK) if b"\\" in text else text
