"""Ways round HTTP's governance that were tried and worked once, each with what happens now."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from hostagent.inspectors.http.request import operation
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.target import Login
from hostagent.model.ticket import Answer
from hostagent.model.verdict import Verdict
from hostagent.policy.check import Subject
from hostagent.policy.document import HttpRequest
from hostagent.policy.http import http_checks
from hostagent.wire.http1.location import locate, readings
from tests.gate.gate_http import MASKED, PLAIN, Talk, answer, by_path
from tests.gate.gate_rim import NOW, Rules, events, make_context

_LONG = "the-credential-of-the-target"


@pytest.mark.parametrize("path", ["/api%2F%2Fusers/1", "/api/;x/users/1", "/api;/users/1", "/api%3Bx/users/1", "/api/%3Bx/users/1", "/api%2f;x%2fusers/1"])
def test_a_path_that_some_server_takes_for_another_is_also_that_one(path: str) -> None:
    assert "/api/users/1" in readings(locate("GET", path, "h", "http").path)


def test_trailers_are_not_passed_on_because_servers_read_them_as_fields() -> None:
    talk = Talk()
    talk.client(b"POST /a HTTP/1.1\r\nHost: api.example\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-HTTP-Method-Override: DELETE\r\n\r\n")
    assert talk.up.endswith(b"\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAlt-Svc: h3\r\nX: y\r\n\r\n")
    assert talk.down.endswith(b"0\r\nX: y\r\n\r\n")


def test_a_field_written_with_underscores_is_judged_as_the_one_a_server_takes_it_for() -> None:
    location = locate("GET", "/a", "h", "http")
    check = http_checks(HttpRequest(headers={"x-kind": ["good"]}))[-1]
    gate = make_context(Rules(by_path), target=PLAIN)
    for fields, permits, concerns in (
        ([("X-Kind", "good")], True, True),
        ([("X-Kind", "good"), ("x_kind", "bad")], False, True),
        ([("X_Kind", "good")], True, True),
    ):
        judged = operation("GET", location, fields)
        subject = Subject(gate.identity, "bot", PLAIN, judged, gate.policy.context)
        assert (check.test(subject, True), check.test(subject, False)) == (permits, concerns)


@pytest.mark.parametrize("query", ["_method=DELETE", "_METHOD=DELETE", ".method=DELETE", "+_method=DELETE", "a=1;_method=DELETE", "%5Fmethod=x", "_method[]=x"])
def test_a_parameter_that_a_server_takes_for_the_method_counts_as_every_effect(query: str) -> None:
    talk = Talk()
    talk.client(f"POST /a?{query} HTTP/1.1\r\nHost: api.example\r\n\r\n".encode())
    assert talk.records(EventKind.STATEMENT, "completeness") == [("opaque",)]


def test_records_hold_neither_what_a_query_keeps_secret_nor_a_value_in_the_path() -> None:
    talk = Talk()
    talk.client(
        b"GET /cards/4111111111111111?access_token=tok3n&X-Amz-Signature=s1gned&sig=s1g&keyword=shoes&page=2 HTTP/1.1\r\n"
        b"Host: api.example\r\nCookie: sid=c00kie\r\n\r\n"
    )
    assert b"access_token=tok3n" in talk.up
    assert talk.records(EventKind.STATEMENT, "parameters") == [(["[masked]", "[masked]", "[masked]", "shoes", "2"],)]
    recorded = json.dumps([dict(event.fields) for event in events(talk.commands)])
    assert not [each for each in ("tok3n", "s1g", "c00kie", "4111111111111111", "ours") if each in unquote(recorded)]


def test_what_waits_to_be_masked_or_looked_at_is_weighed() -> None:
    masking = Talk(MASKED)
    masking.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n")
    masking.server(answer(b"x" * 600_000, kind=b"text/plain")[:500_000])
    assert masking.gate.weigh() > 400_000
    held = Talk()
    held.client(b"PUT /held HTTP/1.1\r\nHost: api.example\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000)
    assert held.gate.weigh() > 500_000
    many = Talk()
    for index in range(60):
        many.client(b"GET /denied/%d HTTP/1.1\r\nHost: api.example\r\nX: %b\r\n\r\n" % (index, b"x" * 1500))
    assert many.gate.weigh() > 60 * 1500


def test_a_client_that_waits_to_send_is_told_to_go_on_also_where_the_response_is_masked() -> None:
    talk = Talk(MASKED)
    talk.client(b"PUT /a HTTP/1.1\r\nHost: api.example\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    talk.server(b"HTTP/1.1 100 Go on ann@example.com\r\nX-To: ann@example.com\r\n\r\n")
    assert talk.down == b"HTTP/1.1 100 Continue\r\n\r\n"
    talk.server(b"HTTP/1.1 103 Hints\r\nX-To: ann@example.com\r\n\r\n")
    assert b"ann@" not in talk.down


def test_the_credential_is_not_shown_in_the_other_parts_of_a_head_either() -> None:
    secret = _LONG.encode()
    talk = Talk(secret=_LONG)
    talk.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n")
    talk.server(b"HTTP/1.1 103 %b\r\n%b: x\r\n\r\nHTTP/1.1 400 no %b\r\n%b: y\r\nContent-Length: 0\r\n\r\n" % ((secret,) * 4))
    assert b" 400 no ***" in talk.down
    assert secret not in talk.down


def test_connection_cannot_take_away_our_credential_nor_can_another_spelling_replace_it() -> None:
    talk = Talk(target=replace(PLAIN, login=Login("", None, "header", "X-Api-Key")))
    talk.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\nConnection: X-Api-Key, Authorization, Host\r\nx-api-key: mine\r\n\r\n")
    assert talk.up == b"GET /a HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: ours\r\n\r\n"


@pytest.mark.parametrize("name", ["X-Forwarded-User", "Remote_User", "X-Remote-User", "X-WEBAUTH-USER", "True-Client-IP", "X-Original-Host", "X-Host"])
def test_a_claim_that_only_a_proxy_may_make_is_not_passed_on(name: str) -> None:
    talk = Talk()
    talk.client(f"GET /a HTTP/1.1\r\nHost: api.example\r\n{name}: root\r\n\r\n".encode())
    assert b"root" not in talk.up
    assert talk.up.startswith(b"GET /a HTTP/1.1\r\n")


def test_a_held_request_whose_target_hangs_up_is_told_so_and_its_ticket_is_void() -> None:
    talk = Talk(Rules(by_path))
    talk.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    talk.client(b"GET /held HTTP/1.1\r\nHost: api.example\r\n\r\n")
    talk.do(talk.gate.closed(Side.SERVER, NOW))
    assert (talk.problem()["status"], talk.closed) == (502, True)
    assert talk.records(EventKind.ANSWER, "granted") == [(False,)]


def test_only_the_beginning_of_a_head_that_is_not_whole_is_looked_at_each_time_but_all_of_it_in_the_end() -> None:
    """One that comes byte by byte would otherwise cost the square of its length: 20 s for one head."""
    begun = b"GET /a HTTP/1.1\r\nX: " + b"y" * 1100 + b"\nHost: api.example\r\n"
    talk = Talk()
    talk.client(begun)
    assert (talk.down, talk.closed) == (b"", False)
    talk.client(b"\r\n")
    assert (talk.problem()["status"], talk.closed, talk.up) == (400, True, b"")
    early = Talk()
    early.client(b"GET /a HTTP/1.1\n")
    assert (early.problem()["status"], early.closed) == (400, True)


def test_an_approval_does_not_count_once_another_group_has_to_give_it() -> None:
    class Changing(Rules):
        """Rules whose approvers change."""

        group = "approvers"

        def evaluate(self, *asked: Any) -> Verdict:
            """Return the verdict with the group of now."""
            verdict = super().evaluate(*asked)
            return verdict if verdict.hold is None else replace(verdict, hold=replace(verdict.hold, approvers=self.group))

    for group, passes in (("approvers", True), ("others", False)):
        rules = Changing(by_path)
        talk = Talk(rules)
        talk.client(b"GET /held HTTP/1.1\r\nHost: api.example\r\n\r\n")
        [(ticket,)] = talk.records(EventKind.HOLD, "ticket")
        rules.group = group
        talk.do(talk.gate.resume(Answer(str(ticket), granted=True, by="dana"), NOW))
        assert (b"GET /held" in talk.up, b"policy changed" in talk.down) == (passes, not passes)
