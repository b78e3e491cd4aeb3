"""HTTP through the gate: what reaches the target, what the client is told, what is recorded."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.gate import Gate
from hostagent.model.command import Command, Pause, Resume, StartTLS
from hostagent.model.event import EventKind
from hostagent.model.flow import Side
from hostagent.model.target import Login, Target, UpstreamTLS
from hostagent.model.verdict import Decision, MaskColumn
from tests.gate.gate_http import MASKED, Talk, answer, by_path
from tests.gate.gate_rim import NOW, Rules

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_GET = b"GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n"


def test_a_request_is_rebuilt_with_our_credential_and_recorded_with_its_response() -> None:
    talk = Talk()
    talk.client(
        b"POST /a/../%62?x=1&token=s HTTP/1.1\r\nhost: API.example\r\nAuthorization: Bearer mine\r\nProxy-Authorization: x\r\n"
        b"X-Forwarded-For: 1.1.1.1\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Own: 2\r\nContent-Length: 3\r\n\r\nabc"
    )
    assert talk.up == (
        b"POST /b?x=1&token=s HTTP/1.1\r\nHost: api.example\r\nX-Own: 2\r\nContent-Length: 3\r\nAuthorization: Bearer ours\r\n\r\nabc"
    )
    talk.server(b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\nAlt-Svc: h3\r\nKeep-Alive: timeout=5\r\nX: y\r\n\r\nok")
    assert talk.down == b"HTTP/1.1 201 Made\r\nX: y\r\nContent-Length: 2\r\n\r\nok"
    assert talk.records(EventKind.STATEMENT, "verb", "effects", "text", "parameters", "decision") == [
        ("POST", ["execute", "insert"], "POST http://api.example/b?x=?&token=?", ["1", "[masked]"], "allow")
    ]
    assert talk.records(EventKind.RESULT, "outcome", "tag", "bytes") == [("ok", "201", 2)]
    assert not talk.closed


def test_who_asks_is_not_the_workloads_to_say_in_any_field_that_a_proxy_says_it_in() -> None:
    """The target takes our connection for a proxy's; what such a one tells it of people would be believed."""
    claims = b"X-WebAuth-User X_WEBAUTH_EMAIL Remote-Groups X-Auth-Request-Email X-Amzn-Oidc-Identity X-Goog-IAP-JWT-Assertion Cf-Access-Jwt-Assertion"
    more = b"X-MS-Client-Principal-Name X-Consumer-Username X-SSL-Client-Verify X-Originating-IP Client-IP X-Userinfo"
    talk = Talk()
    fields = b"".join(name + b": admin\r\n" for name in (claims + b" " + more).split())
    talk.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\nX-Own: 2\r\n" + fields + b"\r\n")
    assert (b"admin" in talk.up, b"X-Own: 2" in talk.up) == (False, True)


def test_a_denial_is_a_problem_document_and_the_connection_lives() -> None:
    talk = Talk()
    talk.client(b"PUT /denied HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    assert talk.problem() == {
        "type": "urn:hostagent:denied", "title": "Forbidden", "status": 403, "rule": "deny-rule", "rules": ["deny-rule"],
        "detail": "hostagent: denied by rule deny-rule: test says deny", "reason": "test says deny", "policy": "0" * 12,
        "next_step": "Ask whoever keeps the policy for a rule that allows this.",
    }  # fmt: skip
    assert talk.up == b""
    talk.client(b"0\r\n\r\n" + _GET)
    assert b"hello" not in talk.up
    assert talk.up.startswith(b"GET /a HTTP/1.1\r\n")
    talk.server(_OK)
    assert talk.down.endswith(b"ok")
    assert talk.records(EventKind.RESULT, "outcome", "tag") == [("denied", "403"), ("ok", "200")]
    assert not talk.closed


REFUSED = [
    (b"GET /a HTTP/1.1\r\n\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: api.example\r\nHost: api.example\r\n\r\n", 400),
    (b"GET /a HTTP/1.1\r\nHost: other.example\r\n\r\n", 421),
    (b"GET /a HTTP/1.1\r\nHost: api.example:8080\r\n\r\n", 421),
    (b"GET http://other.example/a HTTP/1.1\r\nHost: api.example\r\n\r\n", 400),
    (b"POST /a HTTP/1.1\r\nHost: api.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"CONNECT api.example:80 HTTP/1.1\r\nHost: api.example\r\n\r\n", 403),
    (b"TRACE /a HTTP/1.1\r\nHost: api.example\r\n\r\n", 403),
    (b"GET /a HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n", 403),
    (b"GET /a HTTP/1.1\r\nHost: api.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET /a HTTP/1.1\r\nHost: api.example\r\nX-Original-URL: /denied\r\n\r\n", 403),
    (b"GET /a HTTP/1.1\r\nHost: api.example\r\nX-HTTP_DestinationURL: /denied\r\n\r\n", 403),
    (b"GET /a HTTP/1.1\r\nHost: api.example\r\nExpect: something\r\n\r\n", 417),
    (b"GET /a/..%2f..%2fdenied HTTP/1.1\r\nHost: api.example\r\n\r\n", 400),
    (b"GET /a HTTP/1.1\nHost: api.example\n\n", 400),
]


@pytest.mark.parametrize(("data", "status"), REFUSED)
def test_what_no_policy_can_allow_never_reaches_the_target(data: bytes, status: int) -> None:
    talk = Talk()
    talk.client(data + _GET)
    assert talk.down.startswith(f"HTTP/1.1 {status} ".encode())
    assert talk.problem()["status"] == status
    assert (talk.up, talk.closed) == (b"", True)
    assert talk.records(EventKind.RESULT, "outcome") or talk.records(EventKind.REFUSAL, "layer")


def test_a_refusal_that_is_not_policys_is_recorded_with_its_own_reason() -> None:
    talk = Talk()
    talk.client(b"GET /a HTTP/1.1\r\nHost: other.example\r\n\r\n")
    assert talk.records(EventKind.STATEMENT, "decision", "rules", "reason") == [
        ("deny", [], "the Host other.example is not one of target api")
    ]


@pytest.mark.parametrize("line", [b"BREW /a", b"POST /a?_method=DELETE"])
@pytest.mark.parametrize("field", [b"X: y", b"X-HTTP-Method-Override: DELETE"])
def test_a_method_that_may_be_another_counts_as_every_effect(line: bytes, field: bytes) -> None:
    talk = Talk()
    talk.client(line + b" HTTP/1.1\r\nHost: api.example\r\n" + field + b"\r\n\r\n")
    [(completeness, effects)] = talk.records(EventKind.STATEMENT, "completeness", "effects")
    assert (completeness, "drop" in str(effects)) == ("opaque", True)


def test_a_mask_that_cannot_be_enforced_refuses_the_request() -> None:
    talk = Talk(Rules(by_path, (MaskColumn("mask-mail", "customers", "email"),)))
    talk.client(_GET)
    assert (talk.up, talk.problem()["rule"]) == (b"", "mask-mail")


_JSON = b'{"to": "ann@example.com", "n": [1, 4111111111111111]}'


def test_a_response_is_masked_whole_however_it_was_cut() -> None:
    whole = answer(_JSON, b'ETag: "x"', b"X-To: ann@example.com", b"Accept-Ranges: bytes")
    chunked = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % letter for letter in _JSON) + b"0\r\nX-To: ann@example.com\r\n\r\n"
    )  # fmt: skip
    body = b'{"to": "[masked:email]", "n": [1, 0]}'
    for data in (whole, chunked):
        for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
            talk = Talk(MASKED)
            talk.client(_GET.replace(b"\r\n\r\n", b"\r\nRange: bytes=0-3\r\nAccept-Encoding: gzip, br\r\nX: y\r\n\r\n"))
            assert talk.up == b"GET /a HTTP/1.1\r\nHost: api.example\r\nX: y\r\nAccept-Encoding: identity\r\nAuthorization: Bearer ours\r\n\r\n"
            for piece in pieces:
                talk.server(piece)
            assert talk.down.endswith(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            assert b"ann@" not in talk.down
            assert b"ETag" not in talk.down
            assert talk.records(EventKind.RESULT, "masked_values", "detections") == [(2, {"email": 1, "card": 1})]
            assert not talk.closed


@pytest.mark.parametrize(
    ("method", "data"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 53\r\nETag: x\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Same\r\nETag: x\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 None\r\n\r\n"),
    ],
)
def test_a_masked_response_without_a_body_tells_nothing_of_the_real_one(method: bytes, data: bytes) -> None:
    talk = Talk(MASKED)
    talk.client(_GET.replace(b"GET", method))
    talk.server(data)
    assert (b"53" in talk.down, b"ETag" in talk.down, talk.closed) == (False, False, False)
    assert talk.down.startswith(data[:12])


@pytest.mark.parametrize(
    "data",
    [
        answer(_JSON, b"Content-Encoding: gzip"),
        answer(_JSON, kind=b"application/octet-stream"),
        answer(_JSON, kind=b"text/event-stream"),
        answer(_JSON, kind=b"text/plain; charset=utf-16"),
        answer("{}".encode("utf-16")),
        answer(_JSON).replace(b"Content-Type", b"X-Type"),
        answer(_JSON).replace(b"200 OK", b"206 Part"),
        answer(b"x" * 1_100_000, kind=b"text/plain"),
    ],
)
def test_a_response_that_cannot_be_masked_does_not_pass(data: bytes) -> None:
    talk = Talk(MASKED)
    talk.client(_GET)
    talk.server(data)
    assert (talk.problem()["status"], talk.closed) == (502, True)
    assert "cannot be masked" in str(talk.problem()["reason"])
    assert b"ann@" not in talk.down


def test_a_masked_response_until_the_connection_ends_is_masked_then() -> None:
    talk = Talk(MASKED)
    talk.client(_GET)
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nto ann@exam")
    talk.server(b"ple.com.")
    assert talk.down == b""
    talk.do(talk.gate.closed(Side.SERVER, NOW))
    assert talk.down.endswith(b"to [masked:email].")
    assert talk.records(EventKind.RESULT, "outcome", "masked_values") == [("ok", 1)]


def test_a_rule_against_connecting_counts() -> None:
    talk = Talk(Rules(lambda operation: Decision.DENY if operation.verb == "connect" else Decision.ALLOW))
    talk.client(_GET)
    assert (talk.up, talk.problem()["rule"]) == (b"", "deny-rule")


def test_pipelined_requests_are_sent_one_by_one_and_answered_in_order() -> None:
    talk = Talk()
    talk.client(_GET + b"GET /denied HTTP/1.1\r\nHost: api.example\r\n\r\n" + _GET.replace(b"/a", b"/b"))
    assert talk.up.count(b"HTTP/1.1") == 1
    assert talk.down == b""
    talk.server(_OK)
    assert talk.up.count(b"HTTP/1.1") == 2
    talk.server(_OK.replace(b"ok", b"no"))
    assert [part[:12] for part in talk.down.split(b"HTTP/1.1 ")[1:]] == [b"200 OK\r\nCont", b"403 Forbidde", b"200 OK\r\nCont"]
    assert talk.down.endswith(b"no")


def test_a_client_that_sends_far_ahead_is_not_read() -> None:
    talk = Talk()
    talk.client(_GET + b"PUT /b HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    assert [type(each) for each in talk.commands if isinstance(each, Pause | Resume)] == [Pause]
    talk.server(_OK)
    assert [type(each) for each in talk.commands if isinstance(each, Pause | Resume)] == [Pause, Resume]
    assert talk.up.endswith(b"x" * 100_000 + b"")


ANSWERS: list[tuple[bytes, bytes, bytes, bool]] = [
    (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n", False),
    (b"GET", b"HTTP/1.1 204 None\r\n\r\n", b"HTTP/1.1 204 None\r\n\r\n", False),
    (b"GET", b"HTTP/1.1 304 Same\r\nETag: x\r\nContent-Length: 9\r\n\r\n", b"ETag: x\r\nContent-Length: 9\r\n\r\n", False),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"Content-Length: 9\r\n\r\n", False),
    (b"GET", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + _OK, b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + _OK, False),
    (b"GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"Connection: close\r\n\r\nok", True),
    (b"GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"Connection: close\r\n\r\nok", True),
]


@pytest.mark.parametrize(("method", "answer", "end", "closes"), ANSWERS)
def test_a_response_is_rebuilt(method: bytes, answer: bytes, end: bytes, closes: bool) -> None:
    for pieces in ([answer], [answer[i : i + 1] for i in range(len(answer))]):
        talk = Talk()
        talk.client(_GET.replace(b"GET", method))
        for piece in pieces:
            talk.server(piece)
        down = talk.down.replace(b"1\r\no\r\n1\r\nk\r\n", b"2\r\nok\r\n")  # content in other chunks is the same content
        assert down.endswith(end)
        assert talk.closed is closes
        assert talk.records(EventKind.RESULT, "outcome") == [("ok",)]


def test_a_response_until_the_connection_ends_ends_with_it() -> None:
    talk = Talk()
    talk.client(_GET)
    talk.server(b"HTTP/1.1 200 OK\r\n\r\nsome")
    talk.server(b" more")
    assert (talk.down, talk.closed) == (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome more", False)
    talk.do(talk.gate.closed(Side.SERVER, NOW))
    assert (talk.records(EventKind.RESULT, "outcome", "bytes"), talk.closed) == ([("ok", 9)], True)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"220 smtp ready\r\n\r\n",
        b"HTTP/1.1 102 x\r\n\r\n" * 40,
        _OK + _OK,
    ],
)
def test_a_target_out_of_line_ends_the_session(answer: bytes) -> None:
    talk = Talk()
    talk.client(_GET)
    talk.server(answer)
    assert talk.closed
    assert b"200 OK" not in talk.down
    assert talk.records(EventKind.REFUSAL, "layer") == [("proxy",)]


def test_a_target_that_speaks_unasked_ends_the_session() -> None:
    talk = Talk()
    talk.client(_GET)
    talk.server(_OK)
    talk.server(_OK)
    assert talk.closed
    assert talk.down.count(b"HTTP/1.1") == 1


def test_expect_continue_is_the_targets_to_answer_and_a_denial_ends_the_wait() -> None:
    expecting = b"PUT /a HTTP/1.1\r\nHost: api.example\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    talk = Talk()
    talk.client(expecting)
    assert b"Expect: 100-continue\r\n" in talk.up
    talk.server(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert talk.down == b"HTTP/1.1 100 Continue\r\n\r\n"
    talk.client(b"hi")
    talk.server(_OK)
    assert not talk.closed
    denied = Talk()
    denied.client(expecting.replace(b"/a", b"/denied"))
    assert denied.down.startswith(b"HTTP/1.1 403")
    assert denied.closed, "whether the body still comes, only the client knows"


@pytest.mark.parametrize(
    ("end", "status", "outcome"),
    [
        (lambda gate: gate.closed(Side.SERVER, NOW), 502, "error"),
        (lambda gate: gate.cut("the identity expired", NOW), 503, "aborted"),
        (lambda gate: gate.connect_failed("TLS with the target failed", NOW), 502, "error"),
    ],
)
def test_a_request_without_a_response_is_told_why(end: Callable[[Gate], list[Command]], status: int, outcome: str) -> None:
    talk = Talk()
    talk.client(_GET)
    talk.do(end(talk.gate))
    assert (talk.problem()["status"], talk.closed) == (status, True)
    assert talk.records(EventKind.RESULT, "outcome") == [(outcome,)]


@pytest.mark.parametrize(("login", "field"), [
    (Login("", None, "header", "X-Api-Key"), b"X-Api-Key: ours\r\n"),
    (Login("bot", None, "basic"), b"Authorization: Basic Ym90Om91cnM=\r\n"),
])  # fmt: skip
def test_the_credential_takes_the_place_of_what_the_workload_sent(login: Login, field: bytes) -> None:
    talk = Talk(target=Target("api", "http", ("api.example",), 80, login, UpstreamTLS.DISABLE))
    talk.client(b"GET /a HTTP/1.1\r\nHost: api.example\r\nx-api-key: mine\r\nAuthorization: mine\r\n\r\n")
    assert field in talk.up
    assert b"Authorization: mine" not in talk.up
    assert b"x-api-key: mine" not in talk.up or login.scheme != "header"


_LONG = "the-credential-of-the-target"
_ECHO = b"you sent Bearer %b and the-credential-of-the-tar" % _LONG.encode()
_HIDDEN = b"you sent Bearer " + b"*" * len(_LONG) + b" and the-credential-of-the-tar"


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n" % len(_ECHO), b"\r\n"])
@settings(deadline=None, max_examples=20)
@given(cut=st.integers(0, len(_ECHO) + 80))
def test_a_server_that_echoes_the_credential_shows_asterisks(framing: bytes, cut: int) -> None:
    talk = Talk(secret=_LONG)
    talk.client(_GET.replace(b"\r\n\r\n", b"\r\nAccept-Encoding: gzip, br\r\n\r\n"))
    assert b"Accept-Encoding: identity\r\n" in talk.up
    data = b"HTTP/1.1 200 OK\r\nX-Echo: %b\r\n%b%b" % (_LONG.encode(), framing, _ECHO)
    talk.server(data[:cut])
    talk.server(data[cut:])
    talk.do(talk.gate.closed(Side.SERVER, NOW))
    assert talk.down.endswith(b"\r\n\r\n" + _HIDDEN)
    assert _LONG.encode() not in talk.down
    assert talk.records(EventKind.RESULT, "outcome", "detections") == [("ok", {"credential": 2})]


def test_a_credential_inside_a_coded_body_does_not_get_out() -> None:
    for body, coding, shown in (
        (gzip.compress(b"x" * 1000) + gzip.compress(_ECHO), b"gzip", False),
        (gzip.compress(b"x" * 100_000), b"gzip", True),
        (b"not gzip", b"gzip", False),
        (b"x", b"br", False),
    ):
        talk = Talk(secret=_LONG)
        talk.client(_GET)
        talk.server(answer(body, b"Content-Encoding: " + coding))
        assert (talk.down.endswith(body), talk.closed) == (shown, not shown)


def test_http_1_0_gets_no_chunks_and_its_connection_ends() -> None:
    talk = Talk()
    talk.client(b"GET /a HTTP/1.0\r\nHost: api.example\r\n\r\n")
    assert b"GET /a HTTP/1.1\r\n" in talk.up
    talk.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert (talk.down, talk.closed) == (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", True)


_CONVERSATION = (
    b"POST /a?x=1 HTTP/1.1\r\nHost: api.example\r\nContent-Length: 5\r\n\r\nhello"
    b"PUT /denied HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    + _GET
    + b"GET /b HTTP/1.1\r\nHost : api.example\r\n\r\n"
)


def _whole(pieces: Sequence[bytes]) -> tuple[bytes, bytes, bool, list[tuple[object, ...]]]:
    talk = Talk()
    answered = 0
    for piece in pieces:
        talk.client(piece)
        while talk.up.count(b"Bearer ours\r\n\r\n") > answered and (answered or talk.up.endswith(b"hello")):
            answered += 1
            talk.server(_OK)
    return talk.up, talk.down, talk.closed, talk.records(EventKind.RESULT, "outcome", "tag", "bytes")


@settings(deadline=None)
@given(st.lists(st.integers(0, len(_CONVERSATION)), max_size=10))
def test_every_way_of_splitting_the_requests_has_the_same_end(cuts: list[int]) -> None:
    at = sorted(cuts)
    pieces = [_CONVERSATION[a:b] for a, b in zip([0, *at], [*at, len(_CONVERSATION)], strict=True)]
    assert _whole(pieces) == _whole([_CONVERSATION])


def test_tls_begins_only_for_a_name_of_the_target_and_the_host_must_be_that_name(hello: Callable[..., bytes]) -> None:
    target = Target("api", "http", ("api.example", "b.example"), 443, Login(""), UpstreamTLS.VERIFY)
    for raw, number in ((hello("other.example"), 112), (hello(None), 112), (hello("api.example", ["h2"]), 120)):
        refused = Talk(target=target, secret=None)
        refused.client(raw)
        assert (refused.down, refused.closed) == (b"\x15\x03\x03\x00\x02\x02" + bytes([number]), True)
        assert refused.records(EventKind.REFUSAL, "layer") == [("proxy",)]
    plain = Talk(target=target, secret=None)
    plain.client(_GET)
    assert (plain.problem()["status"], plain.closed) == (400, True)
    talk = Talk(target=target, secret=None)
    talk.client(hello("API.example", ["h2", "http/1.1"]))
    assert [command.side for command in talk.commands if isinstance(command, StartTLS)] == [Side.CLIENT]
    talk.do(talk.gate.secured(Side.CLIENT, NOW, version="TLSv1.3"))
    talk.client(_GET)
    assert talk.commands[-1] == StartTLS(Side.SERVER, "http/1.1", name="api.example")
    talk.do(talk.gate.secured(Side.SERVER, NOW))
    assert talk.up == _GET
    talk.server(_OK)
    talk.client(_GET.replace(b"api.example", b"b.example"))
    assert (talk.up, talk.problem()["status"], talk.closed) == (_GET, 421, True)


@pytest.fixture(name="hello")
def hello_fixture() -> Callable[..., bytes]:
    """Return a maker of a real client's first bytes, for a server name (or none) and protocol names."""
    import ssl

    def make(name: str | None, alpn: Sequence[str] = ()) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname = name is not None
        if alpn:
            context.set_alpn_protocols(list(alpn))
        outgoing = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
        return outgoing.read()

    return make
