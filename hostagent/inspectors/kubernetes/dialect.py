"""The Kubernetes API over HTTP: what its requests mean, which forms of them go on, and how a refusal is told.

Everything is JSON: a client that would also take Protocol Buffers or CBOR is not told that the server knows them, and one that sends them is
refused. So what a rule looks at, and what a mask must find, has one form.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_plus

from hostagent.inspectors.http import problem
from hostagent.inspectors.http.content import NOTHING, UNREADABLE
from hostagent.inspectors.http.dialect import Dialect
from hostagent.inspectors.http.exchange import Exchange
from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.http.problem import Problem
from hostagent.inspectors.http.reading import Request
from hostagent.inspectors.http.request import operation
from hostagent.inspectors.http.tunnel import Tunnel
from hostagent.inspectors.judged import Subject
from hostagent.inspectors.kubernetes import channels, meaning, patch, status
from hostagent.inspectors.kubernetes.podspec import findings, shows_object
from hostagent.inspectors.kubernetes.requestinfo import NotDerivedError, RequestInfo, derive
from hostagent.model.command import Command
from hostagent.model.operation import Completeness, Content, ContentKind, Operation
from hostagent.model.verdict import Decision, MaskKubernetes, Verdict
from hostagent.wire.http1.head import build_request, tokens
from hostagent.wire.http1.location import Location
from hostagent.wire.jsontext import JSON, parse

_MOST_MASKED: Final = 8_388_608
_JSON: Final = "application/json"
_TOKENS: Final = re.compile(r"(?i)^(?:access_token|token|id_token|bearer)$")
_GOES_NO_FURTHER: Final = frozenset({"kubectl-session", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"})
"""A random number of each run of kubectl, for statistics; and what opens a WebSocket, which is opened anew: no two requests would be the same with them."""
_STREAMS: Final = frozenset({"pods/exec", "pods/attach"})
_NO_SPDY: Final = "SPDY/3.1 is not spoken here: kubectl 1.31 and later, and the Python client, open these streams over a WebSocket"


class KubernetesDialect(Dialect):
    """Implements ``hostagent.inspectors.http.dialect.Dialect``."""

    def understood(self, request: Request, *, empty: bool) -> Request:
        """Return ``request`` with the operation that it is."""
        location = _without_token(request.location)
        own = [field for each in request.own if (field := _going_on(each)) is not None]
        asked = request.subject.operations[0]
        if location is not request.location or own != request.own:
            asked = operation(asked.verb, location, own)
        upgrade = ",".join(tokens(request.head.values("upgrade")))
        try:
            info = derive(request.head.method, location.path, location.query)
            made = meaning.operation(asked, info, empty=empty)
            refusal, code = (request.refusal, 403) if not upgrade else (_upgrade_refusal(request, info, upgrade), 403)
            stream = "" if refusal or not upgrade else info.kind
            if not refusal and not empty:
                refusal, code = _body_refusal(made)
        except NotDerivedError as error:
            made, refusal, code, info, stream = _anything(asked), f"what the request is about cannot be told: {error}", 400, RequestInfo(""), ""
        return request._replace(
            location=location, own=own, exact=build_request(request.head.method, location.url, own), subject=Subject(b"", (), (made,)), refusal=refusal, status=code, form=False, json=False,
            looked_at=True, by_line=info.verb == "watch" or info.kind == "pods/log", most_masked=_MOST_MASKED, stream=stream,
        )  # fmt: skip

    def read(self, request: Request, body: bytes) -> Content:
        """Return what ``body`` is: JSON, or nothing that can be understood. Names in letters of either case are names of their own here."""
        if not body:
            return NOTHING
        kind = meaning.media_type(request.subject.operations[0].attributes)
        coded = any(name.lower() == "content-encoding" and value.lower() != "identity" for name, value in request.own)
        try:
            value = parse(body, cased=True)
        except ValueError:
            return UNREADABLE
        return UNREADABLE if coded or (kind.endswith("yaml") and _merges(value)) else Content(ContentKind.JSON, value)

    def with_content(self, asked: Operation, content: Content, size: int | None = None) -> Operation:
        """Return ``asked`` with its body."""
        return meaning.with_content(asked, content)

    def objection(self, request: Request, operation: Operation, verdict: Verdict) -> Problem | None:
        """Return why ``operation`` cannot pass though ``verdict`` would let it."""
        if request.stream and verdict.obligations:
            reason = f"rule {verdict.obligations[0].rule} masks, and what a program in a pod prints cannot be masked as it comes"
            return problem.refused(403, reason, "Limit that rule to other targets.", rule=verdict.obligations[0].rule)
        masks = sorted({each.rule for each in verdict.obligations if isinstance(each, MaskKubernetes)})
        if masks and "patch_reads" in operation.attributes:
            reason = "a JSON patch with test, copy or move could show what a rule masks"
            return problem.refused(403, reason, "Use add, replace and remove, or a merge patch.", rule=masks[0])
        if masks and "writes_mask" in operation.attributes:
            reason = "the body holds what stands here in place of a masked value: it would overwrite the value itself"
            return problem.refused(403, reason, "Leave that key out, or send its real value.", rule=masks[0])
        if operation.content is None or operation.content.kind is not ContentKind.OPAQUE:
            return None
        reason = "the body is not JSON that every server reads in the same way, or longer than 1 MiB"
        return problem.refused(400, reason, "Send one JSON document, no name given twice, without a content coding.")

    def question(self, request: Request, operation: Operation) -> tuple[Operation, str] | None:
        """Return ``operation`` without what a patch may make of a pod, and where the server says what it makes of it: in a dry run."""
        if not meaning.is_open(operation):
            return None
        location = request.location
        query = "&".join([*(item for item in (location.query or "").split("&") if item and not item.startswith("dryRun=")), "dryRun=All"])
        return meaning.settled(operation, []), f"{location.path}?{query}"

    def found(self, operation: Operation, status: int, body: bytes) -> Operation:
        """Return ``operation`` by the object that a dry run has shown; if it has shown none, what the patch comes to stays unknown."""
        if status not in (200, 201):
            return operation
        try:
            value = parse(body, cased=True)
        except ValueError:
            return operation
        said = operation.attributes
        return meaning.settled(operation, findings(value)) if shows_object(said["group"], said["resource"], value) else operation

    def refusal(self, request: Request, verdict: Verdict) -> str:
        """Return why no policy can let ``request`` pass. A client that fell back to SPDY shows only this: so it says what policy says, too."""
        if request.refusal != _NO_SPDY or verdict.decision is Decision.ALLOW:
            return request.refusal
        if verdict.decision is Decision.DENY:
            return f"denied by {f'rule {verdict.rules[0]}' if verdict.rules else 'default'}: {verdict.reason}"
        return f"held by rule {verdict.rules[0]}: {verdict.reason} (see hostagent approvals list; run it again once it is approved). {_NO_SPDY}"

    def upstream(self, request: Request, fields: Listed) -> Listed:
        """Return ``fields`` with an Accept that only JSON answers. What the server says of itself (OpenAPI) is nobody's data, and old clients read no JSON of it."""
        if request.location.path.startswith("/openapi/"):
            return fields
        asked = [value for name, value in fields if name.lower() == "accept"]
        ranges = [each.strip() for value in asked for each in value.split(",")]
        kept = [each for each in ranges if each.partition(";")[0].strip().lower() == _JSON and "cbor" not in each.lower()]
        return [*(each for each in fields if each[0].lower() != "accept"), ("Accept", ",".join([*kept, *([] if _JSON in kept else [_JSON])]))]

    def tunnel(self, exchange: Exchange, out: list[Command]) -> Tunnel:
        """Return what carries the streams of an exec or attach; no other WebSocket is opened."""
        return channels.Channels(exchange, out)

    def written(self, refused: Problem, request: Request | None) -> tuple[str, bytes]:
        """Return the Status that tells of a refusal."""
        return _JSON, status.written(refused, {} if request is None else request.subject.operations[0].attributes)


def _anything(asked: Operation) -> Operation:
    return replace(asked, protocol=meaning.PROTOCOL, completeness=Completeness.OPAQUE)


def _upgrade_refusal(request: Request, info: RequestInfo, upgrade: str) -> str:
    if upgrade.startswith("spdy/"):
        return _NO_SPDY
    if request.refusal or not request.websocket:
        return request.refusal or "a change of protocol is not possible here: what follows could not be judged"
    if info.kind in _STREAMS:
        offered = [word.strip() for value in request.head.values("sec-websocket-protocol") for word in value.split(",")]
        known = channels.PROTOCOLS.intersection(offered)
        return "" if known else f"none of the sub-protocols of {info.kind} is spoken here but {' and '.join(sorted(channels.PROTOCOLS))}"
    return f"{info.kind or request.location.path} over a WebSocket is not understood, so it could not be judged"


def _body_refusal(asked: Operation) -> tuple[str, int]:
    kind = meaning.media_type(asked.attributes)
    if asked.verb == "patch":
        known = kind in patch.MERGES or kind == patch.JSON_PATCH
    elif asked.attributes["subresource"] == "proxy":
        return "", 403
    else:
        known = kind in ("", _JSON)
    if known:
        return "", 403
    return f"a body of type {kind or 'unknown'} cannot be looked at here: send JSON", 415


def _merges(value: JSON) -> bool:
    """Return whether YAML may read ``value`` as something else than JSON: by a merge key."""
    match value:
        case dict():
            return "<<" in value or any(map(_merges, value.values()))
        case list():
            return any(map(_merges, value))
        case _:
            return False


def _without_token(location: Location) -> Location:
    """Return ``location`` without a credential in its query: OpenShift's and some proxies' ``access_token``."""
    if location.query is None:
        return location
    kept = [item for item in location.query.split("&") if not _TOKENS.match(unquote_plus(item.partition("=")[0]))]
    return location if len(kept) == location.query.count("&") + 1 else location._replace(query="&".join(kept) or None)


def _going_on(field: tuple[str, str]) -> tuple[str, str] | None:
    """Return ``field`` as it goes on, None if it does not: only sub-protocols that are understood, as a token of the workload's may be among them."""
    name, value = field
    if name.lower() in _GOES_NO_FURTHER:
        return None
    if name.lower().replace("_", "-") != "sec-websocket-protocol":
        return field
    kept = [word for each in value.split(",") if (word := each.strip()) in channels.PROTOCOLS]
    return (name, ", ".join(kept)) if kept else None


KUBERNETES: Final = KubernetesDialect()
