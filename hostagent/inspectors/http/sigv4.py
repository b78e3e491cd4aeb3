"""AWS Signature Version 4: what a workload's signature says of itself, and ours in its place.

The workload signs with any credentials it likes, as its SDK does anyway; region and service are taken from that. The request is signed
anew as it goes on, over every field that can change what it means.

Layout of what is signed (AWS General Reference, "Create a signed request")::

    canonical  method LF path LF query LF *(name ":" value LF) LF names LF payload hash
    to sign    "AWS4-HMAC-SHA256" LF time LF date "/" region "/" service "/aws4_request" LF SHA-256 of canonical
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from hostagent.inspectors.http.fields import Listed

SCHEME: Final = "sigv4"

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=[^/, ]{1,256}/[0-9]{8}/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/aws4_request, *SignedHeaders=[a-z0-9;_-]+, *Signature=[0-9a-f]{64}"
)
_OURS: Final = frozenset({"x-amz-date", "x-amz-security-token", "x-amz-content-sha256", "authorization", "date"})
_PRESIGNED: Final = frozenset({"x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-amz-algorithm"})
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_ALONE: Final = "s3"
"""The one service that takes a body without its hash, and a path that is encoded once."""


class Scope(NamedTuple):
    """Where a signature counts."""

    region: str
    service: str

    @property
    def needs_body(self) -> bool:
        """Whether nothing can be signed before the whole body is known."""
        return self.service != _ALONE


def scope_of(authorizations: list[str]) -> Scope | None:
    """Return what the workload signed for, None if it did not sign in one way."""
    found = _AUTHORIZATION.fullmatch(authorizations[0]) if len(authorizations) == 1 else None
    return None if found is None else Scope(found[1], found[2])


def objection(fields: Listed, query: str) -> str:
    """Return why a request cannot be signed anew, empty if it can."""
    names = {unquote(item.partition("=")[0]).lower() for item in query.split("&")}
    if names & _PRESIGNED:
        return "a URL that is signed already carries somebody else's credential"
    for name, value in fields:
        if name.lower() == "x-amz-content-sha256" and value.startswith("STREAMING-"):
            return "a body in signed chunks (aws-chunked) cannot be signed anew"
    return ""


class Request(NamedTuple):
    """What is signed: the request as it goes on. ``body`` is None where the service takes one without its hash."""

    method: str
    host: str
    path: str
    query: str
    fields: Listed
    body: bytes | None


def signed(asked: Request, scope: Scope, key_id: str, secret: str, stamp: str) -> Listed:
    """Return the fields of ``asked`` with our signature.

    Args:
        asked: the request.
        scope: region and service.
        key_id: of the access key.
        secret: the access key.
        stamp: the time as ``20150830T123600Z``.
    """
    payload = _UNSIGNED if asked.body is None else hashlib.sha256(asked.body).hexdigest()
    fields = [each for each in asked.fields if each[0].lower() not in _OURS]
    fields.append(("X-Amz-Date", stamp))
    if scope.service == _ALONE:
        fields.append(("X-Amz-Content-Sha256", payload))
    meant: dict[str, list[str]] = {"host": [asked.host]}
    for name, value in fields:
        if name.lower().startswith("x-amz-") or name.lower() in ("content-type", "content-md5", "range"):
            meant.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = ";".join(sorted(meant))
    path = asked.path if scope.service == _ALONE else quote(asked.path, safe="/-_.~")
    lines = [asked.method, path, _canonical_query(asked.query), *(f"{name}:{','.join(meant[name])}" for name in sorted(meant)), "", names, payload]
    place = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = "\n".join([_ALGORITHM, stamp, place, hashlib.sha256("\n".join(lines).encode("latin-1")).hexdigest()])
    key = f"AWS4{secret}".encode()
    for word in (stamp[:8], scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return [*fields, ("Authorization", f"{_ALGORITHM} Credential={key_id}/{place}, SignedHeaders={names}, Signature={signature}")]


def _canonical_query(query: str) -> str:
    pairs = [item.partition("=") for item in query.split("&") if item]
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(name), _encoded(value)) for name, _, value in pairs))


def _encoded(text: str) -> str:
    return quote(unquote(text, "latin-1"), safe="-_.~", encoding="latin-1")


def action_of(fields: Listed) -> str:
    """Return the operation that the JSON protocols name (``DynamoDB_20120810.GetItem`` is GetItem), empty if they name none."""
    named = [value for name, value in fields if name.lower().replace("_", "-") == "x-amz-target"]
    return named[0].rpartition(".")[2] if len(named) == 1 else ""
