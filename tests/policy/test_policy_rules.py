"""How rules add up: default, precedence, what allow must cover, what a hold stands for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.model.operation import ALL_EFFECTS, Completeness, Effect, Operation
from hostagent.model.verdict import Decision, HoldTerms, MaskColumn, MaskContent, Verdict
from hostagent.policy import Policy, PolicyContext, combine, empty
from tests.policy.policy_world import BOT, CRM, NOON, judge, operation, policy

READ = operation(Effect.READ, reads=("public.orders",))
DROP = operation(Effect.DROP, reads=(), verb="drop table")
ALLOW_READ = "- {id: reads, what: {effects: [read]}, then: allow}\n"


def test_an_empty_policy_denies_and_says_what_rule_would_be_needed() -> None:
    verdict = judge(empty(), READ)
    assert verdict == Verdict(
        decision=Decision.DENY,
        rules=(),
        reason="no rule allows read on public.orders at crm-db",
        policy=empty().hash,
        hint="ask for a rule like: {id: ..., who: {workload: support-bot}, where: {target: crm-db}, "
        "what: {effects: [read]}, then: allow}",
    )


def test_a_matching_allow_allows_and_is_named() -> None:
    rules = policy(ALLOW_READ)
    assert judge(rules, READ) == Verdict(Decision.ALLOW, ("reads",), "rule reads allows it", rules.hash)


def test_deny_wins_over_hold_over_allow_and_all_matching_rules_are_named_the_deciding_first() -> None:
    rules = (
        "- {id: a-allow, what: {effects: [drop]}, then: allow}\n"
        "- {id: b-hold, what: {effects: [drop]}, then: hold, approvers: dba}\n"
        "- {id: c-deny, what: {effects: [drop]}, then: deny, reason: never, hint: ask}\n"
        "- {id: d-mask, then: mask, mask: {detectors: [card]}}\n"
    )
    assert judge(rules, DROP) == Verdict(
        decision=Decision.DENY,
        rules=("c-deny", "b-hold", "a-allow", "d-mask"),
        reason="never",
        policy=policy(rules).hash,
        obligations=(MaskContent("d-mask", frozenset({"card"})),),
        hint="ask",
    )


def test_hold_wins_over_allow_and_states_its_terms() -> None:
    rules = ALLOW_READ + "- {id: ask, what: {effects: [read]}, then: hold, approvers: dba, timeout: 60, reason: why}\n"
    assert judge(rules, READ) == Verdict(
        decision=Decision.HOLD,
        rules=("ask", "reads"),
        reason="why",
        policy=policy(rules).hash,
        hold=HoldTerms("ask", "dba", 60.0),
        hint="a member of dba decides: hostagent approvals list",
        cacheable=False,
    )


def test_allow_must_cover_every_effect_with_one_rule() -> None:
    two = ALLOW_READ + "- {id: inserts, what: {effects: [insert]}, then: allow}\n"
    both = "- {id: both, what: {effects: [read, insert]}, then: allow}\n"
    insert_select = operation(Effect.READ, Effect.INSERT)
    assert judge(two, insert_select).decision is Decision.DENY
    assert judge(both, insert_select).decision is Decision.ALLOW


def test_deny_needs_one_effect_only() -> None:
    rules = (
        "- {id: all, what: {effects: [read, insert]}, then: allow}\n- {id: no, what: {effects: [insert]}, then: deny}\n"
    )
    assert judge(rules, operation(Effect.READ, Effect.INSERT)).rules[0] == "no"


def test_what_is_not_fully_understood_counts_as_every_effect() -> None:
    vague = operation(Effect.READ, completeness=Completeness.PARTIAL)
    verdict = judge(ALLOW_READ, vague)
    assert (verdict.decision, verdict.reason) == (
        Decision.DENY,
        "no rule allows what is not fully understood at crm-db; it counts as every effect",
    )
    everything = f"- {{id: all, what: {{effects: [{', '.join(sorted(ALL_EFFECTS))}]}}, then: allow}}\n"
    assert judge(everything, vague).decision is Decision.ALLOW
    denied = judge(everything + "- {id: no, what: {effects: [truncate]}, then: deny}\n", vague)
    assert (denied.rules[0], "not fully understood" in denied.reason) == ("no", True)


def test_a_hold_stands_for_an_allow_of_the_effects_it_names_only() -> None:
    hold = "- {id: ask, what: {effects: [delete-without-where]}, then: hold, approvers: dba}\n"
    whole = operation(Effect.DELETE, Effect.DELETE_ALL)
    assert judge(hold, operation(Effect.DELETE_ALL)).decision is Decision.HOLD
    refused = judge(hold, whole)
    assert (refused.decision, refused.rules) == (Decision.DENY, ())
    assert refused.reason == (
        "no rule allows delete at crm-db (rule ask would hold it, but does not cover all that it does)"
    )
    assert judge(hold + "- {id: del, what: {effects: [delete]}, then: allow}\n", whole).decision is Decision.HOLD
    reaching_out = operation(Effect.DELETE, Effect.DELETE_ALL, Effect.HOST)
    assert judge(hold + "- {id: del, what: {effects: [delete]}, then: allow}\n", reaching_out).decision is Decision.DENY


def test_a_hold_without_effects_covers_everything_because_it_says_so() -> None:
    vague = operation(completeness=Completeness.OPAQUE)
    assert judge("- {id: ask, then: hold, approvers: dba}\n", vague).decision is Decision.HOLD


def test_a_hold_that_matched_by_one_object_of_several_vouches_for_nothing_else() -> None:
    hold = "- {id: ask, what: {effects: [read], objects: [public.orders]}, then: hold, approvers: dba}\n"
    both = operation(Effect.READ, reads=("public.orders", "public.secrets"))
    assert judge(hold, READ).decision is Decision.HOLD
    assert judge(hold, both).decision is Decision.DENY
    assert judge(hold + ALLOW_READ, both).decision is Decision.HOLD


def test_rules_that_hold_for_different_approvers_deny_because_one_ticket_has_one_answer() -> None:
    rules = "- {id: x, then: hold, approvers: dba, timeout: 50}\n- {id: y, then: hold, approvers: ops}\n"
    verdict = judge(rules, READ)
    assert (verdict.decision, verdict.rules, verdict.hold) == (Decision.DENY, ("x", "y"), None)
    assert "x (dba), y (ops)" in verdict.reason
    same = "- {id: x, then: hold, approvers: dba, timeout: 50}\n- {id: y, then: hold, approvers: dba, timeout: 9}\n"
    assert judge(same, READ).hold == HoldTerms("x", "dba", 9.0)


def test_masks_of_all_matching_rules_unite_with_the_stricter_transform_first() -> None:
    rules = (
        "- id: reads\n  what: {effects: [read]}\n  then: allow\n"
        "  mask: {columns: [{table: customers, column: [email], transform: partial}]}\n"
        "- {id: m, then: mask, mask: {detectors: [card, iban], transform: hash, "
        "columns: [{database: crm, schema: public, table: 'cust*', column: [email, phone], transform: 'null'}]}}\n"
        "- {id: other, where: {target: elsewhere}, then: mask, mask: {detectors: all}}\n"
    )
    verdict = judge(rules, READ)
    assert (verdict.rules, verdict.obligations) == (
        ("reads", "m"),
        (
            MaskColumn("m", "cust*", "email", "public", "crm", "null"),
            MaskColumn("m", "cust*", "phone", "public", "crm", "null"),
            MaskContent("m", frozenset({"card", "iban"}), "hash"),
            MaskColumn("reads", "customers", "email", transform="partial"),
        ),
    )


def test_a_mask_rule_alone_allows_nothing() -> None:
    verdict = judge("- {id: m, then: mask, mask: {detectors: [card]}}\n", READ)
    assert (verdict.decision, verdict.rules, len(verdict.obligations)) == (Decision.DENY, (), 1)


RULES = (
    "- {id: r1, what: {effects: [read, insert]}, then: allow}\n",
    "- {id: r2, what: {effects: [read, session]}, then: allow, mask: {detectors: [card]}}\n",
    "- {id: r3, what: {effects: [insert]}, then: hold, approvers: dba, timeout: 5}\n",
    "- {id: r4, what: {effects: [drop]}, then: deny}\n",
    "- {id: r5, then: mask, mask: {columns: [{table: t, column: [a, b]}]}}\n",
    "- {id: r6, what: {objects: [hr.*]}, then: deny, reason: personnel}\n",
    "- {id: r7, what: {effects: [read]}, then: hold, approvers: ops}\n",
    "- {id: r8, when: {hours: '08:00-18:00'}, what: {effects: [session]}, then: deny}\n",
    "- {id: r9, when: {cel: 'operation.parameters.exists(p, p == \"x\")'}, what: {effects: [read]}, then: deny}\n",
)

rule_subsets = st.lists(st.sampled_from(RULES), unique=True, max_size=len(RULES))
operations = st.builds(
    lambda effects, names, completeness, parameters: operation(
        *effects, reads=tuple(names), completeness=completeness, parameters=tuple(parameters)
    ),
    st.frozensets(st.sampled_from([Effect.READ, Effect.INSERT, Effect.DROP, Effect.SESSION]), min_size=1),
    st.lists(st.sampled_from(["hr.people", "people", "public.orders"]), max_size=2),
    st.sampled_from(Completeness),
    st.lists(st.sampled_from(["x", "y", None]), max_size=2),
)
moments = st.integers(0, 7 * 24 * 60).map(lambda minute: PolicyContext(NOON + minute * 60.0))


@settings(deadline=None)
@given(st.data(), rule_subsets, operations, moments)
def test_the_order_of_rules_changes_nothing(
    data: st.DataObject, rules: list[str], what: Operation, context: PolicyContext
) -> None:
    shuffled = data.draw(st.permutations(rules))
    straight, mixed = policy("".join(rules)), policy("".join(shuffled))
    assert straight.hash == mixed.hash
    assert judge(straight, what, context) == judge(mixed, what, context)


@given(rule_subsets, operations, st.lists(moments, min_size=2, max_size=4), st.lists(st.sampled_from(["x", "z"])))
def test_a_cacheable_verdict_does_not_depend_on_time_context_or_bind_values(
    rules: list[str], what: Operation, contexts: list[PolicyContext], parameters: list[str]
) -> None:
    rule_set = policy("".join(rules))
    first = judge(rule_set, what, contexts[0])
    assert judge(rule_set, what, contexts[0]) == first
    if not first.cacheable:
        return
    other = operation(
        *what.effects,
        reads=tuple(resource.name for resource in what.resources),
        completeness=what.completeness,
        parameters=tuple(parameters),
    )
    for context, changed in itertools.product(contexts, (what, other)):
        assert judge(rule_set, changed, context) == first


@given(rule_subsets, st.sampled_from(RULES[3:]), operations, moments)
def test_adding_a_rule_that_does_not_permit_never_loosens_a_denial(
    rules: list[str], added: str, what: Operation, context: PolicyContext
) -> None:
    if added in rules or "hold" in added:
        return
    before = judge("".join(rules), what, context)
    after = judge("".join([*rules, added]), what, context)
    if before.decision is Decision.DENY:
        assert after.decision is Decision.DENY


@given(rule_subsets, operations, moments)
def test_explain_agrees_with_the_verdict(rules: list[str], what: Operation, context: PolicyContext) -> None:
    rule_set: Policy = policy("".join(rules))
    verdict = judge(rule_set, what, context)
    findings = rule_set.explain(BOT, "support-bot", CRM, what, context)
    assert [finding.rule for finding in findings] == sorted(finding.rule for finding in findings)
    matched = {finding.rule for finding in findings if finding.matched}
    assert set(verdict.rules) <= matched
    if verdict.rules:
        assert set(verdict.rules) == matched
    assert all(bool(finding.why_not) is not finding.matched for finding in findings)


def test_combine_takes_the_strictest_and_unites_rules_and_obligations() -> None:
    mask, other = MaskContent("m", frozenset({"card"})), MaskColumn("n", "t", "c", transform="partial")
    allow = Verdict(Decision.ALLOW, ("a", "m"), "fine", "hash", (mask,))
    hold = Verdict(Decision.HOLD, ("h",), "wait", "hash", (mask, other), HoldTerms("h", "dba", 30.0), "hint", False)
    assert combine([allow, hold, allow]) == Verdict(
        Decision.HOLD,
        ("h", "a", "m"),
        "wait",
        "hash",
        (mask, other),
        HoldTerms("h", "dba", 30.0),
        "hint",
        cacheable=False,
    )
    denied = Verdict(Decision.DENY, (), "no rule", "hash")
    assert combine([allow, denied, hold]) == Verdict(
        Decision.DENY, (), "no rule", "hash", (mask, other), cacheable=False
    )
    assert combine([allow]) is allow


def test_combine_denies_holds_that_name_different_approvers() -> None:
    first = Verdict(Decision.HOLD, ("h",), "", "hash", (), HoldTerms("h", "dba", 30.0), cacheable=False)
    second = Verdict(Decision.HOLD, ("i",), "", "hash", (), HoldTerms("i", "ops", 20.0), cacheable=False)
    verdict = combine([first, second])
    assert (verdict.decision, verdict.rules, verdict.hold) == (Decision.DENY, ("h", "i"), None)


def test_combining_nothing_is_an_error_because_nothing_judged_is_nothing_permitted() -> None:
    with pytest.raises(ValueError, match="no verdict"):
        combine([])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("", False),
        (" - {id: a, who: {workload: other-bot}, what: {effects: [read]}, then: allow}", False),
        (" - {id: a, where: {target: billing}, what: {effects: [read]}, then: allow}", False),
        (" - {id: a, where: {target: crm-db}, what: {effects: [read]}, when: {days: [sun]}, then: allow}", True),
        (" - {id: h, who: {groups: [support]}, what: {effects: [drop]}, then: hold, approvers: dba}", True),
        (" - {id: a, what: {effects: [read]}, then: allow}\n - {id: d, where: {labels: {env: [demo]}}, then: deny}", False),
        (" - {id: a, what: {effects: [read]}, then: allow}\n - {id: d, what: {effects: [drop]}, then: deny}", True),
        (" - {id: m, then: mask, mask: {detectors: all}}", False),
    ],
)
def test_what_could_ever_be_allowed_is_told_from_who_and_where_alone(rules: str, expected: bool) -> None:
    assert policy(rules).could_allow(BOT, "support-bot", CRM) is expected
