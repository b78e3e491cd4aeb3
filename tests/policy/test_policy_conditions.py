"""Each condition of a rule: when it holds, and what it says when it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostagent.model.errors import DocumentError
from hostagent.model.operation import Access, Completeness, Effect, Operation, Resource
from hostagent.model.verdict import Decision
from hostagent.policy import ContextValue, PolicyContext, load
from tests.policy.policy_world import BOT, CRM, NOON, judge, operation, policy

READ = operation(Effect.READ, reads=("public.orders",))


def allowed(conditions: str, what: Operation = READ, context: PolicyContext | None = None, declared: str = "") -> bool:
    """Return whether an allow rule with ``conditions`` (flow YAML) matches."""
    rules = policy(f"- {{id: a, then: allow, {conditions}}}\n", context=declared)
    return judge(rules, what, context).decision is Decision.ALLOW


def denied(conditions: str, what: Operation = READ, context: PolicyContext | None = None, declared: str = "") -> bool:
    """Return whether a deny rule with ``conditions`` matches."""
    rules = policy(f"- {{id: d, then: deny, {conditions}}}\n", context=declared)
    return judge(rules, what, context).rules == ("d",)


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ("who: {workload: support-bot}", True),
        ("who: {workload: [x, 'support-*']}", True),
        ("who: {workload: support}", False),
        ("who: {workload: 'support-b?t'}", True),
        ("who: {workload: 'Support-*'}", False),
        ("who: {issuer: 'https://issuer.example'}", True),
        ("who: {issuer: 'https://issuer.example.evil'}", False),
        ("who: {issuer: 'https://issuerXexample'}", False),
        ("who: {subject: 'system:*'}", True),
        ("who: {groups: [billing, support]}", True),
        ("who: {groups: billing}", False),
        ("who: {purpose: answer tickets}", True),
        ("who: {claims: {tenant: acme}}", True),
        ("who: {claims: {tenant: 'ac*'}}", False),
        ("who: {claims: {level: 3}}", True),
        ("who: {claims: {level: '3', ok: true}}", True),
        ("who: {claims: {roles: [b, z]}}", True),
        ("who: {claims: {roles: [z]}}", False),
        ("who: {claims: {absent: x}}", False),
        ("where: {target: crm-*}", True),
        ("where: {protocol: mysql}", False),
        ("where: {labels: {env: demo, tier: [gold, silver]}}", True),
        ("where: {labels: {env: production}}", False),
        ("where: {labels: {absent: x}}", False),
        ("where: {database: crm, user: a*}", True),
        ("where: {database: hr}", False),
        ("what: {verbs: SELECT}", True),
        ("what: {verbs: 'drop *'}", False),
    ],
)
def test_conditions_hold_alike_for_rules_that_permit_and_rules_that_forbid(conditions: str, matches: bool) -> None:
    assert denied(conditions) is matches
    with_effects = (
        conditions.replace("what: {", "what: {effects: [read], ")
        if "what:" in conditions
        else f"{conditions}, what: {{effects: [read]}}"
    )
    assert allowed(with_effects) is matches


@pytest.mark.parametrize(
    ("patterns", "names", "permits", "forbids"),
    [
        ("[public.orders]", ("public.orders",), True, True),
        ("[public.orders]", ("orders",), False, True),
        ("['*.orders']", ("orders",), True, True),
        ("[orders]", ("orders",), True, True),
        ("[orders]", ("secret.orders",), True, True),
        ("[public.*]", ("public.orders", "hr.people"), False, True),
        ("[public.*]", ("hr.people",), False, False),
        ("[public.*, hr.people]", ("public.orders", "hr.people"), True, True),
        ("[orders]", ("Orders",), False, False),
        ("[public.orders]", ("crm.public.orders",), True, True),
        ("[orders]", (), True, False),
        ("['ord?rs']", ("orders",), True, True),
        ("['a[b]c']", ("a[b]c",), True, True),
    ],
)
def test_objects_must_all_be_covered_to_permit_and_any_suffices_to_forbid(
    patterns: str, names: tuple[str, ...], permits: bool, forbids: bool
) -> None:
    what = operation(Effect.READ, reads=names)
    assert allowed(f"what: {{effects: [read], objects: {patterns}}}", what) is permits
    assert denied(f"what: {{objects: {patterns}}}", what) is forbids


def test_objects_can_be_told_apart_by_access_and_kind() -> None:
    moving = operation(Effect.READ, Effect.INSERT, reads=("customers",), writes=("log",))
    conditions = (
        "what: {effects: [read, insert], objects: [{name: customers, access: read}, {name: log, access: [write]}]}"
    )
    assert allowed(conditions, moving)
    swapped = operation(Effect.READ, Effect.INSERT, reads=("log",), writes=("customers",))
    assert not allowed(conditions, swapped)
    role = Operation("postgres", "set", frozenset({Effect.SESSION}), (Resource("role", "admin.x", Access.USE),))
    assert denied("what: {objects: [{name: 'admin.*', kind: role}]}", role)
    assert not denied("what: {objects: ['*']}", role)


def test_functions_must_all_be_listed_to_permit() -> None:
    calls = operation(Effect.READ, Effect.EXECUTE, functions=("public.report", "count"))
    assert allowed("what: {effects: [read, execute], functions: [public.report, count]}", calls)
    assert not allowed("what: {effects: [read, execute], functions: [public.report]}", calls)
    assert denied("what: {functions: [report]}", calls)


@pytest.mark.parametrize("part", ["objects: [orders]", "verbs: select", "functions: [f]"])
def test_what_is_not_fully_understood_matches_every_rule_that_forbids_and_none_that_permits(part: str) -> None:
    vague = operation(Effect.READ, reads=("nothing",), completeness=Completeness.PARTIAL)
    effects = ", ".join(sorted(Effect))
    assert denied(f"what: {{{part}}}", vague)
    assert not allowed(f"what: {{effects: [{effects}], {part}}}", vague)
    assert allowed(f"what: {{effects: [{effects}]}}", vague)


def test_a_database_that_is_not_known_matches_rules_that_forbid_only() -> None:
    unknown = operation(Effect.READ, attributes={})
    assert denied("where: {database: crm}", unknown)
    assert not allowed("where: {database: crm}, what: {effects: [read]}", unknown)


@pytest.mark.parametrize(
    ("when", "hours_after_wednesday_noon", "matches"),
    [
        ("{hours: '12:00-13:00'}", 0, True),
        ("{hours: '11:00-12:00'}", 0, False),
        ("{hours: '22:00-06:00'}", 11, True),
        ("{hours: '22:00-06:00'}", 17.99, True),
        ("{hours: '22:00-06:00'}", 18, False),
        ("{hours: ['00:00-01:00', '20:00-24:00']}", 11.99, True),
        ("{days: wed}", 0, True),
        ("{days: [mon-tue, thu]}", 0, False),
        ("{days: fri-mon}", 72, True),
        ("{days: fri-mon}", 24, False),
        ("{days: thu, hours: '00:00-02:00'}", 13, True),
    ],
)
def test_time_conditions(when: str, hours_after_wednesday_noon: float, matches: bool) -> None:
    context = PolicyContext(NOON + hours_after_wednesday_noon * 3600)
    assert denied(f"when: {when}", READ, context) is matches
    assert allowed(f"when: {when}, what: {{effects: [read]}}", READ, context) is matches


def test_a_time_zone_is_that_of_the_rule() -> None:
    from zoneinfo import ZoneInfo

    rules = "version: 1\nrules:\n- {id: d, then: deny, when: {hours: '13:00-14:00', timezone: Europe/Berlin}}\n"
    zoned = load({"a": rules}, zone=ZoneInfo)
    assert zoned.evaluate(BOT, "w", CRM, READ, PolicyContext(NOON)).rules == ("d",)
    with pytest.raises(DocumentError, match="there is no time zone 'Europe/Berlin'"):
        load({"a": rules})


FREEZE = "[{attributes: [freeze, level], file: /x, max_age: 60}]"


@pytest.mark.parametrize(
    ("values", "permits", "forbids"),
    [
        ({"freeze": ContextValue("off", NOON)}, True, True),
        ({"freeze": ContextValue("on", NOON)}, False, False),
        ({}, False, True),
        ({"freeze": ContextValue("off", NOON - 60)}, True, True),
        ({"freeze": ContextValue("off", NOON - 61)}, False, True),
        ({"freeze": ContextValue("on", NOON - 61)}, False, True),
        ({"freeze": ContextValue("off", NOON + 61)}, False, True),
    ],
)
def test_a_missing_or_old_attribute_never_permits_and_always_forbids(
    values: dict[str, ContextValue], permits: bool, forbids: bool
) -> None:
    context = PolicyContext(NOON, values)
    condition = "when: {context: {freeze: off}}"
    assert allowed(f"{condition}, what: {{effects: [read]}}", READ, context, FREEZE) is permits
    assert denied(condition, READ, context, FREEZE) is forbids
    expression = "when: {cel: \"context.freeze == 'off'\"}"
    assert allowed(f"{expression}, what: {{effects: [read]}}", READ, context, FREEZE) is permits
    assert denied(expression, READ, context, FREEZE) is forbids


@pytest.mark.parametrize(
    ("written", "said"), [("false", False), ("3", 3), ("3", 3.0), ("'off'", "off"), ("off", "off")]
)
def test_context_values_are_compared_as_text(written: str, said: str | bool | float) -> None:
    context = PolicyContext(NOON, {"freeze": ContextValue(said, NOON)})
    assert allowed(f"when: {{context: {{freeze: {written}}}}}, what: {{effects: [read]}}", READ, context, FREEZE)


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("workload == 'support-bot' && 'support' in identity.groups", True),
        ("identity.claims.tenant == 'acme' && identity.claims.level > 2 && identity.claims.ok", True),
        ("identity.claims.absent == 'x'", None),
        ("identity.claims.absent", "refused"),
        ("has(identity.claims.absent)", False),
        ("identity.claims.tenant > 3", None),
        ("'x' + identity.subject", "refused"),
        ("target.labels['env'] == 'demo' && target.name.startsWith('crm')", True),
        ("'read' in operation.effects && operation.verb == 'select'", True),
        ("operation.relations == ['public.orders']", True),
        ("operation.attributes.database == 'crm'", True),
        ("operation.parameters.all(p, p == '1')", False),
        ("operation.parameters[0] == '7'", True),
        ("operation.parameters[1] == null", True),
        ("operation.parameters[2] == b'\\x01'", True),
        ("operation.parameters[9] == '7'", None),
        ("operation.parameters[9] == '7' || true", True),
        ("context.freeze == 'off' || true", None),
        ("has(context.freeze)", "refused"),
        ("context.unknown == 'x'", "refused"),
        ("nonsense", "refused"),
        ("1 ==", "refused"),
        ("'true'", "refused"),
        ("workload.matches('(')", None),
        ("1 / 0 == 1", None),
    ],
)
def test_expressions_only_say_yes_when_the_value_is_true(expression: str, answer: bool | str | None) -> None:
    what = replace(READ, parameters=("7", None, b"\x01"))
    quoted = '"' + expression.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if answer == "refused":
        with pytest.raises(DocumentError, match=r"test\.yaml:4: rule d: cel: "):
            denied(f"when: {{cel: {quoted}}}", what, declared=FREEZE)
        return
    assert allowed(f"when: {{cel: {quoted}}}, what: {{effects: [read]}}", what, declared=FREEZE) is (answer is True)
    assert denied(f"when: {{cel: {quoted}}}", what, declared=FREEZE) is (answer is not False)


def test_an_expression_that_takes_too_long_cannot_tell() -> None:
    many = replace(READ, parameters=("x",) * 2000)
    expression = "when: {cel: 'operation.parameters.all(a, operation.parameters.all(b, a == b))'}"
    assert denied(expression, many)
    assert not allowed(f"{expression}, what: {{effects: [read]}}", many)


@pytest.mark.parametrize(
    ("when", "cacheable"),
    [
        ("{cel: \"workload == 'x'\"}", True),
        ("{cel: \"operation.verb == 'x'\"}", True),
        ('{cel: "operation.parameters == []"}', False),
        ("{cel: \"context.freeze == 'x'\"}", False),
        ("{hours: '08:00-09:00'}", False),
        ("{context: {freeze: off}}", False),
    ],
)
def test_a_verdict_is_cacheable_unless_it_read_what_changes(when: str, cacheable: bool) -> None:
    rules = policy(f"- {{id: d, then: deny, when: {when}}}\n", context=FREEZE)
    assert judge(rules, READ).cacheable is cacheable
    elsewhere = policy(f"- {{id: d, then: deny, where: {{target: other}}, when: {when}}}\n", context=FREEZE)
    assert judge(elsewhere, READ).cacheable


def test_another_identity_with_the_same_policy_is_judged_by_its_own_groups() -> None:
    rules = policy("- {id: a, who: {groups: support}, what: {effects: [read]}, then: allow}\n")
    stranger = replace(BOT, groups=frozenset({"other"}))
    assert [judge(rules, READ, who=who).decision for who in (BOT, stranger, BOT)] == [
        Decision.ALLOW,
        Decision.DENY,
        Decision.ALLOW,
    ]
    for number in range(3000):  # more identities than are remembered
        fresh = replace(BOT, groups=frozenset({"support"} if number % 2 else {"other"}))
        assert (judge(rules, READ, who=fresh).decision is Decision.ALLOW) is bool(number % 2)
