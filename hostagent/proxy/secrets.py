"""The targets' secrets as the proxy holds them: in memory alone, and changed while sessions live.

A login takes the secret that is here when it begins; a session that is logged in never asks again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Secrets(Mapping[str, str]):
    """Secrets by target name. A target whose secret cannot be had has a problem instead, and no login is tried."""

    __slots__ = ("_problems", "_values")

    def __init__(self, values: Mapping[str, str], problems: Mapping[str, str] | None = None) -> None:
        """``problems``: why a target's secret cannot be had, by target name."""
        self._values = dict(values)
        self._problems = dict(problems or {})

    def __getitem__(self, target: str) -> str:
        """Return the secret of ``target``."""
        return self._values[target]

    def __iter__(self) -> Iterator[str]:
        """Return the names of targets with a secret."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return how many targets have one."""
        return len(self._values)

    def __repr__(self) -> str:
        """Return the names alone: an object that is logged tells nothing."""
        return f"Secrets({sorted(self._values)})"

    @property
    def problems(self) -> dict[str, str]:
        """Why a target cannot be used, by target name."""
        return dict(self._problems)

    def problem(self, target: str) -> str:
        """Return why ``target`` cannot be used, empty if it can."""
        return self._problems.get(target, "")

    def take(self, target: str, value: str) -> bool:
        """Use ``value`` for every login of ``target`` from now on; return whether it is another than before."""
        changed = self._values.get(target) != value or target in self._problems
        self._values[target] = value
        self._problems.pop(target, None)
        return changed
