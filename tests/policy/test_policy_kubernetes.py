"""Rules about requests to a Kubernetes API."""

from __future__ import annotations

import pytest

from hostagent.inspectors.kubernetes.line import read_line
from hostagent.model.errors import DocumentError
from hostagent.model.verdict import Decision
from tests.policy.policy_world import judge, operation, policy

ALLOW = "  - {{id: a, then: allow, what: {{kubernetes: {{{}}}}}}}"
DENY = "  - {{id: all, then: allow, what: {{effects: [read, insert, update, delete, delete-without-where, execute, drop, host]}}}}\n  - {{id: d, then: deny, what: {{kubernetes: {{{}}}}}}}"
POD = '{"spec":{"containers":[]%s},"metadata":{"name":"web"}}'
HOST = POD % ',"hostPID":true'


@pytest.mark.parametrize(
    ("form", "request_line", "body", "allowed", "denied"),
    [
        ("verbs: get", "GET /api/v1/namespaces/a/pods/b", "", True, True),
        ("verbs: get", "GET /api/v1/namespaces/a/pods", "", False, False),
        ("verbs: '*', resources: pods", "GET /api/v1/namespaces/a/pods/b/exec", "", False, False),
        ("verbs: '*', resources: pods/exec", "GET /api/v1/namespaces/a/pods/b/exec", "", True, True),
        ("verbs: '*', resources: '*'", "GET /api/v1/namespaces/a/pods/b/exec", "", True, True),
        # A way into a pod is opened by GET as by POST.
        ("verbs: get, resources: pods/exec", "GET /api/v1/namespaces/a/pods/b/exec", "", False, True),
        ("verbs: create, resources: pods/exec", "GET /api/v1/namespaces/a/pods/b/exec", "", False, True),
        ("verbs: [get, create], resources: pods/exec", "GET /api/v1/namespaces/a/pods/b/exec", "", True, True),
        ("verbs: '*', subresources: exec", "GET /api/v1/namespaces/a/pods/b/exec", "", True, True),
        ("verbs: '*', groups: core", "GET /api/v1/namespaces/a/pods/b", "", True, True),
        ("verbs: '*', groups: core", "GET /apis/apps/v1/deployments", "", False, False),
        ("verbs: '*', groups: '*.example.com'", "GET /apis/x.example.com/v1/things", "", True, True),
        ("verbs: '*', namespaces: a", "GET /api/v1/namespaces/a/pods/b", "", True, True),
        ("verbs: '*', namespaces: a", "GET /api/v1/namespaces/b/pods/b", "", False, False),
        # A list of all namespaces is a list of that one as well; nodes are in none; what is in a kind of somebody else's nobody knows.
        ("verbs: '*', namespaces: a", "GET /api/v1/pods", "", False, True),
        ("verbs: '*', namespaces: a", "GET /api/v1/nodes", "", False, False),
        ("verbs: '*', namespaces: a", "GET /apis/x.example.com/v1/things", "", False, True),
        ("verbs: '*', names: 'web-*'", "GET /api/v1/namespaces/a/pods/web-0", "", True, True),
        ("verbs: '*', names: 'web-*'", "GET /api/v1/namespaces/a/pods", "", False, True),
        ("verbs: '*', names: 'web-*'", "DELETE /api/v1/namespaces/a/pods", "", False, True),
        ("verbs: '*', names: web", "POST /api/v1/namespaces/a/pods", POD % "", True, True),
        ("verbs: '*', names: db", "POST /api/v1/namespaces/a/pods", POD % "", False, False),
        ("verbs: get, paths: [/version, '/openapi/**']", "GET /openapi/v3/api/v1", "", True, True),
        ("verbs: get, paths: /version", "GET /api/v1/namespaces/version", "", False, False),
        ("verbs: get, resources: '*'", "GET /version", "", False, False),
        # What reaches out is permitted by name only.
        ("verbs: create", "POST /api/v1/namespaces/a/pods", POD % "", True, True),
        ("verbs: create", "POST /api/v1/namespaces/a/pods", HOST, False, True),
        ("verbs: create, privileged: true", "POST /api/v1/namespaces/a/pods", HOST, True, True),
        ("verbs: create, privileged: true", "POST /api/v1/namespaces/a/pods", POD % "", True, False),
        ("verbs: create, dry_run: true", "POST /api/v1/namespaces/a/pods?dryRun=All", POD % "", True, True),
        ("verbs: create, dry_run: true", "POST /api/v1/namespaces/a/pods", POD % "", False, False),
        ("verbs: '*', dry_run: true", "DELETE /api/v1/namespaces/a/pods/p?dryRun=All", "", True, True),
        ("verbs: '*', dry_run: true", "DELETE /api/v1/namespaces/a/pods/p?dryRun=All", '{"kind":"DeleteOptions"}', False, False),
        ("verbs: '*', dry_run: true", "DELETE /api/v1/namespaces/a/pods", '{"dryRun":["All"]}', True, True),
        ("verbs: '*', dry_run: true", "POST /api/v1/namespaces/a/pods/p/exec?command=sh&dryRun=All", "", False, False),
        ("verbs: '*', dry_run: true", "GET /api/v1/namespaces/a/secrets/s?dryRun=All", "", False, False),
        ("verbs: create", "POST /api/v1/namespaces/a/pods/p/binding", '{"target":{"name":"control-plane"}}', False, True),
    ],
)
def test_a_rule_matches_what_it_says(form: str, request_line: str, body: str, allowed: bool, denied: bool) -> None:
    method, _, path = request_line.partition(" ")
    asked = read_line(f"{method} https://k8s.example{path}", [("content-type", "application/json")] if body else [], body)
    assert judge(policy(ALLOW.format(form)), asked).decision is (Decision.ALLOW if allowed else Decision.DENY)
    assert judge(policy(DENY.format(form)), asked).decision is (Decision.DENY if denied else Decision.ALLOW)


def test_an_allow_rule_by_effects_permits_what_reaches_out_by_the_effect_host_only() -> None:
    asked = read_line("POST https://k8s.example/api/v1/namespaces/a/pods", [], HOST)
    rule = "  - {{id: a, then: allow, what: {{effects: {}, kubernetes: {{resources: pods}}}}}}"
    decisions = [judge(policy(rule.format(effects)), asked).decision for effects in ("[insert]", "[insert, host]")]
    assert decisions == [Decision.DENY, Decision.ALLOW]


def test_a_rule_about_kubernetes_is_about_nothing_else() -> None:
    assert judge(policy(ALLOW.format("verbs: '*'")), operation(verb="get")).decision is Decision.DENY


@pytest.mark.parametrize("form", ["", "paths: /version, resources: pods", "privileged: false", "resource: pods"])
def test_a_form_that_says_nothing_sensible_is_refused(form: str) -> None:
    with pytest.raises(DocumentError):
        policy(f"  - {{id: a, then: deny, what: {{kubernetes: {{{form}}}}}}}")
