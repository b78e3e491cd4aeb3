"""The targets' secrets as the proxy holds them: in memory alone, and changed while sessions live.

A login takes the secret that is here when it begins; a session that is logged in never asks again.
"""

from __future__ import annotations

from collections.abc import Mapping


class Secrets(dict[str, str]):
    """Secrets by target name. A target whose secret cannot be had has a problem instead, and no login is tried."""

    def __init__(self, values: Mapping[str, str] | None = None, problems: Mapping[str, str] | None = None) -> None:
        """``problems``: why a target's secret cannot be had, by target name."""
        super().__init__(values or {})
        self.problems = dict(problems or {})

    def __repr__(self) -> str:
        """Return the names alone: an object that is logged tells nothing."""
        return f"Secrets({sorted(self)})"
