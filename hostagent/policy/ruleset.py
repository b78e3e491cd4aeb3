"""The rule set: all documents of a folder as one, and the judgement by it.

Theory of operation. Every matching rule applies, whatever its place: deny over hold over allow; the obligations of all matching
rules unite; nothing that allows means deny. An allow rule matches only what it covers *wholly* (every effect, every object);
two allow rules that cover an operation only together do not allow it. A hold stands for an allow of the effects it names: the
operation waits if what remains of its effects is covered by a rule that allows, and is denied otherwise, so that no hold opens
a door that no rule mentions. Which rules concern an identity, workload and target is found once per such triple and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from hostagent.model.identity import Identity
from hostagent.model.operation import Completeness, Effect, Operation
from hostagent.model.target import Target
from hostagent.model.verdict import Decision, HoldTerms, Obligation, Verdict
from hostagent.policy.check import Subject
from hostagent.policy.combine import disagreement, joint_terms, unite
from hostagent.policy.context import ContextProvider, PolicyContext
from hostagent.policy.document import Action
from hostagent.policy.kubernetes import may_show
from hostagent.policy.rule import Rule
from hostagent.policy.transfers import limit_of

_REMEMBERED = 1024
"""How many (identity, workload, target) triples are kept; all are forgotten when there are more."""


_ANY = Operation("", "", frozenset())
_NOW = PolicyContext(0.0)
"""What stands for operation and context where only identity, workload and target are looked at."""


class Candidates(NamedTuple):
    """The rules that concern one identity, workload and target. ``Policy`` keeps the three alive, so ids stay theirs.

    ``looking`` are those that look at what an operation carries. ``moving``: some look at file transfers.
    """

    identity: Identity
    target: Target
    allow: tuple[Rule, ...]
    hold: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    mask: tuple[Rule, ...]
    looking: tuple[Rule, ...]
    moving: bool


class Finding(NamedTuple):
    """What ``Policy.explain`` says of one rule. ``why_not`` is empty if it matched."""

    rule: str
    action: str
    origin: str
    matched: bool
    why_not: str


class _Matches:
    """Matching rules of one operation, and whether finding them read anything that changes."""

    __slots__ = ("judged", "subject", "volatile")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.judged = subject.operation.judged_effects
        self.volatile = False

    def among(self, rules: Iterable[Rule], *, strict: bool, judged: frozenset[Effect] | None = None) -> list[Rule]:
        effects = self.judged if judged is None else judged
        found: list[Rule] = []
        for rule in rules:
            match = rule.applies(self.subject, effects, strict=strict)
            if match.volatile:
                self.volatile = True
            if match.matched:
                found.append(rule)
        return found


class Policy:
    """An immutable rule set. ``hash`` (hex SHA-256) is the same for the same rules in any order and spread over any files."""

    def __init__(self, rules: Sequence[Rule], providers: Sequence[ContextProvider], digest: str) -> None:
        """Take compiled rules; use ``hostagent.policy.load`` to get a policy from documents."""
        self.rules: tuple[Rule, ...] = tuple(sorted(rules, key=lambda rule: rule.id))
        self.providers: tuple[ContextProvider, ...] = tuple(providers)
        self.hash = digest
        self._candidates: dict[tuple[int, str, int], Candidates] = {}

    def evaluate(
        self, identity: Identity, workload: str, target: Target, operation: Operation, context: PolicyContext
    ) -> Verdict:
        """Return the verdict on ``operation``.

        Args:
            identity: the verified identity of the workload.
            workload: the workload's name.
            target: where the operation would go.
            operation: what it would do; ``attributes`` hold ``database`` and ``user`` where rules ask for them.
            context: the time and the context attributes.
        """
        subject = Subject(identity, workload, target, operation, context)
        chosen = self._concerned(subject)
        matches = _Matches(subject)
        verdict = self._evaluate(chosen, matches)
        if chosen.looking and operation.content is None and any(rule.looks_into(subject, matches.judged) for rule in chosen.looking):
            verdict = replace(verdict, reads_content=True)
        return replace(verdict, reads_transfer=True) if chosen.moving else verdict

    def _evaluate(self, chosen: Candidates, matches: _Matches) -> Verdict:
        masks = matches.among(chosen.mask, strict=False)
        denies = matches.among(chosen.deny, strict=False)
        holds = matches.among(chosen.hold, strict=False)
        allows = matches.among(chosen.allow, strict=True)
        cutting = denies if chosen.moving and limit_of(matches.subject, denies, ()) is not None else []
        if cutting:  # they do not deny, but cut
            denies = [rule for rule in denies if rule.size_over is None]
        if denies:
            return self._verdict(matches, Decision.DENY, denies, [*holds, *allows, *masks])
        if holds:
            return self._held(matches, chosen, holds, cutting, [*allows, *masks])
        if allows:
            return self._limited(self._verdict(matches, Decision.ALLOW, allows, masks), matches, cutting, allows)
        return self._default(matches, masks)

    @staticmethod
    def _limited(verdict: Verdict, matches: _Matches, cutting: list[Rule], allows: list[Rule]) -> Verdict:
        limit = limit_of(matches.subject, cutting, allows)
        return verdict if limit is None else replace(verdict, limit=limit)

    def could_allow(self, identity: Identity, workload: str, target: Target) -> bool:
        """Return whether any operation of this workload at ``target`` could ever be allowed, or held for somebody to allow.

        Only who and where are looked at, so that True promises nothing; False means that every operation is denied.
        """
        chosen = self._concerned(Subject(identity, workload, target, _ANY, _NOW))
        if any(rule.effects is None and not rule.checks for rule in chosen.deny):
            return False
        return bool(chosen.allow or chosen.hold)

    def explain(
        self, identity: Identity, workload: str, target: Target, operation: Operation, context: PolicyContext
    ) -> tuple[Finding, ...]:
        """Return for every rule, in the order of their ids, whether it matches ``operation`` and if not, why."""
        subject = Subject(identity, workload, target, operation, context)
        findings: list[Finding] = []
        for rule in self.rules:
            why = _why_not(rule, subject) or _only_cuts(rule, subject)
            findings.append(Finding(rule.id, rule.action.value, rule.origin, not why, why))
        return tuple(findings)

    def _concerned(self, subject: Subject) -> Candidates:
        key = (id(subject.identity), subject.workload, id(subject.target))
        found = self._candidates.get(key)
        if found is None or found.identity is not subject.identity or found.target is not subject.target:
            if len(self._candidates) >= _REMEMBERED:
                self._candidates.clear()
            found = self._candidates[key] = self._choose(subject)
        return found

    def _choose(self, subject: Subject) -> Candidates:
        concerned = [rule for rule in self.rules if rule.concerns(subject)]

        def of(action: Action) -> tuple[Rule, ...]:
            return tuple(rule for rule in concerned if rule.action is action)

        return Candidates(
            subject.identity,
            subject.target,
            of(Action.ALLOW),
            of(Action.HOLD),
            of(Action.DENY),
            of(Action.MASK),
            tuple(rule for rule in concerned if rule.reads_content),
            any(rule.moves for rule in concerned),
        )

    def _held(
        self, matches: _Matches, chosen: Candidates, holds: list[Rule], cutting: list[Rule], others: list[Rule]
    ) -> Verdict:
        # A hold that matched only because something cannot be told, or by one object of several, vouches for nothing.
        sure = [r for r in holds if r.applies(matches.subject, r.effects or matches.judged, strict=True).matched]
        named: frozenset[Effect] = frozenset().union(
            *(matches.judged if r.effects is None else r.effects for r in sure)
        )
        rest = matches.judged - named
        permitting = matches.among(chosen.allow, strict=True, judged=rest) if rest else []
        if rest and not permitting:
            return self._default(matches, [r for r in others if r.action is Action.MASK], rest, holds)
        terms = [HoldTerms(rule.id, rule.approvers, rule.timeout) for rule in holds]
        if joint_terms(terms) is None:
            denied = self._verdict(matches, Decision.DENY, holds, others)
            return _replaced(denied, disagreement(terms), "ask for rules whose approvers agree")
        return self._limited(self._verdict(matches, Decision.HOLD, holds, others), matches, cutting, permitting)

    def _verdict(self, matches: _Matches, decision: Decision, deciding: list[Rule], others: list[Rule]) -> Verdict:
        decider = deciding[0]
        hold = None
        if decision is Decision.HOLD:
            hold = joint_terms([HoldTerms(rule.id, rule.approvers, rule.timeout) for rule in deciding])
        return Verdict(
            decision=decision,
            rules=tuple([rule.id for rule in deciding] + [rule.id for rule in others]),
            reason=(decider.reason or _REASONS[decision](decider)) + _doubt(matches.subject.operation),
            policy=self.hash,
            obligations=_obligations(matches, (*deciding, *others)),
            hold=hold,
            hint=decider.hint or _HINTS[decision](decider),
            cacheable=decision is not Decision.HOLD and not matches.volatile,
        )

    def _default(
        self,
        matches: _Matches,
        masks: list[Rule],
        missing: frozenset[Effect] | None = None,
        holds: Sequence[Rule] = (),
    ) -> Verdict:
        reason = _nothing_allows(matches.subject, missing or matches.judged)
        if holds:
            reason += f" (rule {holds[0].id} would hold it, but does not cover all that it does)"
        return Verdict(
            decision=Decision.DENY,
            rules=(),
            reason=reason,
            policy=self.hash,
            obligations=_obligations(matches, masks),
            hint=_suggestion(matches.subject, matches.judged),
            cacheable=not matches.volatile,
        )


_REASONS: dict[Decision, Callable[[Rule], str]] = {
    Decision.DENY: lambda rule: f"rule {rule.id} denies {_effects(rule.effects)}",
    Decision.HOLD: lambda rule: f"rule {rule.id} holds {_effects(rule.effects)} for a human",
    Decision.ALLOW: lambda rule: f"rule {rule.id} allows it",
}
_HINTS: dict[Decision, Callable[[Rule], str]] = {
    Decision.DENY: lambda rule: f"change the statement, or ask whoever keeps the policy about rule {rule.id}",
    Decision.HOLD: lambda rule: f"a member of {rule.approvers} decides: hostagent approvals list",
    Decision.ALLOW: lambda _: "",
}


def _obligations(matches: _Matches, rules: Iterable[Rule]) -> tuple[Obligation, ...]:
    """Return what ``rules`` together oblige to, without what the operation cannot show."""
    return unite(each for rule in rules for each in rule.obligations if may_show(each, matches.subject.operation))


def _replaced(verdict: Verdict, reason: str, hint: str) -> Verdict:
    return Verdict(
        verdict.decision,
        verdict.rules,
        reason,
        verdict.policy,
        verdict.obligations,
        None,
        hint,
        verdict.cacheable,
    )


def _doubt(operation: Operation) -> str:
    if operation.completeness is Completeness.FULL:
        return ""
    return " (the statement is not fully understood, so it counts as every effect)"


def _effects(effects: frozenset[Effect] | None) -> str:
    if effects is None or len(effects) == len(Effect):
        return "everything"
    return ", ".join(sorted(effects))


def _nothing_allows(subject: Subject, effects: frozenset[Effect]) -> str:
    operation = subject.operation
    if operation.completeness is not Completeness.FULL:
        return f"no rule allows what is not fully understood at {subject.target.name}; it counts as every effect"
    names = sorted({r.name for r in operation.resources if r.kind == "relation"})
    objects = f" on {', '.join(names[:5])}{' ...' if names[5:] else ''}" if names else ""
    return f"no rule allows {_effects(effects)}{objects} at {subject.target.name}"


def _suggestion(subject: Subject, effects: frozenset[Effect]) -> str:
    if subject.operation.completeness is not Completeness.FULL:
        return "write the statement in a simpler form, or ask for the operation itself to be allowed"
    return (
        f"ask for a rule like: {{id: ..., who: {{workload: {subject.workload}}}, where: {{target: {subject.target.name}}}, "
        f"what: {{effects: [{', '.join(sorted(effects))}]}}, then: allow}}"
    )


def _only_cuts(rule: Rule, subject: Subject) -> str:
    if rule.action is not Action.DENY or limit_of(subject, [rule], ()) is None:
        return ""
    return f"nobody declared the size: it is cut at what.transfer.size_over, {rule.size_over} bytes"


def _why_not(rule: Rule, subject: Subject) -> str:
    judged = subject.operation.judged_effects
    for check in rule.session_checks:
        if not check.passes(subject, strict=rule.permits):
            return f"{check.label} is not {check.wants}"
    if rule.effects is not None:
        if rule.permits and not judged <= rule.effects:
            return f"what.effects does not cover {_effects(judged - rule.effects)}"
        if not rule.permits and judged.isdisjoint(rule.effects):
            return f"what.effects names none of {_effects(judged)}"
    for check in rule.checks:
        if not check.passes(subject, strict=rule.permits):
            told = check.test(subject, rule.permits)
            return f"{check.label} {'cannot be told' if told is None else 'is not'}: {check.wants}"
    return ""
