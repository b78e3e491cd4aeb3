"""The people, places and statements of the policy tests."""

from __future__ import annotations

from hostagent.model.identity import Identity
from hostagent.model.operation import Access, Completeness, Effect, Operation, Resource
from hostagent.model.target import Login, Target
from hostagent.model.verdict import Verdict
from hostagent.policy import Policy, PolicyContext, load

NOON = 1_772_625_600.0  # Wednesday 2026-03-04 12:00 UTC

BOT = Identity(
    "https://issuer.example",
    "system:bot",
    NOON + 3600,
    frozenset({"support", "tier-1"}),
    "answer tickets",
    "token-1",
    {"tenant": "acme", "level": 3, "roles": ["a", "b"], "ok": True},
)
CRM = Target("crm-db", "postgres", ("10.0.0.1",), 5432, Login("proxy"), labels={"env": "demo", "tier": "gold"})


def policy(rules: str, *, context: str = "") -> Policy:
    """Return the policy of ``rules``, a YAML block list; empty: no rules."""
    return load({"test.yaml": f"version: 1\ncontext: {context or '[]'}\nrules:\n{rules or ' []'}"})


def operation(
    *effects: Effect,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
    verb: str = "select",
    completeness: Completeness = Completeness.FULL,
    parameters: tuple[str | bytes | None, ...] = (),
    functions: tuple[str, ...] = (),
    attributes: dict[str, str] | None = None,
) -> Operation:
    """Return an operation that touches relations and functions."""
    resources = [Resource("relation", name, Access.READ) for name in reads]
    resources += [Resource("relation", name, Access.WRITE) for name in writes]
    resources += [Resource("function", name) for name in functions]
    return Operation(
        "postgres",
        verb,
        frozenset(effects),
        tuple(resources),
        completeness,
        parameters=parameters,
        attributes={"database": "crm", "user": "app"} if attributes is None else attributes,
    )


def judge(rules: Policy | str, what: Operation, context: PolicyContext | None = None, who: Identity = BOT) -> Verdict:
    """Return the verdict on support-bot doing ``what`` at the CRM."""
    judged_by = policy(rules) if isinstance(rules, str) else rules
    return judged_by.evaluate(who, "support-bot", CRM, what, context or PolicyContext(NOON))
