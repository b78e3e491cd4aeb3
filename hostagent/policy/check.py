"""Checks: one condition of one rule each, compiled from the document.

A check answers True, False, or None for *cannot tell*. ``strict`` says for which kind of rule it is asked: a rule that permits
(allow) is asked strictly and needs True of every check; a rule that forbids, holds or masks is asked leniently and applies
unless a check says False. A new condition is one function here, its part of the schema, its rows in ``tests/policy`` and one
row in ``policy/README.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import NamedTuple

from hostagent.model.identity import Identity
from hostagent.model.operation import Completeness, Operation, Resource
from hostagent.model.target import Target
from hostagent.policy.context import PolicyContext, as_text, known
from hostagent.policy.document import ObjectPattern, What, When, Where, Who
from hostagent.policy.expression import Expression
from hostagent.policy.glob import matcher, name_pattern

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Subject:
    """Everything that a rule may look at."""

    identity: Identity
    workload: str
    target: Target
    operation: Operation
    context: PolicyContext


class Check(NamedTuple):
    """One condition. ``label`` is its path in the document; ``wants`` says in words what it demands.

    ``content``: it looks at what the operation carries, which may not be known yet.
    """

    label: str
    wants: str
    test: Callable[[Subject, bool], bool | None]
    volatile: bool = False
    content: bool = False

    def passes(self, subject: Subject, *, strict: bool) -> bool:
        """Return whether the rule may go on: True is needed if ``strict``, otherwise anything but False."""
        answer = self.test(subject, strict)
        return answer is True if strict else answer is not False


def who_checks(who: Who) -> list[Check]:
    """Return the checks on workload and identity: the same for the whole life of an identity."""
    checks: list[Check] = []
    if who.workload is not None:
        checks.append(_text_check("who.workload", who.workload, lambda s: s.workload))
    if who.issuer is not None:
        checks.append(_text_check("who.issuer", who.issuer, lambda s: s.identity.issuer))
    if who.subject is not None:
        checks.append(_text_check("who.subject", who.subject, lambda s: s.identity.subject))
    if who.purpose is not None:
        checks.append(_text_check("who.purpose", who.purpose, lambda s: s.identity.purpose))
    if who.groups is not None:
        in_group = matcher(who.groups)
        checks.append(Check("who.groups", _any_of(who.groups), lambda s, _: any(map(in_group, s.identity.groups))))
    checks.extend(_claim_check(name, values) for name, values in who.claims.items())
    return checks


def target_checks(where: Where) -> list[Check]:
    """Return the checks on the target: the same for the whole life of a session."""
    checks: list[Check] = []
    if where.target is not None:
        checks.append(_text_check("where.target", where.target, lambda s: s.target.name))
    if where.protocol is not None:
        checks.append(_text_check("where.protocol", where.protocol, lambda s: s.target.protocol))
    checks.extend(_label_check(name, values) for name, values in where.labels.items())
    return checks


def operation_checks(where: Where, what: What) -> list[Check]:
    """Return the checks on the operation itself, bind values not included."""
    checks: list[Check] = []
    for name, patterns in (("database", where.database), ("user", where.user)):
        if patterns is not None:
            checks.append(_attribute_check(name, patterns))
    if what.verbs is not None:
        checks.append(_verb_check(what.verbs))
    if what.functions is not None:
        functions = tuple(ObjectPattern(name=pattern, kind="function") for pattern in what.functions)
        checks.append(_object_check("what.functions", functions))
    if what.objects is not None:
        checks.append(_object_check("what.objects", what.objects))
    return checks


def when_checks(
    when: When, zone: tzinfo, max_ages: Mapping[str, float | None], expression: Expression | None
) -> list[Check]:
    """Return the checks on time, context and expression.

    Args:
        when: the document's part.
        zone: the time zone that ``when.timezone`` names.
        max_ages: for every declared context attribute, its age limit in seconds or None.
        expression: ``when.cel`` compiled, or None if there is none.
    """
    checks: list[Check] = []
    if when.days is not None or when.hours is not None:
        checks.append(_time_check(when, zone))
    for name, values in when.context.items():
        checks.append(_context_check(name, values, max_ages[name]))
    if expression is not None:
        checks.append(_expression_check(expression, max_ages))
    return checks


def _any_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else "any of " + ", ".join(values)


def _text_check(label: str, patterns: Sequence[str], read: Callable[[Subject], str]) -> Check:
    matches = matcher(patterns)
    return Check(label, _any_of(patterns), lambda s, _: matches(read(s)))


def _claim_check(name: str, values: tuple[str, ...]) -> Check:
    wanted = frozenset(values)

    def test(subject: Subject, _: bool) -> bool:
        found = subject.identity.claims.get(name)
        items = found if isinstance(found, list | tuple | frozenset | set) else (found,)
        return any(as_text(item) in wanted for item in items if isinstance(item, str | bool | int | float))

    return Check(f"who.claims.{name}", _any_of(values), test)


def _label_check(name: str, values: tuple[str, ...]) -> Check:
    matches = matcher(values)

    def test(subject: Subject, _: bool) -> bool:
        label = subject.target.labels.get(name)
        return label is not None and matches(label)

    return Check(f"where.labels.{name}", _any_of(values), test)


def _attribute_check(name: str, patterns: tuple[str, ...]) -> Check:
    matches = matcher(patterns)

    def test(subject: Subject, _: bool) -> bool | None:
        value = subject.operation.attributes.get(name)
        return None if value is None else matches(value)

    return Check(f"where.{name}", _any_of(patterns), test)


def _understood(operation: Operation) -> bool:
    return operation.completeness is Completeness.FULL


def _verb_check(patterns: tuple[str, ...]) -> Check:
    matches = matcher([pattern.lower() for pattern in patterns])

    def test(subject: Subject, _: bool) -> bool | None:
        return matches(subject.operation.verb.lower()) if _understood(subject.operation) else None

    return Check("what.verbs", _any_of(patterns), test)


def _object_check(label: str, patterns: tuple[ObjectPattern, ...]) -> Check:
    """Strict: everything of the kinds named is covered. Lenient: anything is named."""
    compiled = tuple((p.kind, name_pattern(p.name, p.kind), frozenset(p.access)) for p in patterns)
    kinds = frozenset(kind for kind, _, _ in compiled)

    def covered(resource: Resource, strict: bool) -> bool:
        for kind, pattern, access in compiled:
            if kind == resource.kind and resource.access in access and pattern.matches(resource.name, strict=strict):
                return True
        return False

    def test(subject: Subject, strict: bool) -> bool | None:
        operation = subject.operation
        if not _understood(operation):
            return None
        for resource in operation.resources:
            if resource.kind in kinds and covered(resource, strict) is not strict:
                return not strict
        return strict

    return Check(label, _any_of([p.name for p in patterns]), test)


def _days(spans: Sequence[str]) -> frozenset[int]:
    chosen: set[int] = set()
    for span in spans:
        first, _, last = span.partition("-")
        start = DAYS.index(first)
        length = (DAYS.index(last or first) - start) % 7
        chosen.update((start + offset) % 7 for offset in range(length + 1))
    return frozenset(chosen)


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _within(minute: int, span: tuple[int, int]) -> bool:
    start, end = span
    return start <= minute < end if start < end else minute >= start or minute < end


def _time_check(when: When, zone: tzinfo) -> Check:
    days = _days(when.days or DAYS)
    spans = [(_minutes(span[:5]), _minutes(span[6:])) for span in when.hours or ("00:00-24:00",)]

    def test(subject: Subject, _: bool) -> bool:
        moment = datetime.fromtimestamp(subject.context.now, zone)
        minute = moment.hour * 60 + moment.minute
        return moment.weekday() in days and any(_within(minute, span) for span in spans)

    wants = f"{', '.join(when.days or ('every day',))} {', '.join(when.hours or ('all day',))} {when.timezone}"
    return Check("when.hours", wants, test, volatile=True)


def _context_check(name: str, values: tuple[str, ...], max_age: float | None) -> Check:
    wanted = frozenset(values)

    def test(subject: Subject, _: bool) -> bool | None:
        value = known(subject.context, name, max_age)
        return None if value is None else value in wanted

    return Check(f"when.context.{name}", _any_of(values), test, volatile=True)


def _expression_check(expression: Expression, max_ages: Mapping[str, float | None]) -> Check:
    def test(subject: Subject, _: bool) -> bool | None:
        context = {name: known(subject.context, name, max_ages[name]) for name in expression.context}
        return expression.evaluate(subject.identity, subject.workload, subject.target, subject.operation, context)

    return Check("when.cel", expression.text, test, volatile=expression.volatile)
