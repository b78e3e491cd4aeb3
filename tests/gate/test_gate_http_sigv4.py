"""AWS Signature Version 4: the workload's signature never goes on, ours does, over exactly what goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from hostagent.inspectors.http.sigv4 import Request, Scope, signed
from hostagent.model.event import EventKind
from hostagent.model.target import Login
from hostagent.policy import Policy
from tests.gate.gate_http import PLAIN, Talk
from tests.gate.gate_rim import NOW
from tests.policy.policy_world import policy

_STAMP = "20150830T123600Z"


@pytest.mark.parametrize(
    ("service", "method", "path", "query", "fields", "body", "signature"),
    [
        # AWS's own example (get-vanilla); the others as botocore signs them.
        ("service", "GET", "/", "", [], b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("dynamodb", "POST", "/", "", [("X-Amz-Target", "DynamoDB_20120810.GetItem"), ("Content-Type", "application/x-amz-json-1.0")], b'{"a":1}', "a053b0110eb3c082398168a283b70483e5d35a69969874b327e938b8d32445c2"),
        ("ec2", "POST", "/", "", [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")], b"Action=RunInstances&Version=2016-11-15", "f8cda52c659a9727c8e457a95afd6ccb505c37819faf96ccfa3b0225b0fa2dd4"),
        ("execute-api", "GET", "/a%20b/c%2Fd/~x", "b=2&a=3&a=1&c=%C3%A4%2F", [], b"", "686f677d86501df3a19f2aa61bf4931a596eb72838af21469f362526eaa0e058"),
        ("s3", "PUT", "/key/a%20b%2Bc", "acl=", [("Content-Type", "text/plain"), ("Content-MD5", "x")], b"", "d30423a8b07872d5e2c603ec96012aca16efc9bd7d112be654ad8b1fbca2c6ed"),
    ],
)  # fmt: skip
def test_requests_are_signed_as_aws_wants_them(
    service: str, method: str, path: str, query: str, fields: list[tuple[str, str]], body: bytes, signature: str
) -> None:
    own = service == "service"
    host = "example.amazonaws.com" if own else f"{service}.eu-west-1.amazonaws.com"
    scope = Scope("us-east-1" if own else "eu-west-1", service)
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" if own else "SECRET"
    found = signed(Request(method, host, path, query, fields, body), scope, "AKIDEXAMPLE", secret, _STAMP)
    assert found[-1][1].endswith(f"Signature={signature}")


TARGET = replace(PLAIN, login=Login("AKIDEXAMPLE", None, "sigv4"))
_RULES = """\
  - {id: read, then: allow, what: {http: {aws: ["dynamodb:Get*", "ec2:Describe*"]}}}
  - {id: objects, then: allow, what: {http: {methods: [GET, PUT], paths: "/bucket/**"}}}
  - {id: no-instances, then: deny, reason: no instances, what: {http: {aws: "ec2:RunInstances"}}}
"""


@pytest.fixture(scope="module")
def rules() -> Policy:
    """Some operations of two services, and objects of a third."""
    return policy(_RULES)


def ask(rules: Policy, service: str, head: str, body: bytes = b"", *, sign: str = "", length: int | None = None) -> Talk:
    """Return the talk after a request that is signed for ``service``."""
    talk = Talk(rules, TARGET, secret="S3cret-access-key")  # type: ignore[arg-type]
    theirs = f"AWS4-HMAC-SHA256 Credential=AKIDANY/20150830/eu-west-1/{service}/aws4_request, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    lines = [head.split("\n")[0] + " HTTP/1.1", "Host: api.example", f"Authorization: {sign or theirs}", "X-Amz-Date: 20150830T000000Z", "X-Amz-Security-Token: theirs"]
    lines += head.split("\n")[1:]
    talk.client(("\r\n".join([*lines, f"Content-Length: {len(body) if length is None else length}", "", ""])).encode() + body)
    return talk


def test_a_call_of_a_json_protocol_is_an_operation_and_goes_on_with_our_signature(rules: Policy) -> None:
    talk = ask(rules, "dynamodb", "POST /\nContent-Type: application/x-amz-json-1.0\nX-Amz-Target: DynamoDB_20120810.GetItem", b'{"TableName": "t"}')
    sent = talk.up.decode()
    assert "AKIDANY" not in sent
    assert "theirs" not in sent
    assert sent.endswith('\r\n\r\n{"TableName": "t"}')
    found = re.search(r"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/19700101/eu-west-1/dynamodb/aws4_request, SignedHeaders=(\S+), Signature=([0-9a-f]{64})", sent)
    assert found is not None
    assert found[1] == "content-type;host;x-amz-date;x-amz-target"
    fields = [("Content-Type", "application/x-amz-json-1.0"), ("X-Amz-Target", "DynamoDB_20120810.GetItem")]
    again = signed(Request("POST", "api.example", "/", "", fields, b'{"TableName": "t"}'), Scope("eu-west-1", "dynamodb"), "AKIDEXAMPLE", "S3cret-access-key", "19700101T001640Z")
    assert again[-1][1].endswith(found[2])
    assert int(NOW) == 16 * 60 + 40


@pytest.mark.parametrize(
    ("service", "head", "body"),
    [
        ("dynamodb", "POST /\nContent-Type: application/x-amz-json-1.0\nX-Amz-Target: DynamoDB_20120810.DeleteItem", b"{}"),
        ("dynamodb", "POST /?Action=GetItem\nContent-Type: application/x-amz-json-1.0\nX-Amz-Target: DynamoDB_20120810.DeleteItem", b"{}"),
        ("ec2", "POST /\nContent-Type: application/x-www-form-urlencoded", b"Action=RunInstances&Version=1"),
        ("ec2", "POST /\nContent-Type: application/x-www-form-urlencoded", b"Action=DescribeInstances&Action=RunInstances"),
        ("ec2", "POST /?Action=DescribeInstances\nContent-Type: application/x-www-form-urlencoded", b"Action=RunInstances"),
        ("ec2", "GET /?Action=RunInstances", b""),
        ("ec2", "GET /bucket/a", b""),
    ],
)
def test_an_operation_that_no_rule_allows_or_that_could_be_denied_does_not_go_on(rules: Policy, service: str, head: str, body: bytes) -> None:
    talk = ask(rules, service, head, body)
    assert (talk.problem()["status"], talk.up) == (403, b"")


@pytest.mark.parametrize("head", ["POST /\nContent-Type: application/x-www-form-urlencoded", "GET /?Action=DescribeInstances&Version=1"])
def test_a_call_of_the_query_protocol_is_an_operation(rules: Policy, head: str) -> None:
    talk = ask(rules, "ec2", head, b"Action=DescribeInstances" if head.startswith("POST") else b"")
    assert b"Credential=AKIDEXAMPLE" in talk.up
    assert talk.records(EventKind.STATEMENT, "decision") == [("allow",)]


def test_an_object_streams_unsigned_and_no_deny_rule_of_another_service_meets_it(rules: Policy) -> None:
    talk = ask(rules, "s3", "PUT /bucket/key%20a\nContent-Type: text/plain", b"part", length=5_000_000)
    assert b"X-Amz-Content-Sha256: UNSIGNED-PAYLOAD" in talk.up
    assert talk.up.endswith(b"part")


@pytest.mark.parametrize(
    ("head", "sign", "words"),
    [
        ("GET /bucket/a", "Bearer x", "must be signed"),
        ("GET /bucket/a", "AWS4-HMAC-SHA256 Credential=A/20150830/r/s/aws4_request, SignedHeaders=host, Signature=short", "must be signed"),
        ("GET /bucket/a?X-Amz-Signature=x", "", "signed already"),
        ("GET /bucket/a?X-Amz-%53ecurity-Token=x", "", "signed already"),
        ("PUT /bucket/a\nX-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", "aws-chunked"),
    ],
)
def test_what_cannot_be_signed_anew_is_refused(rules: Policy, head: str, sign: str, words: str) -> None:
    talk = ask(rules, "s3", head, sign=sign)
    assert (talk.problem()["status"], words in str(talk.problem()["reason"]), talk.up) == (403, True, b"")


def test_a_body_too_long_to_be_signed_is_refused() -> None:
    rules = policy("  - {id: all, then: allow, what: {http: {methods: PUT}}}\n")
    talk = ask(rules, "execute-api", "PUT /a\nContent-Type: text/plain", b"x" * 1_100_000)
    assert ("cannot be signed" in str(talk.problem()["reason"]), talk.up) == (True, b"")
    assert json.dumps(talk.records(EventKind.STATEMENT, "decision")) == '[["deny"]]'
