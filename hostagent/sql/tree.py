"""The parse tree as the parser hands it over, and how to read names out of it.

libpg_query prints a node as ``{"NodeType": {field: value}}``; a field of one fixed type holds its struct bare. Fields that
are zero, false or empty are left out.
"""

from __future__ import annotations

from typing import Any

Tree = Any  # JSON: dict, list, str, int, float, bool
Fields = dict[str, Any]


def text_of(node: Fields) -> str:
    """Return the text of a ``String`` node."""
    return str(node["String"].get("sval", ""))


def qualified(names: list[Fields]) -> tuple[str | None, str]:
    """Return (schema or None, name) of a list of ``String`` nodes; a database before the schema is dropped."""
    parts = [text_of(part) for part in names]
    return (parts[-2] if len(parts) > 1 else None), parts[-1]
