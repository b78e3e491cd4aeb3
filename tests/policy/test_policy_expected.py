"""Tables of expected verdicts: how they are read and what counts as a difference."""

from __future__ import annotations

import pytest

from hostagent.model.errors import DocumentError
from hostagent.model.operation import Effect, Operation
from hostagent.policy.expected import Case, parse_table, run_table
from tests.policy.policy_world import NOON, operation, policy

RULES = policy(
    "- {id: reads, who: {workload: bot, groups: g, claims: {level: 3}}, where: {target: db, labels: {env: x}, database: d, "
    "user: u}, what: {effects: [read, connect]}, then: allow}\n"
    "- {id: m, then: mask, mask: {columns: [{table: t, column: c, transform: hash}], detectors: [card]}}\n"
)
HEAD = (
    "who: {workload: bot, groups: [g], claims: {level: 3}}\n"
    "where: {target: db, labels: {env: x}, database: d, user: u}\n"
    "cases:\n"
)


def run(case: str) -> str:
    """Return what is wrong with the one case of a table."""

    def operations(case: Case) -> list[Operation]:
        assert case.sql == "read"
        return [operation(Effect.READ, attributes=case.attributes, parameters=case.parameters)]

    (outcome,) = run_table(RULES, parse_table("t", HEAD + case, "p"), operations)
    return outcome.wrong


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("- {sql: read, expect: allow}", ""),
        ("- {sql: read, expect: allow, rules: [reads, m], masks: [detectors, t.c hash]}", ""),
        ("- {connect: true, expect: allow}", ""),
        ("- {effects: [read, drop], expect: deny}", ""),
        ("- {sql: read, who: {workload: other}, expect: deny}", ""),
        ("- {sql: read, who: {groups: []}, expect: deny}", ""),
        ("- {sql: read, who: {claims: {}}, expect: deny}", ""),
        ("- {sql: read, where: {database: e}, expect: deny}", ""),
        ("- {sql: read, where: {labels: {}}, expect: deny}", ""),
        ("- {sql: read, expect: hold}", "expected hold, got allow: rule reads allows it"),
        ("- {sql: read, expect: allow, rules: [m]}", "expected the rule m to decide, but reads did"),
        ("- {sql: read, expect: allow, rules: [z]}", "expected the rules z to match, but only reads, m did"),
        ("- {sql: read, expect: allow, masks: []}", "expected the masks none, got detectors, t.c hash"),
    ],
)
def test_a_case_is_judged_and_its_difference_said(case: str, wrong: str) -> None:
    assert run(case) == wrong


def test_a_case_happens_when_and_where_it_says() -> None:
    text = HEAD + "- {sql: read, at: '2026-03-04T13:00:00+01:00', context: {a: 1}, parameters: [7, x], expect: deny}"
    (case,) = parse_table("t", text, "p").cases
    assert (case.context.now, case.context.values["a"].value, case.parameters) == (NOON, "1", ("7", "x"))
    assert (case.origin, case.identity.claims) == ("t:4", {"level": 3})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cases: []", "t:1: cases: "),
        (HEAD + "- {expect: deny}", "t:4: cases.0: Value error, give exactly one of sql, request, connect: true and effects"),
        (HEAD + "- {sql: a, connect: true, expect: deny}", "t:4: cases.0: "),
        (HEAD + "- {sql: a, expect: no}", "t:4: cases.0.expect: "),
        (HEAD + "- {sql: a, expect: deny, mask: []}", "t:4: cases.0.mask: "),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_table("t", text, "p")
    assert str(refused.value).startswith(problem)


def test_a_table_is_about_the_document_beside_it_unless_it_names_others() -> None:
    case = "cases: [{sql: a, expect: deny}]"
    assert parse_table("t", case, "p.yaml").documents == ("p.yaml",)
    assert parse_table("t", "policy: [a.yaml, b.yaml]\n" + case, "p.yaml").documents == ("a.yaml", "b.yaml")
