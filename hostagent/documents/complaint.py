"""Pydantic's complaints as one readable error."""

from __future__ import annotations

import difflib
from typing import Protocol, get_args

from pydantic import BaseModel, ValidationError

from hostagent.documents.source import Path
from hostagent.model.errors import DocumentError


class Lines(Protocol):
    """Knows where things stand in a document."""

    def line(self, path: Path) -> int:
        """Return the line (from 1) of what is at ``path``, or of the nearest thing that contains it."""


def complain(name: str, error: ValidationError, source: Lines | None = None, model: type[BaseModel] | None = None) -> DocumentError:
    """Return one ``DocumentError`` that lists everything pydantic found wrong.

    Lines are named where ``source`` is given, keys that may have been meant where the ``model`` is.
    """
    problems = []
    for item in error.errors():
        path = tuple(item["loc"])
        where = f"{name}:{source.line(path)}" if source else name
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_meant(path, model)}"
        problems.append(f"{where}: {'.'.join(str(part) for part in path) or 'document'}: {message}")
    return DocumentError("; ".join(problems), tuple(problems))


def _meant(path: Path, model: type[BaseModel] | None) -> str:
    for part in path[:-1]:
        if model is not None and isinstance(part, str):
            field = model.model_fields.get(part)
            model = inner_model(field.annotation) if field is not None else None
    if model is None:
        return ""
    return did_you_mean(str(path[-1]), model.model_fields)


def did_you_mean(word: str, known: object) -> str:
    """Return ``; did you mean NAME?`` if one of the names in ``known`` is like ``word``, otherwise nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)  # type: ignore[call-overload]
    return f"; did you mean {found[0]}?" if found else ""


def inner_model(annotation: object) -> type[BaseModel] | None:
    """Return the model that an annotation is, or is made of (``list[Model]``, ``Model | None``)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := inner_model(part))), None)
