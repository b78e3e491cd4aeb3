"""Pydantic's complaints as one readable error."""

from __future__ import annotations

from pydantic import ValidationError

from hostagent.documents.source import Source
from hostagent.model.errors import DocumentError


def complain(name: str, error: ValidationError, source: Source | None = None) -> DocumentError:
    """Return one ``DocumentError`` that lists everything pydantic found wrong, with lines where ``source`` is given."""
    problems = []
    for item in error.errors():
        path = tuple(item["loc"])
        where = f"{name}:{source.line(path)}" if source else name
        problems.append(f"{where}: {'.'.join(str(part) for part in path) or 'document'}: {item['msg']}")
    return DocumentError("; ".join(problems))
