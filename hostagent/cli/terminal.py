"""What recorded text looks like on a terminal: never a control sequence that a workload chose, colours only on a tty."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MAX_CELL = 120


def printable(value: object) -> str:
    """Return ``value`` as text on one line; control, format and bidirectional characters as backslash escapes."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in _HIDDEN else char for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def coloured(text: str, code: str) -> str:
    """Return ``text`` in an SGR colour (``"31"`` red …) when standard output is a terminal, else as it is."""
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() else text


def cell(value: object) -> str:
    """Return a table cell: lists joined by commas, objects as JSON, cut at 120 characters."""
    import json

    if isinstance(value, list):
        text = ", ".join(cell(item) for item in value)
    elif isinstance(value, dict):
        text = printable(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = printable(value)
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table with a header line and a line count; numbers stand right."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[place]) for row in cells)]) for place, name in enumerate(columns)]
    right = [
        bool(rows)
        and all(isinstance(row[place], (int, float, type(None))) and not isinstance(row[place], bool) for row in rows)
        for place in range(len(columns))
    ]

    def line(values: Sequence[str]) -> str:
        parts = [
            value.rjust(width) if end else value.ljust(width)
            for value, width, end in zip(values, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    count = f"({len(rows)} row{'' if len(rows) == 1 else 's'})"
    return "\n".join(
        [
            line([printable(name) for name in columns]),
            "  ".join("-" * width for width in widths),
            *map(line, cells),
            count,
        ]
    )
