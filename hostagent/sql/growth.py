"""How much larger than its text a parse tree may be.

The grammar gives every name in ``(a, b, …) = source`` the whole source, and the tree is printed with a copy for each (gram.y,
``set_clause``); inside one another the copies multiply. 500 bytes so written make gigabytes. Nothing else in the grammar does that.
"""

from __future__ import annotations

from typing import Final

from hostagent.sql.lexer import Kind, tokens

MOST: Final = 1 << 40
"""Beyond this nobody counts."""


def grown(text: str) -> int:
    """Return about how many bytes of text would make a tree of the same size: no fewer than ``text`` has, at most ``MOST``."""
    size = len(text)
    if "," not in text or "=" not in text or "update" not in text.lower():
        return size
    return min(MOST, size * _copies(text))


def _copies(text: str) -> int:
    """Return how often the innermost source is copied. ``lists`` are those whose source may go on, with their depth."""
    before = ""
    opened: list[tuple[bool, int]] = []
    lists: list[tuple[int, int]] = []
    closed = 0
    most = 1
    for token in tokens(text):
        word = token.text.lower() if token.kind in (Kind.WORD, Kind.SYMBOL) else ""
        if closed and word == "=":
            lists.append((len(opened), closed * (lists[-1][1] if lists else 1)))
            most = max(most, lists[-1][1])
            if most > MOST:
                return MOST
        closed = 0
        if word in ("(", "["):
            opened.append((word == "(" and before in ("set", ","), 1))
        elif word in (")", "]") and opened:
            begins, names = opened.pop()
            closed = names if begins else 0
        elif word == "," and opened:
            opened[-1] = (opened[-1][0], opened[-1][1] + 1)
        while lists and (len(opened) < lists[-1][0] or (len(opened) == lists[-1][0] and word in (",", ";"))):
            lists.pop()
        before = word
    return most
