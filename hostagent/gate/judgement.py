"""Evaluation and its cache: operations to rulings.

A ruling is kept on its subject for as long as everything it read is the same object: policy, identity and catalogue. One that
read anything else (time, context, parameters), or that holds, is never kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hostagent.gate.context import SessionContext
from hostagent.gate.masking import Obliged
from hostagent.inspectors.judged import Ruling, Subject
from hostagent.inspectors.ports import Parameters
from hostagent.mask import Exposure, scrub
from hostagent.model.catalogue import Catalogue
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision, Obligation, Verdict
from hostagent.policy import combine

_MASKINGS = 32
_EMPTY = Verdict(Decision.ALLOW, (), "nothing to run", "")


class Judgement:
    """Judges for one session."""

    def __init__(self, context: SessionContext) -> None:
        """Read policy, identity and catalogue from ``context`` anew each time."""
        self._context = context
        self._policy: object = None
        self._identity: object = None
        self._catalogue: Catalogue | None = None
        self._maskings: dict[tuple[Obligation, ...], Obliged | None] = {}
        self.database = ""
        self.epoch: object = object()

    def current(self) -> object:
        """Return a mark that changes whenever policy, identity or catalogue did."""
        context = self._context
        if (
            context.policy.current is not self._policy
            or context.identity is not self._identity
            or context.catalogue.current is not self._catalogue
        ):
            self._policy = context.policy.current
            self._identity = context.identity
            self._catalogue = context.catalogue.current
            self._maskings.clear()
            self.epoch = object()
        return self.epoch

    def evaluate(self, operation: Operation) -> Verdict:
        """Return what policy says of one operation now. An evaluator that fails denies."""
        context = self._context
        policy = context.policy.current
        try:
            return policy.evaluate(
                context.identity, context.flow.workload, context.target, operation, context.policy.context
            )
        except Exception as error:  # noqa: BLE001 - DESIGN §6: an evaluator that raises denies, whatever it raised
            reason = f"the policy could not be evaluated ({type(error).__name__})"
            return Verdict(Decision.DENY, (), reason, policy.hash, cacheable=False)

    def rule(self, subject: Subject, parameters: Parameters = ()) -> Ruling:
        """Return the ruling on ``subject`` now."""
        epoch = self.current()
        kept = subject.ruling
        if kept is not None and kept.epoch is epoch:
            return kept
        operations = subject.operations
        judged = operations
        if parameters:
            judged = tuple(replace(operation, parameters=parameters) for operation in operations)
        verdict = combine([self.evaluate(each) for each in judged]) if judged else self._nothing()
        masking, exposed = None, 0
        if verdict.obligations and verdict.decision is not Decision.DENY:
            try:
                masking = self._masking(verdict.obligations)
            except ValueError as error:
                verdict = replace(verdict, decision=Decision.DENY, reason=f"a mask cannot be made: {error}", hold=None)
        if masking is not None:
            verdict, exposed = self._enforceable(subject, verdict, masking)
        lines = tuple(_line(operation, verdict) for operation in operations)
        ruling = Ruling(epoch, subject, operations, verdict, masking, exposed, lines)
        if verdict.cacheable and verdict.decision is not Decision.HOLD:
            subject.ruling = ruling
        return ruling

    def _nothing(self) -> Verdict:
        """An empty text reaches the server as it is; it has no operation to judge."""
        return replace(_EMPTY, policy=self._context.policy.current.hash)

    def _masking(self, obligations: tuple[Obligation, ...]) -> Obliged | None:
        if obligations in self._maskings:
            return self._maskings[obligations]
        if len(self._maskings) >= _MASKINGS:
            self._maskings.clear()
        made = Obliged.of(obligations, self._catalogue, self.database, self._context.digest_key)
        self._maskings[obligations] = made
        return made

    @staticmethod
    def _enforceable(subject: Subject, verdict: Verdict, masking: Obliged) -> tuple[Verdict, int]:
        """Deny what the obligations cannot be enforced on; say how far the statements can show masked data."""
        exposed = 0 if subject.statements else int(Exposure.MASKED)
        refusal = masking.unenforceable(subject.operations[0].protocol) if subject.operations else None
        for statement in subject.statements:
            refusal = refusal or masking.refuses(statement)
            if refusal:
                break
            exposed = max(exposed, masking.exposed(statement))
        if refusal:
            rules = tuple(dict.fromkeys(each.rule for each in verdict.obligations))
            denial = replace(verdict, decision=Decision.DENY, rules=rules + verdict.rules, reason=refusal, hold=None)
            return denial, int(Exposure.MASKED)
        return verdict, exposed


def _line(operation: Operation, verdict: Verdict) -> Mapping[str, object]:
    """Return the fields of a ``statement`` event that are the same for every run of ``operation`` under ``verdict``."""
    return {
        "verb": operation.verb,
        "effects": sorted(operation.judged_effects),
        "resources": [
            {"kind": each.kind, "name": scrub(each.name), "access": each.access.value} for each in operation.resources
        ],
        "completeness": operation.completeness.value,
        "text": scrub(operation.redacted),  # names in quotes can hold anything
        # A hash; or words that can hold anything.
        "fingerprint": operation.fingerprint if operation.fingerprint.isalnum() else scrub(operation.fingerprint),
        "decision": verdict.decision.value,
        "rules": list(verdict.rules),
        "reason": verdict.reason,
        "policy": verdict.policy,
        "masks": sorted({obligation.rule for obligation in verdict.obligations}),
    }
