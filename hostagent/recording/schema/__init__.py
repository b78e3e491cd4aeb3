"""The SQL of the live tables (private) and of the views (public), as package data."""

from __future__ import annotations

from importlib import resources


def sql(name: str) -> str:
    """Return the text of ``name`` (``tables`` or ``views``)."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
