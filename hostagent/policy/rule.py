"""A rule, compiled: which operations it matches, and what follows."""

from __future__ import annotations

from dataclasses import dataclass

from hostagent.model.operation import Effect
from hostagent.model.verdict import Obligation
from hostagent.policy.check import Check, Subject
from hostagent.policy.document import Action


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    ``session_checks`` are about identity, workload and target; ``checks`` about the operation, those that are volatile
    (time, context, bind values) last. ``effects`` None means any. ``origin`` is ``document:line``. ``moves``: it is about file transfers,
    and not beyond ``max_size``, or only beyond ``size_over``.
    """

    id: str
    action: Action
    origin: str
    effects: frozenset[Effect] | None
    session_checks: tuple[Check, ...]
    checks: tuple[Check, ...]
    obligations: tuple[Obligation, ...] = ()
    approvers: str = ""
    timeout: float = 0.0
    reason: str = ""
    hint: str = ""
    moves: bool = False
    max_size: int | None = None
    size_over: int | None = None

    @property
    def reads_content(self) -> bool:
        """Whether one of its conditions is about what the operation carries."""
        return any(check.content for check in self.checks)

    def looks_into(self, subject: Subject, judged: frozenset[Effect]) -> bool:
        """Return whether what the operation carries may decide if the rule applies, given that ``concerns`` said yes."""
        if self.effects is not None and judged.isdisjoint(self.effects):
            return False
        return all(check.content or check.passes(subject, strict=False) for check in self.checks)

    @property
    def permits(self) -> bool:
        """Whether the rule is asked strictly: it permits, so whatever cannot be told speaks against it."""
        return self.action is Action.ALLOW

    def concerns(self, subject: Subject) -> bool:
        """Return whether identity, workload and target are this rule's: no operation is looked at."""
        return all(check.passes(subject, strict=self.permits) for check in self.session_checks)

    def applies(self, subject: Subject, judged: frozenset[Effect], *, strict: bool) -> Match:
        """Return whether the operation is this rule's, given that ``concerns`` said yes.

        Args:
            subject: what is judged.
            judged: the effects that count.
            strict: everything must be covered, and known (a rule that permits), or anything suffices.
        """
        effects = self.effects
        if effects is not None and (not judged <= effects if strict else judged.isdisjoint(effects)):
            return _NO
        volatile = False
        for check in self.checks:
            volatile = volatile or check.volatile
            if not check.passes(subject, strict=strict):
                return _NO_VOLATILE if volatile else _NO
        return _YES_VOLATILE if volatile else _YES


@dataclass(frozen=True, slots=True)
class Match:
    """Whether a rule matched, and whether finding out read anything that changes (time, context, bind values)."""

    matched: bool
    volatile: bool


_NO, _NO_VOLATILE, _YES, _YES_VOLATILE = (
    Match(False, False),
    Match(False, True),
    Match(True, False),
    Match(True, True),
)
