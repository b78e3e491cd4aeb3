"""Rules about HTTP requests."""

from __future__ import annotations

import pytest

from hostagent.inspectors.http.request import operation
from hostagent.model.errors import DocumentError
from hostagent.model.operation import Effect
from hostagent.model.verdict import Decision
from hostagent.policy import Policy
from hostagent.wire.http1.location import locate
from tests.policy.policy_world import judge, policy
from tests.policy.policy_world import operation as statement


def ask(rules: Policy, method: str, target: str, *fields: tuple[str, str]) -> Decision:
    """Return the verdict on a request at api.example."""
    return judge(rules, operation(method, locate(method, target, "api.example", "https"), fields)).decision


ALLOW = "  - {{id: a, then: allow, what: {{http: {{{}}}}}}}"
DENY = "  - {{id: all, then: allow, what: {{effects: [read, insert, execute]}}}}\n  - {{id: d, then: deny, what: {{http: {{{}}}}}}}"


@pytest.mark.parametrize(
    ("form", "method", "target", "fields", "allowed", "denied"),
    [
        ("methods: GET", "GET", "/a", (), True, True),
        ("methods: get", "GET", "/a", (), True, True),
        ("methods: GET", "POST", "/a", (), False, False),
        ("methods: GET, hosts: api.example", "GET", "/a", (), True, True),
        ("methods: GET, hosts: '*.other'", "GET", "/a", (), False, False),
        ("methods: GET, paths: /a/*", "GET", "/a/b", (), True, True),
        ("methods: GET, paths: /a/*", "GET", "/a/b/c", (), False, False),
        ("methods: GET, paths: /a/**", "GET", "/a/b/c", (), True, True),
        ("methods: GET, paths: /a/**", "GET", "/x/../a/b", (), True, True),
        ("methods: GET, paths: /a/ä?", "GET", "/a/%C3%A4x", (), True, True),
        # An encoded slash or a parameter may be read in two ways.
        ("methods: GET, paths: /a/*", "GET", "/a/b%2Fc", (), False, True),
        ("methods: GET, paths: /a/b/c", "GET", "/a/b%2Fc", (), False, True),
        ("methods: GET, paths: ['/a/*', /a/b/c]", "GET", "/a/b%2Fc", (), True, True),
        ("methods: GET, paths: /a/b", "GET", "/a/b;x=1", (), False, True),
        # There are servers that take letters of either case, and names of parameters in several spellings.
        ("methods: GET, paths: '/v1/Admin/*'", "GET", "/V1/aDMIN/x", (), False, True),
        ("methods: GET, paths: '/v1/Admin/*'", "GET", "/v1/Admin/x", (), True, True),
        ("methods: GET, query: {all_of: '1'}", "GET", "/a?All.Of=1", (), False, True),
        ("methods: GET, query: {all: '1'}", "GET", "/a?all[]=1", (), False, True),
        ("methods: GET, query: {all: '1'}", "GET", "/a?all=1&ALL=1", (), False, True),
        ("methods: GET, query: {q: '1'}", "GET", "/a?q=1", (), True, True),
        ("methods: GET, query: {q: '1'}", "GET", "/a?q=%31&r=2", (), True, True),
        ("methods: GET, query: {q: '1'}", "GET", "/a", (), False, False),
        ("methods: GET, query: {q: '1'}", "GET", "/a?q=1&q=2", (), False, True),
        ("methods: GET, query: {q: '1'}", "GET", "/a?r=2;q=1", (), False, True),
        ("methods: GET, headers: {x: 'y*'}", "GET", "/a", (("X", "yes"),), True, True),
        ("methods: GET, headers: {x: 'y*'}", "GET", "/a", (), False, False),
        ("methods: GET, headers: {x: 'y*'}", "GET", "/a", (("X", "yes"), ("x", "no")), False, True),
        # What cannot be understood is nothing that a rule allows, and anything that a rule denies.
        ("methods: GET", "GET", "/a?_method=PUT", (), False, True),
        ("methods: [GET, BREW]", "BREW", "/a", (), False, True),
    ],
)
def test_a_request_is_matched_strictly_to_be_allowed_and_loosely_to_be_denied(
    form: str, method: str, target: str, fields: tuple[tuple[str, str], ...], allowed: bool, denied: bool
) -> None:
    assert (ask(policy(ALLOW.format(form)), method, target, *fields) is Decision.ALLOW) is allowed
    rules = policy(DENY.format(form))
    verdict = judge(rules, operation(method, locate(method, target, "api.example", "https"), fields))
    assert ("d" in verdict.rules) is denied


def test_effects_and_urls_are_conditions_as_for_any_protocol() -> None:
    rules = policy("  - {id: r, then: allow, what: {effects: [read], objects: [{kind: url, name: api.example/v1/*}]}}")
    assert ask(rules, "GET", "/v1/a?x=1") is Decision.ALLOW
    assert ask(rules, "POST", "/v1/a") is Decision.DENY
    assert ask(rules, "GET", "/v2/a") is Decision.DENY


def test_a_rule_about_http_is_about_nothing_else() -> None:
    assert judge(ALLOW.format("methods: '*'"), statement(Effect.READ, reads=("a",))).decision is Decision.DENY
    both = DENY.format("methods: '*'")
    assert judge(both, statement(Effect.READ, reads=("a",))).decision is Decision.ALLOW


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ("", "give at least one of"),
        ("paths: items/*", "a path begins with /"),
        ("methods: GET, headers: {X-A: b}", "small letters"),
        ("methods: GET, headers: {authorization: b}", "written by the proxy"),
        ("paths: /a", "must name the effects it allows"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(form: str, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        policy(ALLOW.format(form))
