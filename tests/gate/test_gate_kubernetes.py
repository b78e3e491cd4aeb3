"""The Kubernetes API through the gate: what reaches the server, what the client is told, what is recorded."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.inspectors.kubernetes.podspec import APPARMOR
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.operation import Operation
from hostagent.model.target import CredentialSource, Login, Target, UpstreamTLS
from hostagent.model.verdict import Decision
from tests.gate.gate_http import Talk
from tests.gate.gate_rim import Rules

CLUSTER = Target("cluster", "kubernetes", ("k8s.example",), 80, Login("", CredentialSource("file", "/x"), "bearer"), UpstreamTLS.DISABLE)


def by_meaning(operation: Operation) -> Decision:
    """Deny namespaces and what reaches out, hold exec and deployments, allow the rest."""
    said = operation.attributes
    if operation.completeness.value != "full" or said.get("resource") == "namespaces" or said.get("privileged", "no") != "no":
        return Decision.DENY
    return Decision.HOLD if said.get("subresource") == "exec" or said.get("resource") == "deployments" else Decision.ALLOW


def talk(rules: Rules | None = None) -> Talk:
    """Return a session with the cluster."""
    return Talk(rules or Rules(by_meaning), target=CLUSTER)


def ask(method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: k8s.example", *fields, *length, "", ""]).encode() + body


def status(session: Talk) -> dict[str, object]:
    """Return the Status that the client got."""
    found: dict[str, object] = json.loads(session.down.partition(b"\r\n\r\n")[2])
    return found


def test_a_request_goes_on_in_our_name_only_and_asks_for_json() -> None:
    session = talk()
    session.client(
        ask(
            "GET", "/api/v1/namespaces/prod/pods?limit=5&access_token=theirs&%61ccess_token=2", "Authorization: Bearer theirs",
            "Impersonate-User: system:admin", "impersonate-group: system:masters", "Impersonate-Extra-x: y", "Impersonate-Uid: 1",
            "X-Remote-User: admin", "X-Remote-Group: system:masters", "X_Remote_Extra_a: b", "User-Agent: kubectl", "Kubectl-Session: 1b2c",
            "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/vnd.kubernetes.protobuf,application/cbor,*/*",
        )
    )  # fmt: skip
    assert session.up == ask(
        "GET", "/api/v1/namespaces/prod/pods?limit=5", "User-Agent: kubectl", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "Authorization: Bearer ours",
    )  # fmt: skip
    assert session.records(EventKind.STATEMENT, "verb", "effects", "resources", "decision") == [
        ("list", ["read"], [{"kind": "kubernetes", "name": "prod/pods/*", "access": "read"}], "allow")
    ]
    assert session.records(EventKind.STATEMENT, "text", "parameters") == [("GET http://k8s.example/api/v1/namespaces/prod/pods?limit=?", ["5"])]


def test_a_refusal_is_a_status_that_kubectl_shows_and_the_connection_lives() -> None:
    session = talk()
    session.client(ask("DELETE", "/api/v1/namespaces/prod"))
    assert (status(session), session.up, session.closed) == (
        {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": "hostagent: denied by rule deny-rule: test says deny (Ask whoever keeps the policy for a rule that allows this.)",
            "details": {"name": "prod", "kind": "namespaces", "causes": [
                {"reason": "HostagentRule", "message": "deny-rule"}, {"reason": "HostagentPolicy", "message": "0" * 12},
                {"reason": "HostagentNextStep", "message": "Ask whoever keeps the policy for a rule that allows this."},
            ]},
        }, b"", False,
    )  # fmt: skip
    assert session.records(EventKind.STATEMENT, "verb", "effects", "decision") == [("delete", ["delete", "drop"], "deny")]


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (ask("GET", "/api/v1/Pods"), 400, "what the request is about cannot be told"),
        (ask("POST", "/api/v1/namespaces/a/pods", "Content-Type: application/vnd.kubernetes.protobuf", body=b"k8s\0x"), 415, "send JSON"),
        (ask("POST", "/api/v1/namespaces/a/pods", "Content-Type: application/cbor", body=b"\xd9\xd9\xf7"), 415, "send JSON"),
        (ask("PATCH", "/api/v1/namespaces/a/pods/b", "Content-Type: application/json", body=b"{}"), 415, "send JSON"),
        (ask("POST", "/api/v1/namespaces/a/pods/b/portforward", "Connection: Upgrade", "Upgrade: SPDY/3.1"), 403, "SPDY/3.1 is not spoken here"),
        (ask("POST", "/api/v1/namespaces/a/pods/b/exec?command=sh", "Connection: Upgrade", "Upgrade: SPDY/3.1"), 403, "held by rule hold-rule"),
        (ask("GET", "/api/v1/pods?watch=1", "Connection: Upgrade", "Upgrade: h2c"), 403, "change of protocol"),
    ],
)
def test_what_no_policy_can_allow_never_reaches_the_server(asked: bytes, code: int, words: str) -> None:
    session = talk()
    session.client(asked)
    found = status(session)
    assert (found["code"], words in str(found["message"]), session.up) == (code, True, b""), found


@pytest.mark.parametrize(
    "body",
    [b'{"kind":"ConfigMap","kind":"Pod"}', b"kind: Pod\n", b"\xff", b'{"a":1} {"b":2}'],
)
def test_a_body_that_is_not_json_in_one_reading_counts_as_everything(body: bytes) -> None:
    session = talk()
    session.client(ask("POST", "/api/v1/namespaces/a/configmaps", "Content-Type: application/json", body=body))
    assert (status(session)["code"], session.up) == (403, b"")
    [(effects, completeness)] = session.records(EventKind.STATEMENT, "effects", "completeness")
    assert (len(effects) > 20, completeness) == (True, "opaque")  # type: ignore[arg-type]


def test_a_body_is_judged_as_a_whole_and_written_anew() -> None:
    session = talk()
    body = b'{ "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "A": "2"} }'
    session.client(ask("POST", "/api/v1/namespaces/a/configmaps", "Content-Type: application/json", body=body)[:-20])
    assert session.up == b""
    session.client(body[-20:])
    assert session.up.endswith(b'{"kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1","A":"2"}}')


def test_a_hold_that_takes_too_long_is_a_status_with_its_ticket() -> None:
    session = talk(Rules(by_meaning))
    session.client(ask("DELETE", "/apis/apps/v1/namespaces/prod/deployments/web"))
    assert session.up == b""
    session.do(session.gate.tick(10_000.0))
    found = status(session)
    causes = {each["reason"] for each in found["details"]["causes"]}  # type: ignore[index]
    assert (found["code"], found["reason"], "HostagentTicket" in causes) == (403, "Forbidden", True)


POD = '{"spec":{"containers":[{"name":"c"%s}]%s}}'


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (POD % ("", ""), []),
        (POD % (',"securityContext":{"privileged":false,"capabilities":{"add":["NET_BIND_SERVICE"],"drop":["ALL"]}}', ',"serviceAccountName":"default"'), []),
        (POD % (',"securityContext":{"privileged":true}', ""), ["privileged"]),
        (POD % (',"securityContext":{"capabilities":{"add":["NET_BIND_SERVICE","SYS_ADMIN"]}}', ""), ["capabilities"]),
        (POD % (',"securityContext":{"procMount":"Unmasked","seccompProfile":{"type":"Unconfined"}}', ""), ["procMount", "seccompProfile"]),
        (POD % (',"securityContext":{"seLinuxOptions":{"type":"spc_t"}}', ""), ["seLinuxOptions"]),
        (POD % (',"securityContext":{"seLinuxOptions":{"role":"sysadm_r"}}', ""), ["seLinuxOptions"]),
        (POD % (',"securityContext":{"seLinuxOptions":{"type":"container_t","level":"s0:c1,c2"}}', ""), []),
        (POD % (',"ports":[{"hostPort":22}]', ""), ["hostPort"]),
        (POD % ("", ',"hostNetwork":true,"hostPID":true,"hostIPC":true'), ["hostIPC", "hostNetwork", "hostPID"]),
        (POD % ("", ',"volumes":[{"name":"x","hostPath":{"path":"/"}}]'), ["hostPath"]),
        (POD % ("", ',"initContainers":[{"securityContext":{"privileged":true}}]'), ["privileged"]),
        (POD % ("", ',"ephemeralContainers":[{"name":"d"}]'), ["ephemeralContainers"]),
        (POD % ("", ',"serviceAccountName":"admin","nodeName":"control-plane"'), ["nodeName", "serviceAccountName"]),
        ('{"spec":{"hostPath":{"path":"/etc"},"capacity":{}}}', ["hostPath"]),
        ('{"spec":{"template":' + POD % (',"securityContext":{"privileged":true}', "") + "}}", ["privileged"]),
        ('{"spec":{"jobTemplate":{"spec":{"template":' + POD % ("", ',"hostPID":true') + "}}}}", ["hostPID"]),
        ('{"metadata":{"annotations":{"kubernetes.io/service-account.name":"admin"}},"type":"kubernetes.io/service-account-token"}', ["serviceAccountName"]),
        ('{"kind":"List","items":[' + POD % ("", ',"hostPID":true') + "]}", ["hostPID"]),
        ('{"data":{"hostNetwork":"true","serviceAccountName":"x"},"metadata":{"name":"x"}}', []),
        ('{"spec":{"data":{"pod":' + POD % ("", ',"hostPID":true') + "}}}", ["hostPID"]),
    ],
)
def test_what_makes_a_pod_reach_out_is_found_wherever_it_is_described(body: str, found: list[str]) -> None:
    session = talk()
    session.client(ask("POST", "/apis/apps/v1/namespaces/a/statefulsets", "Content-Type: application/json", body=body.encode()))
    [(effects, resources)] = session.records(EventKind.STATEMENT, "effects", "resources")
    assert [each["name"] for each in resources if each["kind"] == "privilege"] == found  # type: ignore[attr-defined]
    assert ("host" in effects, session.up != b"") == (bool(found), not found)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("where", "kind", "body", "surely_not"),
    [
        ("apps/v1/namespaces/a/statefulsets/w", "strategic-merge-patch+json", '{"spec":{"replicas":3}}', True),
        ("apps/v1/namespaces/a/statefulsets/w", "merge-patch+json", '{"metadata":{"labels":{"a":"b"}}}', True),
        ("apps/v1/namespaces/a/statefulsets/w", "merge-patch+json", '{"spec":{"template":{"metadata":{"labels":null}}}}', True),
        ("apps/v1/namespaces/a/statefulsets/w", "merge-patch+json", '{"spec":{"template":{"spec":{"x":1}}}}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "merge-patch+json", '{"spec":{"template":null}}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "strategic-merge-patch+json", '{"spec":{"$patch":"replace"}}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "apply-patch+yaml", '{"spec":{"template":{"spec":{"containers":[]}}}}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "apply-patch+yaml", '{"spec":{"replicas":1},"<<":{"a":1}}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "apply-patch+yaml", "spec: {replicas: 1}", False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"replace","path":"/spec/replicas","value":1}]', True),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"test","path":"/spec/template/spec","value":1}]', True),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"add","path":"/spec/template/spec/hostPID","value":true}]', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"add","path":"/spec","value":{}}]', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"replace","path":"","value":{}}]', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"move","from":"/metadata/x","path":"/spec/template"}]', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"odd","path":"/metadata"}]', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '{"op":"add"}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "merge-patch+json", '{"spec":{"template":{"metadata":{"annotations":{"APPARMORc":"unconfined"}}}}}', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"add","path":"/spec/template/metadata/annotations/APPARMOR~1c","value":"x"}]', False),
        ("apps/v1/namespaces/a/statefulsets/w", "json-patch+json", '[{"op":"add","path":"/spec/template/metadata","value":{"annotations":{"APPARMORc":"x"}}}]', False),
        ("example.com/v1/namespaces/a/secrets/w", "apply-patch+yaml", '{"metadata":{"annotations":{"kubernetes.io/service-account.name":"admin"}}}', False),
        ("example.com/v1/namespaces/a/rollouts/w", "merge-patch+json", '{"spec":{"weight":3}}', True),
        ("example.com/v1/namespaces/a/rollouts/w", "merge-patch+json", '{"spec":{"t":{"containers":[]}}}', False),
        ("example.com/v1/namespaces/a/rollouts/w", "json-patch+json", '[{"op":"add","path":"/spec/t/securityContext/x","value":true}]', False),
    ],
)
def test_a_patch_that_may_change_a_pods_description_counts_as_one_that_reaches_out(where: str, kind: str, body: str, surely_not: bool) -> None:
    session = talk()
    body = body.replace("APPARMOR~1", APPARMOR[:-1] + "~1").replace("APPARMORc", APPARMOR + "c")
    session.client(ask("PATCH", f"/apis/{where}?fieldManager=x", f"Content-Type: application/{kind}", body=body.encode()))
    head = session.up.partition(b"\r\n")[0]
    known = head.endswith(b"?fieldManager=x HTTP/1.1")
    assert known is surely_not
    assert known or head in (b"", f"PATCH /apis/{where}?fieldManager=x&dryRun=All HTTP/1.1".encode())


_PATCH = ask(
    "PATCH", "/apis/apps/v1/namespaces/a/statefulsets/w?dryRun=All&force=true", "Content-Type: application/strategic-merge-patch+json", "Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "Accept-Encoding: gzip", body=b'{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"new"}]}}}}',
)  # fmt: skip


def answer(code: int, body: bytes, *fields: str) -> bytes:
    """Return a response of the server."""
    return "\r\n".join([f"HTTP/1.1 {code} X", "Content-Type: application/json", *fields, f"Content-Length: {len(body)}", "", ""]).encode() + body


def result(more: str) -> bytes:
    """Return the object that a dry run shows."""
    return ('{"kind":"StatefulSet","spec":{"template":' + POD % (more, "") + "}}").encode()


def test_a_patch_is_judged_by_the_object_that_a_dry_run_shows() -> None:
    session = talk()
    session.client(_PATCH)
    asked = session.up
    assert asked.startswith(b"PATCH /apis/apps/v1/namespaces/a/statefulsets/w?force=true&dryRun=All HTTP/1.1\r\nHost: k8s.example\r\n")
    for field in (b"Accept: application/json\r\n", b"Accept-Encoding: identity\r\n", b"Authorization: Bearer ours\r\n"):
        assert asked.count(field) == 1
    assert asked.endswith(b'"image":"new"}]}}}}')
    assert session.records(EventKind.STATEMENT, "verb") == []
    response = answer(200, result(""))
    session.server(response[:30])
    session.server(response[30:])
    assert (session.up[len(asked) :].partition(b"\r\n")[0], session.down) == (_PATCH.partition(b"\r\n")[0], b"")
    session.server(answer(200, b"{}"))
    assert session.down.endswith(b"{}")
    assert session.records(EventKind.STATEMENT, "effects", "decision") == [(["insert", "update"], "allow")]


@pytest.mark.parametrize(
    ("response", "found"),
    [
        (answer(200, result(',"securityContext":{"privileged":true}')), ["privileged"]),
        (answer(409, b'{"kind":"Status"}'), ["unknown"]),
        (answer(200, b'{"kind":"Status"}'), ["unknown"]),
        (answer(200, b"k8s\0"), ["unknown"]),
        (answer(200, result("").replace(b"StatefulSet", b"PartialObjectMetadata")), ["unknown"]),
        (answer(200, b'{"kind":"StatefulSet","spec":{}}'), ["unknown"]),
        (answer(200, result("").replace(b'"kind":"StatefulSet",', b"")), ["unknown"]),
    ],
)
def test_a_patch_whose_result_reaches_out_or_is_not_shown_does_not_go_on(response: bytes, found: list[str]) -> None:
    session = talk()
    session.client(_PATCH)
    asked = session.up
    session.server(response)
    assert (session.up, status(session)["code"], session.closed) == (asked, 403, False)
    [(resources,)] = session.records(EventKind.STATEMENT, "resources")
    assert [each["name"] for each in resources if each["kind"] == "privilege"] == found  # type: ignore[attr-defined]


@pytest.mark.parametrize("response", [answer(200, result(""), "Connection: close"), b"HTTP/1.0 200 OK\r\n\r\n", b"nonsense\r\n\r\n", answer(200, result("")) + b"more"])
def test_an_answer_to_a_dry_run_that_cannot_be_read_ends_the_session(response: bytes) -> None:
    session = talk()
    session.client(_PATCH)
    asked = session.up
    session.server(response)
    assert (session.up, status(session)["code"], session.closed) == (asked, 502, True)
    assert session.records(EventKind.STATEMENT, "verb", "decision") == [("patch", "deny")]


@pytest.mark.parametrize("side", list(Side))
def test_a_patch_that_ends_while_its_dry_run_is_asked_is_recorded_all_the_same(side: Side) -> None:
    session = talk()
    session.client(_PATCH)
    session.do(session.gate.closed(side, 1.0))
    assert session.records(EventKind.STATEMENT, "verb", "decision") == [("patch", "deny")]
    assert len(session.records(EventKind.RESULT, "outcome")) == 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_however_requests_and_answers_are_cut_the_same_passes(data: st.DataObject) -> None:
    flow = [(True, _PATCH), (False, answer(200, result(""))), (False, answer(200, b'{"kind":"StatefulSet"}')), (True, ask("DELETE", "/api/v1/namespaces/a"))]
    whole, cut = talk(), talk()
    for from_client, message in flow:
        (whole.client if from_client else whole.server)(message)
        bounds = sorted({0, *data.draw(st.lists(st.integers(0, len(message)), max_size=4)), len(message)})
        for start, end in pairwise(bounds):
            (cut.client if from_client else cut.server)(message[start:end])
    assert (cut.up, cut.down) == (whole.up, whole.down)
    assert cut.records(EventKind.STATEMENT, "verb", "decision") == [("patch", "allow"), ("delete", "deny")]


def test_no_dry_run_is_asked_for_what_is_denied_anyway() -> None:
    session = Talk(Rules(lambda _: Decision.DENY), target=CLUSTER)
    session.client(_PATCH)
    assert (session.up, status(session)["code"]) == (b"", 403)


def test_what_is_sent_through_a_proxy_is_no_patch_that_a_dry_run_could_ask_about() -> None:
    session = talk()
    body = b'{"spec":{"volumes":[{"hostPath":{"path":"/"}}]}}'
    session.client(ask("PATCH", "/api/v1/nodes/n/proxy/x", "Content-Type: application/merge-patch+json", body=body))
    assert (session.up, status(session)["code"]) == (b"", 403)


def test_the_same_request_of_another_run_of_kubectl_is_the_same_request() -> None:
    """What differs are random numbers, in fields that go no further."""
    asked: list[Operation] = []
    session = talk(Rules(lambda operation: asked.append(operation) or Decision.DENY))  # type: ignore[func-returns-value]
    for number in ("1", "2"):
        session.client(ask("DELETE", "/apis/apps/v1/namespaces/prod/deployments/web", f"Kubectl-Session: {number}"))
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {number}GhlIHNhbXBsZSBub25jZQ==")
        session.client(ask("GET", "/api/v1/namespaces/a/pods/b/exec?command=id", *upgrade, "Sec-WebSocket-Protocol: v5.channel.k8s.io"))
    assert asked[:2] == asked[2:4]
    assert asked[1].attributes["subresource"] == "exec"
