"""Documents to a rule set: all or nothing, every problem named with its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, tzinfo
from typing import NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hostagent.documents.complaint import did_you_mean, inner_model
from hostagent.documents.source import Path, Source, read
from hostagent.model.errors import DocumentError
from hostagent.model.verdict import MaskColumn, MaskContent, MaskKubernetes, MaskPath, Obligation
from hostagent.policy.check import Check, operation_checks, target_checks, when_checks, who_checks
from hostagent.policy.context import ContextProvider
from hostagent.policy.document import DEFAULT_TIMEOUT_S, Action, Document, Mask, RuleForm
from hostagent.policy.expression import Expression, compile_expression
from hostagent.policy.http import http_checks
from hostagent.policy.kubernetes import kubernetes_checks
from hostagent.policy.rule import Rule
from hostagent.policy.ruleset import Policy
from hostagent.policy.transfers import transfer_checks

TRANSFORMS = frozenset({"redact", "null", "partial", "hash"})


def utc_only(name: str) -> tzinfo:
    """Return UTC for the name UTC: the default of ``load``, which reads no time zone files.

    Raises:
        LookupError: any other name.
    """
    if name != "UTC":
        raise LookupError(name)
    return UTC


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What documents are checked against. ``None`` means not known here: not checked."""

    detectors: frozenset[str] | None = None
    transforms: frozenset[str] = TRANSFORMS
    group_members: Callable[[str], frozenset[str]] | None = None
    zone: Callable[[str], tzinfo] = utc_only


class _Rule(NamedTuple):
    form: RuleForm
    source: Source
    path: Path

    @property
    def origin(self) -> str:
        return f"{self.source.name}:{self.source.line(self.path)}"


class _Problems(list[str]):
    """Everything found wrong, in the order found."""

    def at(self, rule: _Rule, path: Path, what: str) -> None:
        line = rule.source.line((*rule.path, *path))
        self.append(f"{rule.source.name}:{line}: rule {rule.form.id}: {what}")


def load(
    documents: Mapping[str, str],
    *,
    detectors: frozenset[str] | None = None,
    transforms: frozenset[str] | None = None,
    group_members: Callable[[str], frozenset[str]] | None = None,
    zone: Callable[[str], tzinfo] = utc_only,
) -> Policy:
    """Return the rule set that ``documents`` make together; no documents make one that denies everything.

    Args:
        documents: text by file name.
        detectors: the names of the content detectors there are; None: names are not checked, and ``all`` stays ``all``.
        transforms: the names of the mask transforms there are; None: redact, null, partial, hash.
        group_members: the members of a unix group, empty if there is no such group; None: approvers are not checked.
        zone: the time zone of an IANA name, LookupError or ValueError if there is none (``zoneinfo.ZoneInfo`` outside
            the pure floors).

    Raises:
        DocumentError: every problem of every document, one a line as ``document:line: what``; nothing was taken.
    """
    around = Surroundings(detectors, transforms or TRANSFORMS, group_members, zone)
    problems = _Problems()
    rules, providers = _parse(documents, problems)
    _check_unique(rules, problems)
    max_ages = _max_ages(providers, problems)
    compiled = [_compile(rule, around, max_ages, problems) for rule in rules]
    if problems:
        raise DocumentError("\n".join(problems), tuple(problems))
    return Policy(compiled, [provider for _, provider in providers], _digest(rules, providers))


def empty() -> Policy:
    """Return the rule set without rules, which denies everything: what holds until a policy could be loaded."""
    return load({})


def _parse(documents: Mapping[str, str], problems: list[str]) -> tuple[list[_Rule], list[tuple[str, ContextProvider]]]:
    rules: list[_Rule] = []
    providers: list[tuple[str, ContextProvider]] = []
    for name in sorted(documents):
        try:
            source = read(name, documents[name])
        except DocumentError as error:
            problems.append(str(error))
            continue
        try:
            form = Document.model_validate(source.value)
        except ValidationError as error:
            problems.extend(_complaints(source, error))
            continue
        rules.extend(_Rule(rule, source, ("rules", index)) for index, rule in enumerate(form.rules))
        for index, provider in enumerate(form.context):
            place = f"{name}:{source.line(('context', index))}"
            fields = ContextProvider(provider.attributes, provider.file, provider.url, provider.max_age)
            providers.append((place, fields))
    return rules, providers


_FORMS = {
    "hours": "is not a span of time such as 08:00-18:00",
    "days": "is not a day or a span of days: mon, tue, wed, thu, fri, sat, sun, mon-fri",
    "id": "is not a rule id: letters, digits, dot, dash and underscore, at most 64",
    "url": "is not http://127.0.0.1:PORT/PATH (or localhost, or [::1])",
    "file": "is not an absolute path",
    "attributes": "is not an attribute name: small letters, digits and underscore",
}


def _complaints(source: Source, error: ValidationError) -> list[str]:
    found: dict[str, None] = {}
    items = error.errors(include_url=False, include_context=False)
    for item in items:
        inside = [other["loc"] for other in items if other is not item]
        if item["type"] == "too_short" and any(place[: len(item["loc"])] == item["loc"] for place in inside):
            continue  # only because its items were wrong, which is said of them
        path = _document_path(source, item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = f"unknown key{_meant(item['loc'])}"
        elif item["type"] == "string_pattern_mismatch":
            key = next(str(part) for part in reversed(path) if isinstance(part, str))
            what = f"{item['input']!r} {_FORMS.get(key, 'is not of the form asked for')}"
        elif item["type"] == "missing":
            path = (*path, item["loc"][-1])
            what = "this key is required"
        found[f"{source.name}:{source.line(path)}: {'.'.join(map(str, path)) or 'document'}: {what}"] = None
    return list(found)


def _meant(location: Path) -> str:
    """Return what key may have been meant: any of the keys that stand where the unknown one does."""
    model: type[BaseModel] | None = Document
    for part in location[:-1]:
        if model is not None and isinstance(part, str) and (field := _field(model, part)) is not None:
            model = inner_model(field.annotation) or model
    return did_you_mean(str(location[-1]), [field.alias or name for name, field in model.model_fields.items()]) if model else ""


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    return next((field for name, field in model.model_fields.items() if (field.alias or name) == key), None)


def _document_path(source: Source, location: Path) -> Path:
    # pydantic's locations also hold the names of union members; only what stands in the document is kept.
    path: Path = ()
    for part in location:
        if (*path, part) in source.lines:
            path = (*path, part)
    return path


def _check_unique(rules: list[_Rule], problems: _Problems) -> None:
    seen: dict[str, str] = {}
    for rule in rules:
        if first := seen.get(rule.form.id):
            problems.at(rule, ("id",), f"the id is already used at {first}")
        seen.setdefault(rule.form.id, rule.origin)


def _max_ages(providers: list[tuple[str, ContextProvider]], problems: list[str]) -> dict[str, float | None]:
    ages: dict[str, float | None] = {}
    for place, provider in providers:
        for attribute in provider.attributes:
            if attribute in ages:
                problems.append(f"{place}: the context attribute {attribute} already comes from somewhere else")
            ages[attribute] = provider.max_age
    return ages


def _compile(rule: _Rule, around: Surroundings, max_ages: Mapping[str, float | None], problems: _Problems) -> Rule:
    form = rule.form
    when = _when(rule, around, max_ages, problems)
    transfer = form.what.transfer
    kubernetes = kubernetes_checks(form.what.kubernetes, allows=form.then is Action.ALLOW, by_effects=form.what.effects is not None)
    own = [*http_checks(form.what.http), *kubernetes, *transfer_checks(transfer)]
    checks = [*operation_checks(form.where, form.what), *own, *when]
    if form.then is Action.HOLD and around.group_members is not None and not around.group_members(form.approvers):
        what = f"a rule holds and no approver is configured: the group {form.approvers} does not exist or has no member"
        problems.at(rule, ("approvers",), what)
    return Rule(
        id=form.id,
        action=form.then,
        origin=rule.origin,
        effects=form.what.effects,
        session_checks=(*who_checks(form.who), *target_checks(form.where)),
        checks=tuple(sorted(checks, key=lambda check: check.volatile)),
        obligations=_obligations(rule, form.mask, around, problems),
        approvers=form.approvers,
        timeout=form.timeout or DEFAULT_TIMEOUT_S,
        reason=form.reason,
        hint=form.hint,
        moves=transfer is not None,
        max_size=None if transfer is None else transfer.max_size,
        size_over=None if transfer is None else transfer.size_over,
    )


def _when(rule: _Rule, around: Surroundings, max_ages: Mapping[str, float | None], problems: _Problems) -> list[Check]:
    when = rule.form.when
    unknown = sorted(set(when.context) - set(max_ages))
    for name in unknown:
        problems.at(rule, ("when", "context", name), f"no context provider declares the attribute {name}")
    expression: Expression | None = None
    if when.cel:
        try:
            expression = compile_expression(when.cel, frozenset(max_ages))
        except ValueError as error:
            problems.at(rule, ("when", "cel"), f"cel: {error}")
    try:
        zone = around.zone(when.timezone)
    except (LookupError, ValueError, OSError):
        problems.at(rule, ("when", "timezone"), f"there is no time zone {when.timezone!r} on this host")
        return []
    return [] if unknown else when_checks(when, zone, max_ages, expression)


def _obligations(rule: _Rule, mask: Mask | None, around: Surroundings, problems: _Problems) -> tuple[Obligation, ...]:
    if mask is None:
        return ()
    found: list[Obligation] = []
    for index, columns in enumerate(mask.columns):
        transform = columns.transform or mask.transform
        _known_transform(rule, ("mask", "columns", index, "transform"), transform, around, problems)
        found.extend(
            MaskColumn(rule.form.id, columns.table, column, columns.schema_, columns.database, transform)
            for column in columns.column
        )
    if mask.detectors is not None:
        _known_transform(rule, ("mask", "transform"), mask.transform, around, problems)
        names = _detectors(rule, mask.detectors, around, problems)
        found.append(MaskContent(rule.form.id, names, mask.transform))
    if mask.json_:
        _known_transform(rule, ("mask", "transform"), mask.transform, around, problems)
        found.extend(MaskPath(rule.form.id, path, mask.transform) for path in mask.json_)
    if mask.kubernetes:
        _known_transform(rule, ("mask", "transform"), mask.transform, around, problems)
        found.extend(MaskKubernetes(rule.form.id, what, mask.transform) for what in mask.kubernetes)
    return tuple(found)


def _known_transform(rule: _Rule, path: Path, name: str, around: Surroundings, problems: _Problems) -> None:
    if name not in around.transforms:
        problems.at(rule, path, f"no transform {name!r}; there are {', '.join(sorted(around.transforms))}")


def _detectors(rule: _Rule, named: str | frozenset[str], around: Surroundings, problems: _Problems) -> frozenset[str]:
    if isinstance(named, str):
        return around.detectors if around.detectors is not None else frozenset({named})
    if around.detectors is not None:
        for name in sorted(named - around.detectors):
            there = ", ".join(sorted(around.detectors))
            problems.at(rule, ("mask", "detectors"), f"no detector {name!r}; there are {there}")
    return named


def _digest(rules: list[_Rule], providers: list[tuple[str, ContextProvider]]) -> str:
    parts = {
        "rules": sorted(_canonical_text(rule.form.model_dump()) for rule in rules),
        "context": sorted(_canonical_text(asdict(provider)) for _, provider in providers),
    }
    return hashlib.sha256(_canonical_text(parts).encode()).hexdigest()


def _canonical_text(value: object) -> str:
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def _canonical(value: object) -> object:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
