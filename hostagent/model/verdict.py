"""A verdict: what policy answers, and the obligations that come with it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hostagent.model.transfer import TransferLimit


class Decision(enum.StrEnum):
    """Ordered by strictness: DENY over HOLD over ALLOW."""

    ALLOW = "allow"
    HOLD = "hold"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class MaskColumn:
    """Replace the values of matching columns. Names are globs; ``database`` and ``schema`` default to any.

    ``transform`` is one of ``hostagent.mask.transform``: redact, null, partial, hash.
    """

    rule: str
    table: str
    column: str
    schema: str = "*"
    database: str = "*"
    transform: str = "redact"


@dataclass(frozen=True, slots=True)
class MaskContent:
    """Replace every match of the named detectors, wherever it occurs in text."""

    rule: str
    detectors: frozenset[str]
    transform: str = "redact"


@dataclass(frozen=True, slots=True)
class MaskPath:
    """Replace what stands at ``path`` (``hostagent.wire.jsonpath``) in every JSON document that comes back."""

    rule: str
    path: str
    transform: str = "redact"


@dataclass(frozen=True, slots=True)
class MaskKubernetes:
    """Replace what objects of a Kubernetes API hold, in every form in which they come back. ``what``: secrets, configmaps."""

    rule: str
    what: str
    transform: str = "redact"


Obligation = MaskColumn | MaskContent | MaskPath | MaskKubernetes


@dataclass(frozen=True, slots=True)
class HoldTerms:
    """Who may release a held operation and for how long it waits (seconds)."""

    rule: str
    approvers: str  # a unix group
    timeout: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What policy says of one operation.

    ``rules`` names every rule that matched, the deciding one first; empty means the default (deny) decided.
    ``policy`` is the hash of the rule set. ``cacheable`` is False when the answer read time, context, parameters or
    anything else that is not fixed for (identity, workload, target, operation without parameters).
    ``hint`` tells the person what to do next. ``reads_content``: a rule looks at what the operation carries, which was not known.
    ``reads_transfer``: a rule looks at files that are moved. ``limit`` cuts a transfer whose size nobody declared.
    """

    decision: Decision
    rules: tuple[str, ...]
    reason: str
    policy: str
    obligations: tuple[Obligation, ...] = ()
    hold: HoldTerms | None = None
    hint: str = ""
    cacheable: bool = True
    reads_content: bool = False
    reads_transfer: bool = False
    limit: TransferLimit | None = None
