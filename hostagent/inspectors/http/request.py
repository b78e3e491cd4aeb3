"""What a request means: one operation, by its method, host, path, query and fields (RFC 9110 §9)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from hostagent.inspectors.http import transfers, websocket
from hostagent.inspectors.http.content import OVERRIDE, carries_form, carries_json, overrides, read_content
from hostagent.inspectors.http.grpc import is_grpc, method_of
from hostagent.model.errors import RemoteWireError
from hostagent.model.operation import Access, Completeness, Content, ContentKind, Effect, Operation, Resource
from hostagent.model.transfer import Direction
from hostagent.wire.forms import Form, spelled
from hostagent.wire.http1.head import RequestHead
from hostagent.wire.http1.location import DEFAULT_PORTS, Location, locate, query_pairs, readings

PROTOCOL: Final = "http"

EFFECTS: Final[Mapping[str, frozenset[Effect]]] = {
    "GET": frozenset({Effect.READ}),
    "HEAD": frozenset({Effect.READ}),
    "OPTIONS": frozenset({Effect.READ}),
    "PUT": frozenset({Effect.INSERT, Effect.UPDATE}),
    "PATCH": frozenset({Effect.UPDATE}),
    "DELETE": frozenset({Effect.DELETE}),
    # What it does is the resource's own affair (RFC 9110 §9.3.3).
    "POST": frozenset({Effect.INSERT, Effect.EXECUTE}),
    websocket.VERB: frozenset({Effect.READ, Effect.INSERT, Effect.EXECUTE}),
}
"""What each method does. One that is not here could do anything."""

_OVERRIDES: Final = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})
_SECRET: Final = re.compile(
    r"(?i)passw|passphrase|secret|token|key(?!word)|signature|auth(?!or)|credential|session|assertion|jwt|saml|^(?:pass|pwd?|sig|code|pin|otp|sid)$"
)
_REROUTES: Final = frozenset({"x-original-url", "x-rewrite-url", "x-original-uri", "x-override-url", "x-http-destinationurl"})


def check(head: RequestHead) -> str:
    """Return why no policy can let ``head`` pass, empty if one could.

    Raises:
        RemoteWireError: its Host is missing or given twice (400), it expects what nobody knows (417).
    """
    if len(head.values("host")) != 1:
        raise RemoteWireError("a request needs exactly one Host field", "400")
    if any(value.lower() != "100-continue" for value in head.values("expect")) or len(head.values("expect")) > 1:
        raise RemoteWireError("an expectation other than 100-continue", "417")
    if head.method in ("CONNECT", "TRACE"):
        return f"{head.method} is not possible here: it would carry or show what cannot be judged"
    if head.method == websocket.VERB:
        return f"{head.method} is not a method: it is how policy calls a WebSocket"
    if websocket.asks(head) and not head.values("http2-settings"):
        return websocket.objection(head)
    if head.values("upgrade") or head.values("http2-settings"):
        return "a change of protocol is not possible here: what follows could not be judged"
    if is_grpc(list(head.fields)) and not method_of(head.target):
        return "a gRPC call has a path of the form /package.Service/Method"
    for name, _ in head.fields:
        if name.lower().replace("_", "-") in _REROUTES:
            return f"{name} sends some servers to another path than the one that is judged"
    return ""


def operation(
    method: str, location: Location, fields: Sequence[tuple[str, str]], content: Content | None = None, size: int | None = None
) -> Operation:
    """Return the operation to judge. ``content`` is its body, None while it is not known; ``size`` is how long that is, if it was declared.

    Its resources are the URL in every way a server may read its path. ``attributes`` hold scheme, host, port, path (canonical),
    query, ``grpc`` (the method that would be called if it is gRPC) and ``header.NAME`` (small letters; values of one name with a line feed between them).
    """
    effects = EFFECTS.get(method)
    pairs = query_pairs(location.query or "")
    names = {name.lower().replace("_", "-") for name, _ in fields}
    overridden = not names.isdisjoint(_OVERRIDES) or _overridden(location.query, pairs)
    known = effects is not None and not overridden
    access = Access.READ if effects is not None and effects <= {Effect.READ} else Access.WRITE
    forms = readings(location.path) if location.path != "*" else ("*",)
    host = location.authority.host
    called = method_of(location.path) if method == "POST" else ""
    resources = [Resource("url", f"{host}{form}", access) for form in forms]
    url = location.url.partition("?")[0]
    redacted = f"{method} {url}" + _redacted_query(location.query, pairs)
    return Operation(
        protocol=PROTOCOL,
        verb=method,
        effects=effects or frozenset(),
        resources=tuple([*resources, Resource("grpc", called, access)] if called else resources),
        completeness=Completeness.FULL if known else Completeness.OPAQUE,
        text=f"{method} {location.url}",
        redacted=redacted,
        fingerprint=redacted,
        parameters=tuple(value for _, value in pairs or ()),
        attributes=_attributes(location, fields) | ({"grpc": called} if called else {}),
        content=content,
        transfer=transfers.sent(method, location, fields, size, empty=content is not None and content.kind is ContentKind.NOTHING),
    )


def with_content(asked: Operation, content: Content, size: int | None = None) -> Operation:
    """Return ``asked`` with a body of ``size`` bytes, which was not known before. One that may name another method makes it anything."""
    hidden = asked.verb == "POST" and _may_override(asked, content)
    transfer = transfers.with_content(asked, content, size)
    meant = replace(asked, content=content, completeness=Completeness.OPAQUE if hidden else asked.completeness, transfer=transfer)
    if "aws" not in asked.attributes or content.kind is not ContentKind.FORM:
        return meant
    service, _, action = asked.attributes["aws"].partition(":")
    return called(meant, service, action, [field.value or "" for field in cast("Form", content.value) if field.name == "Action"])


def called(asked: Operation, service: str, action: str, more: Sequence[str] = ()) -> Operation:
    """Return ``asked`` with the AWS operation that it is: by its X-Amz-Target, its query, or the ``more`` that its form says.

    One that is named twice could be either, and counts as every effect.
    """
    query = [value for name, value in query_pairs(asked.attributes["query"]) or () if name == "Action"]
    named = list(dict.fromkeys(each for each in (action, *query, *more) if each))
    attributes = {**asked.attributes, "aws": f"{service}:{named[0] if len(named) == 1 else ''}"}
    if service == "s3" and asked.transfer is not None and asked.transfer.direction is Direction.UPLOAD:
        asked = replace(asked, transfer=replace(asked.transfer, certain=True))  # an object, whatever its type
    return replace(asked, attributes=attributes, completeness=asked.completeness if len(named) < 2 else Completeness.OPAQUE)


def _may_override(asked: Operation, content: Content) -> bool:
    if content.kind is not ContentKind.OPAQUE:
        return overrides(content)
    fields = [("Content-Type", value) for value in asked.attributes.get("header.content-type", "").split("\n") if value]
    return carries_form("POST", fields) or carries_json("POST", fields)


def split_line(text: str, example: str) -> tuple[str, str, str, str]:
    """Return method, URL, scheme and host (with its port) of a request that a person wrote as ``METHOD URL``, as in ``example``.

    Raises:
        ValueError: it is not that.
    """
    method, _, url = text.strip().partition(" ")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in DEFAULT_PORTS:
        raise ValueError(f"{text!r} is not METHOD URL, such as {example}")
    return method, url, scheme, rest.partition("/")[0].partition("?")[0]


def read_line(text: str, fields: Sequence[tuple[str, str]], body: str = "") -> Operation:
    """Return the operation of a request that a person wrote as ``METHOD URL``, with its fields and body.

    Raises:
        ValueError: it is not that, or no such request would be looked at.
    """
    method, url, scheme, host = split_line(text, "GET https://api.example.com/v1/items?limit=10")
    try:
        asked = operation(method, locate(method, url, host, scheme), fields)
        return with_content(asked, read_content(list(fields), body.encode()), len(body.encode()))
    except RemoteWireError as error:
        raise ValueError(f"{text}: refused before any rule is asked: {error}") from error


def _overridden(query: str | None, pairs: Sequence[tuple[str, str]] | None) -> bool:
    if pairs is None:
        return "method" in (query or "").lower()
    return any(spelled(name) == OVERRIDE for name, _ in pairs)


def recorded(query: str | None) -> tuple[str | None, ...]:
    """Return the parameters' values as records may keep them: not those that by their name are a secret; nor one without a name."""
    pairs = query_pairs(query or "") or ()
    return tuple("[masked]" if _SECRET.search(name) else value for name, value in pairs)


def _redacted_query(query: str | None, pairs: Sequence[tuple[str, str]] | None) -> str:
    if query is None:
        return ""
    if pairs is None:
        return "?…"
    return "?" + "&".join(f"{name}=?" for name, _ in pairs)


def _attributes(location: Location, fields: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = {
        "scheme": location.scheme,
        "host": location.authority.host,
        "port": str(location.authority.port),
        "path": location.path,
        "query": location.query or "",
    }
    for name, value in fields:
        key = f"header.{name.lower().replace('_', '-')}"  # a gateway interface cannot tell them apart
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def shown(operation: Operation, fields: Sequence[tuple[str, str]], body: bytes) -> tuple[str, tuple[bytes, ...]]:
    """Return what a person must see of a request that is held: its text, and the body beside it if it is not text."""
    lines = [operation.text, *(f"{name}: {value}" for name, value in fields)]
    if not body:
        return "\n".join(lines), ()
    try:
        return "\n".join([*lines, "", body.decode()]), ()
    except UnicodeDecodeError:
        return "\n".join([*lines, "", f"[{len(body)} bytes that are not text]"]), (body,)
