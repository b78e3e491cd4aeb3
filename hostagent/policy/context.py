"""The world outside a statement, as values: what time it is and what the context providers last said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ContextValue:
    """One context attribute: its value, and the wall-clock time (unix seconds) at which that was known to be true."""

    value: str | float
    at: float


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """``now`` is wall-clock time in unix seconds; ``values`` are the context attributes by name."""

    now: float
    values: Mapping[str, ContextValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContextProvider:
    """Where context attributes come from, as a policy document declares it.

    Exactly one of ``file`` (absolute path of a JSON or YAML mapping) and ``url`` (http on this host's loopback, a JSON
    object) is set. ``max_age`` in seconds: an older value counts as missing; ``None`` (files only) means that a file
    is true for as long as it can be read.
    """

    attributes: tuple[str, ...]
    file: str = ""
    url: str = ""
    max_age: float | None = None


def as_text(value: str | float) -> str:
    """Return how a context value or claim is compared: ``true``/``false`` for booleans, shortest form for numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def known(context: PolicyContext, attribute: str, max_age: float | None) -> str | None:
    """Return the text of ``attribute``, or None when it is missing or was learnt more than ``max_age`` seconds ago.

    A value from more than ``max_age`` in the future is as doubtful as an old one: the clock was turned back.
    """
    found = context.values.get(attribute)
    if found is None or (max_age is not None and abs(context.now - found.at) > max_age):
        return None
    return as_text(found.value)
