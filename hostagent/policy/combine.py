"""How verdicts and obligations add up: deny over hold over allow, obligations unite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostagent.model.transfer import strictest
from hostagent.model.verdict import Decision, HoldTerms, MaskColumn, MaskKubernetes, MaskPath, Obligation, Verdict

_STRICTNESS = {Decision.DENY: 0, Decision.HOLD: 1, Decision.ALLOW: 2}
_TRANSFORMS = {"null": 0, "redact": 1, "hash": 2, "partial": 3}


def unite(obligations: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """Return every different obligation once, those with the stricter transform first, in an order of their own."""
    return tuple(sorted(frozenset(obligations), key=_obligation_order))


def _obligation_order(obligation: Obligation) -> tuple[int, str, str]:
    rank = _TRANSFORMS.get(obligation.transform, 0)
    if isinstance(obligation, MaskColumn):
        words = ["column", obligation.database, obligation.schema, obligation.table, obligation.column]
    elif isinstance(obligation, MaskKubernetes):
        words = ["kubernetes", obligation.what]
    elif isinstance(obligation, MaskPath):
        words = ["path", obligation.path]
    else:
        words = ["content", *sorted(obligation.detectors)]
    return rank, obligation.rule, "\0".join(words)


def joint_terms(terms: Sequence[HoldTerms]) -> HoldTerms | None:
    """Return the terms that satisfy all of ``terms``: the shortest wait; None if they name different approvers.

    One ticket is answered by one person, so two groups that must both agree cannot be served.
    """
    if len({each.approvers for each in terms}) != 1:
        return None
    first = min(terms, key=lambda each: each.rule)
    return HoldTerms(first.rule, first.approvers, min(each.timeout for each in terms))


def disagreement(terms: Sequence[HoldTerms]) -> str:
    """Return the sentence for a person when ``joint_terms`` found none."""
    parts = ", ".join(f"{each.rule} ({each.approvers})" for each in sorted(terms, key=lambda each: each.rule))
    return f"several rules hold this for different approvers, which one ticket cannot satisfy: {parts}"


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the one verdict for statements that run together: the strictest decides, everything else adds up.

    Raises:
        ValueError: there is nothing to combine; nothing judged is nothing permitted.
    """
    if not verdicts:
        raise ValueError("no verdict to combine")
    if len(verdicts) == 1:
        return verdicts[0]
    decider = min(verdicts, key=lambda verdict: _STRICTNESS[verdict.decision])
    rules = tuple(dict.fromkeys([*decider.rules, *(rule for verdict in verdicts for rule in verdict.rules)]))
    decision, reason, hint, hold = decider.decision, decider.reason, decider.hint, decider.hold
    if decision is Decision.HOLD:
        terms = [verdict.hold for verdict in verdicts if verdict.hold is not None]
        hold = joint_terms(terms)
        if hold is None:
            decision, reason, hint = Decision.DENY, disagreement(terms), "send the statements one by one"
    return Verdict(
        decision=decision,
        # A denial by default names no rule, so that it cannot be read as the denial of a rule that allowed another part.
        rules=rules if decider.rules else (),
        reason=reason,
        policy=decider.policy,
        obligations=unite(obligation for verdict in verdicts for obligation in verdict.obligations),
        hold=hold,
        hint=hint,
        cacheable=all(verdict.cacheable for verdict in verdicts),
        reads_transfer=any(verdict.reads_transfer for verdict in verdicts),
        limit=strictest([verdict.limit for verdict in verdicts if verdict.limit is not None]),
    )
