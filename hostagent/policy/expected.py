"""Tables of expected verdicts: what a policy should say, in words that a security officer can read and sign.

A table lies beside a document (``NAME.expected.yaml`` beside ``NAME.yaml``) and is run by ``hostagent policy test``. This module
reads tables and judges their cases; turning ``sql`` into operations is the caller's business, because policy knows no SQL. The same goes for ``request``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from hostagent.documents.source import read
from hostagent.model.errors import DocumentError
from hostagent.model.identity import Identity
from hostagent.model.operation import Effect, Operation
from hostagent.model.target import Login, Target
from hostagent.model.verdict import Decision, MaskContent, MaskKubernetes, MaskPath, Obligation, Verdict
from hostagent.policy.combine import combine
from hostagent.policy.context import ContextValue, PolicyContext
from hostagent.policy.document import Scalar, Strict, Text
from hostagent.policy.ruleset import Policy

DEFAULT_AT = "2026-03-04T12:00:00+00:00"
"""When a case happens unless it says otherwise: a Wednesday, noon, UTC."""


class CaseWho(Strict):
    """The workload and its identity."""

    workload: str | None = None
    issuer: str | None = None
    subject: str | None = None
    groups: tuple[str, ...] | None = None
    purpose: str | None = None
    claims: dict[str, Scalar | list[Scalar]] | None = None


class CaseWhere(Strict):
    """The target and the session in it."""

    target: str | None = None
    protocol: str | None = None
    labels: dict[str, str] | None = None
    database: str | None = None
    user: str | None = None


class CaseForm(Strict):
    """One line of a table: a situation and what policy should say to it."""

    name: str = ""
    who: CaseWho = CaseWho()
    where: CaseWhere = CaseWhere()
    sql: str | None = Field(default=None, description="Statements; several are judged together.")
    request: str | None = Field(default=None, description="A request over HTTP: METHOD URL. (To a Kubernetes API: where: {protocol: kubernetes}.)")
    headers: dict[str, Text] = Field(default={}, description="Header fields of the request.")
    body: str = Field(default="", description="Body of the request; its headers say of what type.")
    connect: bool = Field(default=False, description="The start of a session, instead of a statement.")
    effects: frozenset[Effect] | None = Field(default=None, description="Bare effects, instead of a statement.")
    parameters: tuple[Text | None, ...] = ()
    at: datetime | None = None
    context: dict[str, Text] | None = None
    expect: Literal["allow", "hold", "deny"]
    rules: tuple[str, ...] = Field(default=(), description="Rules that must have matched; the first must have decided.")
    masks: tuple[str, ...] | None = Field(default=None, description="All that is masked: TABLE.COLUMN, json PATH, kubernetes KIND or detectors.")

    @model_validator(mode="after")
    def _one_operation(self) -> CaseForm:
        if (self.sql is not None) + (self.request is not None) + self.connect + (self.effects is not None) != 1:
            raise ValueError("give exactly one of sql, request, connect: true and effects")
        if (self.headers or self.body) and self.request is None:
            raise ValueError("headers and body belong to a request")
        return self


class TableForm(Strict):
    """A table. ``who``, ``where`` and ``context`` are what cases leave out."""

    policy: Annotated[tuple[str, ...], Field(description="Documents beside the table; default: the table's own.")] = ()
    who: CaseWho = CaseWho()
    where: CaseWhere = CaseWhere()
    context: dict[str, Text] = Field(default_factory=dict)
    cases: tuple[CaseForm, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One case, ready to be judged. ``effects`` is set for a bare operation, ``sql`` for statements, ``request`` for HTTP."""

    name: str
    origin: str
    identity: Identity
    workload: str
    target: Target
    attributes: dict[str, str]
    context: PolicyContext
    sql: str | None
    request: str | None
    headers: dict[str, str]
    body: str
    effects: frozenset[Effect]
    parameters: tuple[str | None, ...]
    expect: Decision
    rules: tuple[str, ...]
    masks: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Table:
    """The documents it is about (file names) and its cases."""

    documents: tuple[str, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What policy said to a case; ``wrong`` is empty if that was expected."""

    case: Case
    verdict: Verdict
    wrong: str


def parse_table(name: str, text: str, document: str) -> Table:
    """Return the table in ``text``.

    Args:
        name: of the table, for messages.
        text: YAML.
        document: the policy document it is about, unless it names others.

    Raises:
        DocumentError: with the line of what is wrong.
    """
    source = read(name, text)
    try:
        form = TableForm.model_validate(source.value)
    except ValidationError as error:
        places = [(source.line(tuple(item["loc"])), item["loc"], item["msg"]) for item in error.errors()]
        lines = [f"{name}:{line}: {'.'.join(map(str, where))}: {what}" for line, where, what in places]
        raise DocumentError("\n".join(lines)) from error
    cases = [_case(form, case, f"{name}:{source.line(('cases', index))}") for index, case in enumerate(form.cases)]
    return Table(form.policy or (document,), tuple(cases))


def run_table(policy: Policy, table: Table, operations: Callable[[Case], Sequence[Operation]]) -> tuple[Outcome, ...]:
    """Return what ``policy`` says to every case.

    Args:
        policy: made of the table's documents.
        table: the cases.
        operations: the operations of a case with ``sql`` or ``request``, at least one; called for no other.
    """
    return tuple(_judge(policy, case, operations) for case in table.cases)


def describe(obligation: Obligation) -> str:
    """Return how a table writes ``obligation``: ``table.column``, ``json PATH``, ``kubernetes KIND`` or ``detectors``, with the transform if not redact."""
    match obligation:
        case MaskContent():
            what = "detectors"
        case MaskKubernetes():
            what = f"kubernetes {obligation.what}"
        case MaskPath():
            what = f"json {obligation.path}"
        case _:
            what = f"{obligation.table}.{obligation.column}"
    return what if obligation.transform == "redact" else f"{what} {obligation.transform}"


def _judge(policy: Policy, case: Case, operations: Callable[[Case], Sequence[Operation]]) -> Outcome:
    judged = [_bare(case)] if case.sql is None and case.request is None else operations(case)
    verdict = combine(
        [policy.evaluate(case.identity, case.workload, case.target, operation, case.context) for operation in judged]
    )
    return Outcome(case, verdict, _difference(case, verdict))


def _difference(case: Case, verdict: Verdict) -> str:
    if verdict.decision is not case.expect:
        return f"expected {case.expect}, got {verdict.decision}: {verdict.reason}"
    if missing := [rule for rule in case.rules if rule not in verdict.rules]:
        return f"expected the rules {', '.join(missing)} to match, but only {', '.join(verdict.rules) or 'none'} did"
    if case.rules and case.rules[0] != verdict.rules[0]:
        return f"expected the rule {case.rules[0]} to decide, but {verdict.rules[0]} did"
    masks = sorted({describe(obligation) for obligation in verdict.obligations})
    if case.masks is not None and sorted(case.masks) != masks:
        return f"expected the masks {', '.join(case.masks) or 'none'}, got {', '.join(masks) or 'none'}"
    return ""


def _bare(case: Case) -> Operation:
    verb = "connect" if case.effects == {Effect.CONNECT} else "operation"
    return Operation(case.target.protocol, verb, case.effects, attributes=case.attributes, parameters=case.parameters)


def _case(table: TableForm, form: CaseForm, origin: str) -> Case:
    who = table.who.model_copy(update=form.who.model_dump(exclude_none=True))
    where = table.where.model_copy(update=form.where.model_dump(exclude_none=True))
    at = (form.at or datetime.fromisoformat(DEFAULT_AT)).timestamp()
    values = table.context if form.context is None else form.context
    return Case(
        name=form.name or form.sql or form.request or ("connect" if form.connect else ", ".join(sorted(form.effects or ()))),
        origin=origin,
        identity=Identity(
            who.issuer or "",
            who.subject or "",
            at + 3600,
            frozenset(who.groups or ()),
            who.purpose or "",
            "",
            dict(who.claims or {}),
        ),
        workload=who.workload or "",
        target=Target(
            where.target or "",
            where.protocol or ("postgres" if form.request is None else "http"),
            ("127.0.0.1",),
            1,
            Login(""),
            labels=where.labels or {},
        ),
        attributes={"database": where.database or "", "user": where.user or "", "application": ""},
        context=PolicyContext(at, {name: ContextValue(value, at) for name, value in values.items()}),
        sql=form.sql,
        request=form.request,
        headers=dict(form.headers),
        body=form.body,
        effects=form.effects or (frozenset({Effect.CONNECT}) if form.connect else frozenset()),
        parameters=form.parameters,
        expect=Decision(form.expect),
        rules=form.rules,
        masks=form.masks,
    )
