"""Secrets of a cluster: masked in every form in which the API shows them."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.model.event import EventKind
from hostagent.model.operation import Operation
from hostagent.model.verdict import Decision, MaskContent, MaskKubernetes
from tests.gate.gate_http import Talk
from tests.gate.gate_rim import Rules
from tests.gate.test_gate_kubernetes import CLUSTER, ask, status

_WORD = "hunter2-is-the-password"
_CODED = base64.b64encode(_WORD.encode()).decode()
_STAND_IN = base64.b64encode(b"[masked]").decode()
_APPLIED = json.dumps({"kind": "Secret", "data": {"p": _CODED}, "stringData": {"q": _WORD}})
_META = {
    "name": "db", "resourceVersion": "7", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": _APPLIED, "note": "short", "copy": f"{_WORD} " * 10, "kapp.k14s.io/original": json.dumps({"data": {"p": _CODED}}),
    }, "managedFields": [{"fieldsV1": {"f:data": {".": {}, "f:p": {}, "f:P": {}}}}],
}  # fmt: skip
SECRET = {"kind": "Secret", "apiVersion": "v1", "metadata": _META, "data": {"p": _CODED, "P": _CODED}, "stringData": {"q": _WORD}, "type": "Opaque"}


def allow(_: Operation) -> Decision:
    """Allow everything."""
    return Decision.ALLOW


def talk() -> Talk:
    """Return a session in which secrets are masked."""
    return Talk(Rules(allow, (MaskKubernetes("no-secrets", "secrets"),)), target=CLUSTER)


def answer(body: bytes, *fields: str) -> bytes:
    """Return a response."""
    return "\r\n".join(["HTTP/1.1 200 OK", *(fields or ("Content-Type: application/json",)), f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunk(data: bytes) -> bytes:
    """Return a piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


FORMS = [
    ("GET", "secrets/db", SECRET),
    ("GET", "secrets", {"kind": "SecretList", "items": [{key: SECRET[key] for key in ("metadata", "data")}] * 2}),
    ("GET", "secrets", {"kind": "List", "items": [{"kind": "List", "items": [SECRET]}]}),
    ("GET", "secrets", {"kind": "Table", "rows": [{"cells": ["db", "Opaque", 2], "object": {"kind": "PartialObjectMetadata", "metadata": _META}}]}),
    ("GET", "secrets", {"kind": "Table", "rows": [{"cells": ["db", "Opaque", 2], "object": SECRET}]}),
    ("GET", "secrets", {"kind": "PartialObjectMetadataList", "items": [{"metadata": _META}]}),
    ("PATCH", "secrets/db", SECRET),
    ("DELETE", "secrets/db", SECRET),
    ("POST", "serviceaccounts/bot/token", {"kind": "TokenRequest", "status": {"token": _WORD}}),
]


@pytest.mark.parametrize(("method", "where", "value"), FORMS)
def test_no_form_shows_a_value(method: str, where: str, value: dict[str, object]) -> None:
    session = talk()
    body = b"{}" if method in ("PATCH", "POST") else b""
    kind = "Content-Type: application/merge-patch+json" if method == "PATCH" else "Content-Type: application/json"
    session.client(ask(method, f"/api/v1/namespaces/prod/{where}", *([kind] if body else []), "Accept-Encoding: gzip", body=body))
    assert b"Accept-Encoding: identity" in session.up
    session.server(answer(json.dumps(value).encode()))
    told = session.down.decode()
    assert (_WORD in told, _CODED in told, "masked" in told or _STAND_IN in told) == (False, False, True)
    assert json.loads(told.partition("\r\n\r\n")[2]).keys() == value.keys()
    [(masked, decision)] = session.records(EventKind.RESULT, "masked_values", "outcome")
    assert (int(str(masked)) > 0, decision) == (True, "ok")


def test_an_object_keeps_its_shape() -> None:
    session = talk()
    session.client(ask("GET", "/api/v1/namespaces/prod/secrets/db"))
    session.server(answer(json.dumps(SECRET).encode()))
    found = json.loads(session.down.partition(b"\r\n\r\n")[2])
    assert found["data"] == {"p": _STAND_IN, "P": _STAND_IN}
    assert found["stringData"] == {"q": "[masked]"}
    assert json.loads(found["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"])["data"] == {"p": _STAND_IN}
    assert (found["metadata"]["annotations"]["note"], found["metadata"]["annotations"]["copy"], found["type"]) == ("short", "[masked]", "Opaque")
    assert (found["metadata"]["resourceVersion"], found["metadata"]["managedFields"]) == ("7", _META["managedFields"])


EVENTS = b"".join(json.dumps({"type": kind, "object": SECRET}).encode() + b"\n" for kind in ("ADDED", "MODIFIED", "DELETED"))
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, len(EVENTS) - 1), max_size=6))
def test_events_of_a_watch_are_masked_as_they_come_however_they_are_cut(cuts: list[int]) -> None:
    session = talk()
    session.client(ask("GET", "/api/v1/secrets?watch=1"))
    session.server(_HEAD)
    bounds = [0, *sorted(set(cuts)), len(EVENTS)]
    for start, end in pairwise(bounds):
        piece = EVENTS[start:end]
        session.server(chunk(piece))
        seen = session.down.count(b'"type":')
        assert seen >= EVENTS[:end].count(b"\n")  # no event waits for the next one
    session.server(b"0\r\n\r\n")
    told = session.down
    assert (_WORD.encode() in told, _CODED.encode() in told, told.count(b'"type":"Opaque"'), told.endswith(b"0\r\n\r\n")) == (False, False, 3, True)


@pytest.mark.parametrize(
    "response",
    [
        answer(b"k8s\0secret", "Content-Type: application/vnd.kubernetes.protobuf"),
        answer(b"\xd9\xd9\xf7", "Content-Type: application/cbor"),
        answer(b"not json at all"),
        answer(b'{"data":{"a":"1"},"data":{"a":"2"}}'),
        answer(b"kind: Secret", "Content-Type: application/yaml"),
        answer(b"\x1f\x8b", "Content-Type: application/json", "Content-Encoding: gzip"),
    ],
)
def test_what_cannot_be_masked_does_not_pass(response: bytes) -> None:
    session = talk()
    session.client(ask("GET", "/api/v1/namespaces/prod/secrets/db"))
    session.server(response)
    assert (status(session)["code"], session.closed) == (502, True)


@pytest.mark.parametrize(
    ("method", "kind", "body", "words"),
    [
        ("PATCH", "json-patch+json", [{"op": "copy", "from": "/data/p", "path": "/metadata/labels/p"}], "could show what a rule masks"),
        ("PATCH", "json-patch+json", [{"op": "move", "from": "/data/p", "path": "/metadata/labels/p"}], "could show what a rule masks"),
        ("PATCH", "json-patch+json", [{"op": "test", "path": "/data/p", "value": "aGk="}], "could show what a rule masks"),
        ("PUT", "json", {"kind": "Secret", "data": {"p": _STAND_IN}}, "overwrite the value itself"),
        ("PATCH", "merge-patch+json", {"stringData": {"p": "[masked]"}}, "overwrite the value itself"),
    ],
)
def test_a_write_that_would_tell_or_destroy_a_masked_value_is_refused(method: str, kind: str, body: object, words: str) -> None:
    session = talk()
    session.client(ask(method, "/api/v1/namespaces/prod/secrets/db", f"Content-Type: application/{kind}", body=json.dumps(body).encode()))
    assert (session.up, words in str(status(session)["message"])) == (b"", True)


def test_a_followed_log_is_masked_line_by_line() -> None:
    session = Talk(Rules(allow, (MaskContent("mails", frozenset({"email"})),)), target=CLUSTER)
    session.client(ask("GET", "/api/v1/namespaces/prod/pods/web/log?follow=true"))
    session.server(_HEAD.replace(b"application/json", b"text/plain"))
    session.server(chunk(b"50%\rhello ann@example.com\nhalf bo"))
    assert session.down.endswith(b"50%\rhello [masked:email]\n\r\n")
    session.server(chunk(b"b@example.com\n") + b"0\r\n\r\n")
    assert session.down.endswith(b"half [masked:email]\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f'Secret "" is invalid: patch: Invalid value: "{{\\"data\\":{{\\"p\\":\\"{_CODED}\\"}}}}": illegal base64 data', 'Secret "" is invalid: patch: [masked]'),
        (f"cannot read {json.dumps(SECRET)}", "cannot read [masked]"),
        ('secrets "db" not found', 'secrets "db" not found'),
    ],
)
def test_an_error_does_not_show_the_object_that_it_is_about(said: str, shown: str) -> None:
    """A patch whose result is no Secret (a value that is not base64) is refused with that result, whole."""
    session = talk()
    session.client(ask("PATCH", "/api/v1/namespaces/a/secrets/db", "Content-Type: application/merge-patch+json", body=b'{"data":{"new":"!"}}'))
    failure = {"kind": "Status", "status": "Failure", "message": said, "details": {"causes": [{"message": said, "field": "patch"}]}, "code": 422}
    session.server(answer(json.dumps(failure).encode()))
    told = status(session)
    assert (told["message"], told["details"]) == (shown, {"causes": [{"message": shown, "field": "patch"}]})
