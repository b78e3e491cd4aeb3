"""Bodies of requests through the gate: looked at where a rule does, written anew, and no other method inside."""

from __future__ import annotations

import json

import pytest

from hostagent.model.event import EventKind
from hostagent.policy import Policy
from tests.gate.gate_http import Talk, answer
from tests.gate.gate_rim import make_context
from tests.policy.policy_world import policy

_RULES = """\
  - {id: reports, then: allow, what: {http: {methods: POST, paths: /reports, body: {json: {"$.kind": [weekly, monthly], "$.count": "1*"}}}}}
  - {id: comments, then: allow, what: {http: {methods: POST, paths: /comments, body: {form: {action: create}}}}}
  - {id: anything, then: allow, what: {http: {methods: [POST, PUT], paths: /any/**}}}
  - {id: no-admins, then: deny, reason: no admins, what: {http: {paths: /any/users, body: {json: {"$..role": admin}}}}}
  - {id: people, then: allow, what: {http: {methods: GET, paths: /people}}, mask: {json: ["$..iban", "$.people[*].age"], transform: partial}}
"""


@pytest.fixture(scope="module")
def rules() -> Policy:
    """The rules of these tests."""
    return policy(_RULES)


def ask(rules: Policy, path: str, body: bytes, kind: str = "application/json", method: str = "POST", *, pieces: int = 0, chunked: bool = False) -> Talk:
    """Return the talk after one request, in pieces if asked."""
    talk = Talk(rules)  # type: ignore[arg-type]
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    kinds = f"Content-Type: {kind}\r\n" if kind else ""
    if chunked:
        body = b"".join(b"1\r\n%c\r\n" % letter for letter in body) + b"0\r\n\r\n"
    data = f"{method} {path} HTTP/1.1\r\nHost: api.example\r\n{kinds}{framing}\r\n\r\n".encode() + body
    size = pieces or len(data)
    for at in range(0, len(data), size):
        talk.client(data[at : at + size])
    return talk


@pytest.mark.parametrize(
    ("path", "body", "kind", "up"),
    [
        ("/reports", b'{"kind": "weekly",\n "count": 10}', "application/json", b'{"kind":"weekly","count":10}'),
        ("/reports", b'{"k\\u0069nd": "weekly", "count": 1e1}', "application/vnd.x+json; charset=UTF-8", b'{"kind":"weekly","count":1e1}'),
        ("/comments", b"action=create&text=a%20b", "application/x-www-form-urlencoded", b"action=create&text=a%20b"),
        ("/any/users", b'{"role": "reader"}', "application/json", b'{"role":"reader"}'),
        ("/any/users", b"", "application/json", b""),
        ("/any/else", b'{"role": "admin"}', "application/json", b'{"role": "admin"}'),
    ],
)
@pytest.mark.parametrize("way", [{}, {"pieces": 1}, {"chunked": True}])
def test_a_body_that_a_rule_looks_at_is_written_anew(rules: Policy, path: str, body: bytes, kind: str, up: bytes, way: dict[str, int]) -> None:
    if way.get("chunked") and path == "/any/else":
        way = {}  # not looked at, so that chunks pass as chunks
    talk = ask(rules, path, body, kind, **way)  # type: ignore[arg-type]
    head, _, sent = talk.up.partition(b"\r\n\r\n")
    assert sent == up
    assert f"Content-Length: {len(up)}".encode() in head
    assert talk.records(EventKind.STATEMENT, "decision") == [("allow",)]


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/reports", b'{"kind": "daily", "count": 1}', "application/json"),
        ("/reports", b'{"Kind": "weekly", "count": 1}', "application/json"),
        ("/reports", b'{"kind": "daily", "kind": "weekly", "count": 1}', "application/json"),
        ("/reports", b'{"kind": ["weekly"], "count": 1}', "application/json"),
        ("/reports", b'{"kind": "weekly", "count": 1}', "text/plain"),
        ("/reports", b'{"kind": "weekly", "count": 1}', "application/json; charset=utf-16"),
        ("/reports", b'{"kind": "weekly", "count": 1', "application/json"),
        ("/reports", b"", "application/json"),
        ("/comments", b"action=create&action=delete", "application/x-www-form-urlencoded"),
        ("/comments", b"action=create&action[]=delete", "application/x-www-form-urlencoded"),
        ("/comments", b'{"action": "create"}', "application/json"),
        ("/any/users", b'{"people": [{"ROLE": "admin"}]}', "application/json"),
        ("/any/users", b'{"r\\u006fle": "admin"}', "application/json"),
        ("/any/users", b'{"role": ["admin"]}', "application/json"),
        ("/any/users", b'{"role": "x", "role": "y"}', "application/json"),
        ("/any/users", b"role=x", "application/x-www-form-urlencoded"),
        ("/any/users", b'{"role": "admin"}', "application/octet-stream"),
    ],
)
def test_a_body_that_is_or_may_be_another_does_not_pass(rules: Policy, path: str, body: bytes, kind: str) -> None:
    talk = ask(rules, path, body, kind)
    assert (talk.up, talk.problem()["status"], talk.closed) == (b"", 403, False)
    assert talk.records(EventKind.STATEMENT, "decision") == [("deny",)]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"a=1&_method=DELETE", "application/x-www-form-urlencoded"),
        (b"a=1&%5Fmethod=DELETE", "application/x-www-form-urlencoded"),
        (b"a=1&.method=DELETE", "application/x-www-form-urlencoded"),
        (b"_METHOD=DELETE", "application/x-www-form-urlencoded"),
        (b"_method=DELETE", ""),
        (b"_method=DELETE", "application/x-www-form-urlencoded, text/plain"),
        (b"a=\xff", "application/x-www-form-urlencoded"),
        (b'--X\r\nContent-Disposition: form-data; name="_method"\r\n\r\nDELETE\r\n--X--\r\n', "multipart/form-data; boundary=X"),
        (b"--X\r\nContent-Disposition: form-data; name=_method\r\n\r\nDELETE\r\n--X--\r\n", "multipart/form-data; boundary=X"),
        (b"x" * 1_100_000, "application/x-www-form-urlencoded"),
    ],
)
def test_a_form_that_may_name_another_method_counts_as_every_effect(rules: Policy, body: bytes, kind: str) -> None:
    talk = ask(rules, "/any/thing", body, kind)
    assert (talk.up, talk.problem()["status"]) == (b"", 403)
    [(completeness, effects)] = talk.records(EventKind.STATEMENT, "completeness", "effects")
    assert (completeness, "drop" in str(effects)) == ("opaque", True)
    assert ask(policy(f"  - {{id: all, then: allow, what: {{effects: [{_ALL}]}}}}\n"), "/x", body, kind).up.endswith(body[-50:])


_ALL = (
    "connect, read, insert, update, update-without-where, delete, delete-without-where, truncate, create, alter, drop, privilege, session, "
    "transaction, lock, notify, execute, import, export, host, admin, replication, cancel, fastpath"
)


@pytest.mark.parametrize("name", [b"_method", b"\\u005fmethod", b"_METH\\u004fD"])
@pytest.mark.parametrize("pieces", [0, 1])
def test_a_json_body_that_names_another_method_never_reaches_the_target_whole(rules: Policy, name: bytes, pieces: int) -> None:
    body = b'{"a": "' + b"x" * 100 + b'", "' + name + b'": "DELETE"}'
    talk = ask(rules, "/any/thing", body, pieces=pieces)
    assert (b"DELETE" in talk.up, b'"DELETE"}' in talk.up, talk.closed) == (False, False, True)
    [(outcome, tag)] = talk.records(EventKind.RESULT, "outcome", "tag")
    assert (outcome, tag) == ("denied", "403")
    assert ask(rules, "/any/thing", body, method="PUT").up.endswith(body), "only a POST is taken for something else"


def test_a_client_that_waits_to_send_is_invited_before_its_body_is_judged(rules: Policy) -> None:
    talk = Talk(rules)  # type: ignore[arg-type]
    talk.client(b"POST /comments HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 13\r\nExpect: 100-continue\r\n\r\n")
    assert (talk.down, talk.up) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    talk.client(b"action=create")
    assert b"Expect" not in talk.up
    assert talk.up.endswith(b"\r\n\r\naction=create")


_PEOPLE = b'{"people": [{"name": "Ann", "age": 41, "IBAN": "DE02120300000000202051"}, {"age": null}], "note": {"iban": {"x": 1}}}'


def test_what_stands_at_a_masked_place_does_not_come_back(rules: Policy) -> None:
    talk = Talk(rules)  # type: ignore[arg-type]
    talk.client(b"GET /people HTTP/1.1\r\nHost: api.example\r\nAccept-Encoding: gzip\r\n\r\n")
    assert b"Accept-Encoding: identity" in talk.up
    talk.server(answer(_PEOPLE))
    assert json.loads(talk.down.partition(b"\r\n\r\n")[2]) == {
        "people": [{"name": "Ann", "age": 0, "IBAN": "****2051"}, {"age": None}], "note": {"iban": {}},
    }  # fmt: skip
    assert talk.records(EventKind.RESULT, "outcome", "masked_values") == [("ok", 3)]


@pytest.mark.parametrize(
    ("body", "kind"),
    [(_PEOPLE, b"text/plain"), (b'{"iban": 1, "iban": "DE02"}', b"application/json"), (b"<iban>DE02</iban>", b"application/xml"), (b'{"iban": "DE02', b"application/json")],
)  # fmt: skip
def test_a_response_in_which_places_cannot_be_found_is_refused(rules: Policy, body: bytes, kind: bytes) -> None:
    talk = Talk(rules)  # type: ignore[arg-type]
    talk.client(b"GET /people HTTP/1.1\r\nHost: api.example\r\n\r\n")
    talk.server(answer(body, kind=kind))
    assert (talk.problem()["status"], b"DE02" in talk.down) == (502, False)


def test_a_rule_that_masks_places_refuses_statements_of_another_protocol() -> None:
    from tests.gate.gate_rim import make_session
    from tests.policy.policy_world import operation

    masked = policy('  - {id: all, then: allow, what: {effects: [read]}}\n  - {id: places, then: mask, mask: {json: ["$.a"]}}\n')
    desk, _ = make_session(make_context(masked))
    from hostagent.inspectors.ports import Subject

    verdict = desk.rule(Subject(b"select 1", (), (operation(),))).verdict
    assert (verdict.decision.value, verdict.rules[0], "HTTP only" in verdict.reason) == ("deny", "places", True)


_LONG = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%s\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "response", "ahead"),
    [
        ("/any/a", _LONG % b"Content-Length: 100" + b"x" * 10, 90),
        ("/any/a", _LONG % b"Content-Length: 100" + b"x" * 100, 0),
        ("/any/a", _LONG % b"Transfer-Encoding: chunked" + b"64\r\n" + b"x" * 10, 90),
        ("/any/a", _LONG % b"Transfer-Encoding: chunked" + b"a\r\n" + b"x" * 10 + b"\r\n64", 0),
        ("/any/a", _LONG[:40], 0),
        ("/any/a", _LONG % b"Content-Encoding: gzip\r\nContent-Length: 100", 0),
        ("/people", _LONG.replace(b"text/plain", b"application/json") % b"Content-Length: 100", 0),
    ],
)
def test_only_content_that_is_neither_masked_nor_decoded_may_be_fed_in_one_go(rules: Policy, path: str, response: bytes, ahead: int) -> None:
    talk = Talk(rules, secret="long enough to be looked for")  # type: ignore[arg-type]
    assert talk.gate.ahead() == 0
    talk.client(f"{'GET' if path == '/people' else 'PUT'} {path} HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\n\r\n".encode())
    assert talk.gate.ahead() == 0
    talk.server(response)
    assert max(0, talk.gate.ahead()) == ahead
