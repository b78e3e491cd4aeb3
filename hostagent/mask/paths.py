"""Places in JSON documents: what stands there is replaced, whatever it is, and the rest of the document stays as it was understood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hostagent.mask.content import Counts
from hostagent.mask.document import is_json, is_lines
from hostagent.mask.transform import MASKED, Transform, chosen, column_transform
from hostagent.mask.types import Kind
from hostagent.model.verdict import MaskPath
from hostagent.wire.jsonpath import Path, parse_path, replace
from hostagent.wire.jsontext import JSON, Number, build, parse

PROTOCOLS: Final = frozenset({"http", "kubernetes"})
"""The protocols whose results are JSON documents as a whole."""

class PathMask:
    """The path rules of one set of obligations. Where two name the same place, the stricter comes first and stays."""

    __slots__ = ("_key", "_paths")

    def __init__(self, rules: Sequence[MaskPath], key: bytes) -> None:
        """Read the paths.

        Raises:
            ValueError: a path or transform is none, so the obligation could not be met.
        """
        self._key = key
        self._paths: list[tuple[Path, Transform]] = [(parse_path(rule.path), chosen(rule.transform)) for rule in rules]

    @staticmethod
    def maskable(media_type: str) -> bool:
        """Return whether places can be found in a body of that type."""
        return is_json(media_type) or is_lines(media_type)

    def document(self, media_type: str, body: bytes, counts: Counts) -> bytes | None:
        """Return ``body`` with every place replaced; None when it is not JSON to every reader, and so must not pass."""
        try:
            if is_lines(media_type):
                return b"\n".join(self._masked(line, counts) if line.strip() else line for line in body.split(b"\n"))
            return self._masked(body, counts)
        except ValueError:
            return None

    def _masked(self, body: bytes, counts: Counts) -> bytes:
        value = parse(body)
        done: dict[int, JSON] = {}  # by identity: what stands there now is ours, and is not replaced again
        for path, transform in self._paths:

            def change(found: JSON, transform: Transform = transform) -> JSON:
                if found is None or done.get(id(found)) is found:
                    return found
                counts.masked += 1
                stand_in = stand_in_for(found, transform, self._key)
                done[id(stand_in)] = stand_in
                return stand_in

            value = replace(path, value, change)
        return build(value)


def stand_in_for(value: JSON, transform: Transform, key: bytes) -> JSON:
    """Return a value of the same type; null where there is none that says nothing."""
    if transform == "null":
        return None
    match value:
        case str():
            put, _ = column_transform(transform, Kind.TEXT, 0, key)
            found = put(value.encode()) if put is not None else MASKED
            # A string of its own, which no other place can hold.
            return "".join(("", (found or MASKED).decode()))
        case Number(literal):
            put, _ = column_transform(transform, Kind.NUMERIC, 0, key)
            found = put(literal.encode()) if put is not None else b"0"
            return Number((found or b"0").decode())
        case dict():
            return {}
        case list():
            return []
        case _:
            return None
