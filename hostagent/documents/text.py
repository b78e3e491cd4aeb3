"""YAML text to plain values, strictly, and pydantic's complaints to one readable error."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml
from pydantic import ValidationError

from hostagent.model.errors import DocumentError


class _StrictLoader(yaml.CSafeLoader):
    """A safe loader that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping; a repeated key is an error at its line."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(name: str, text: str) -> dict[str, Any]:
    """Return the single mapping that ``text`` holds.

    Raises:
        DocumentError: not YAML, not exactly one mapping, or a key given twice; ``name`` and the line are in the message.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError as error:
        raise DocumentError(f"{name}: {_one_line(str(error))}") from error
    if not isinstance(value, dict):
        raise DocumentError(f"{name}: expected a mapping of keys to values")
    return value


def complain(name: str, error: ValidationError) -> DocumentError:
    """Return one ``DocumentError`` that lists everything pydantic found wrong in document ``name``."""
    problems = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'document'}: {item['msg']}" for item in error.errors()
    )
    return DocumentError(f"{name}: {problems}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
