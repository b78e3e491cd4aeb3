"""The SQL of the live tables (private) and of the views (public), as package data."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

LEDGER_TABLES = ("kernel_flow", "connection", "event")


def sql(name: str) -> str:
    """Return the text of ``name`` (``tables``, ``brief``, ``views`` or ``flows``)."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def views() -> str:
    """Return the public views, the ledger's question written out over everything that was recorded."""
    everything = {name: f"recorded.{name}" for name in LEDGER_TABLES}
    return sql("views").replace("{ledger}", ledger(everything))


def ledger(sources: Mapping[str, str]) -> str:
    """Return the ledger's question over ``sources``: for each of ``LEDGER_TABLES`` a table name or a bracketed query."""
    text = sql("flows")
    for name in LEDGER_TABLES:
        text = text.replace(f"{{{name}}}", sources[name])
    return text
