"""A verified workload identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says. Only ever built by ``hostagent.identity`` after every check passed.

    ``expires_at`` is unix seconds. ``claims`` is the allow-listed subset that policy and records may see;
    the token itself is never kept.
    """

    issuer: str
    subject: str
    expires_at: float
    groups: frozenset[str] = frozenset()
    purpose: str = ""
    token_id: str = ""
    claims: Mapping[str, object] = field(default_factory=dict)
