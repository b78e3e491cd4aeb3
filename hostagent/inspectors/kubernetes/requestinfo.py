"""Which verb, resource and object a request is about, as the API server itself derives it.

The rules are those of ``RequestInfoFactory.NewRequestInfo`` (k8s.io/apiserver, pkg/endpoints/request/requestinfo.go, v0.36): authorisation inside
the server goes by the same. Where the server would guess, or where two readers could differ, nothing is derived.

Layout::

    /api/VERSION/…   /apis/GROUP/VERSION/…          … is one of
    RESOURCE[/NAME[/SUBRESOURCE[/more]]]
    namespaces/NAMESPACE/RESOURCE[/NAME[/SUBRESOURCE[/more]]]
    watch/…                                          deprecated: the verb is in the path
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from hostagent.wire.http1.location import query_pairs

_VERBS: Final[Mapping[str, str]] = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES: Final = frozenset({"status", "finalize"})
_LISTED: Final = frozenset({"command", "ports"})
"""Parameters that are lists, and so may be given several times."""
CONNECTS: Final = frozenset({"exec", "attach", "portforward", "proxy"})
"""Subresources that open a way into something, whatever the method is (kubernetes/kubernetes#78741)."""
WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
DRY_RUN: Final = "All"
"""The one value of ``dryRun``."""
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_GROUP: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:@!$&'()*+,=-]{1,253}")
"""What may be the name of an object: a path segment (k8s.io/apimachinery, ``IsPathSegmentName``) that needs no decoding."""


class NotDerivedError(ValueError):
    """What a request is about cannot be derived; the message says why."""


class RequestInfo(NamedTuple):
    """What a request is about.

    ``resource`` is empty for a non-resource URL (``/version``), where ``verb`` is the method in small letters. ``namespace`` and ``name`` are empty
    where the URL says none; ``name`` may come from a field selector. ``group`` is empty for the core group. ``parameters`` is the query.
    """

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """Return ``resource`` or ``resource/subresource``, as rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    @property
    def access_token(self) -> bool:
        """Return whether it asks for the token of a service account."""
        return (self.resource, self.subresource) == ("serviceaccounts", "token")

    @property
    def dry_run(self) -> bool:
        """Return whether its query has the server change nothing. What opens a way into something, and what answers with a token, does it all the same."""
        return self.verb in WRITES and self.subresource not in CONNECTS and not self.access_token and self.values("dryRun") == [DRY_RUN]

    def values(self, name: str) -> list[str]:
        """Return every value of parameter ``name``."""
        return [value for key, value in self.parameters if key == name]


def derive(method: str, path: str, query: str | None) -> RequestInfo:
    """Return what a request is about, given its canonical path (``hostagent.wire.http1.location``).

    Raises:
        NotDerivedError: the server would refuse it, guess, or could read it otherwise.
    """
    parameters = _parameters(query or "")
    parts = [unquote(part) for part in path.split("/") if part]
    if any("/" in part or "%" in part for part in parts):  # the server decodes before it splits: /api%2Fv1/secrets is a resource
        raise NotDerivedError("an encoded slash or percent sign in the path")
    prefix = parts[0] if parts else ""
    if prefix not in ("api", "apis") or len(parts) < (3 if prefix == "api" else 4):
        if method not in ("GET", "HEAD"):
            raise NotDerivedError(f"{method} of {path}, which is no resource")
        return RequestInfo(method.lower(), parameters=parameters)
    group, rest = ("", parts[1:]) if prefix == "api" else (parts[1], parts[2:])
    version, rest = rest[0], rest[1:]
    verb, by_path = _VERBS.get(method, ""), False
    if rest[0] == "proxy":
        raise NotDerivedError("the verb proxy in a path is gone from Kubernetes; ask for the subresource proxy")
    if rest[0] == "watch":
        if len(rest) < 2 or method != "GET":
            raise NotDerivedError("the verb watch in a path, without a resource behind it or with another method than GET")
        verb, by_path, rest = "watch", True, rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource, name, subresource = (*rest[:3], "", "")[:3] if len(rest) > 1 else (rest[0], "", "")
    info = RequestInfo(verb, group, version, resource, subresource, namespace, name, parameters)
    _check(info, method)
    return info if by_path else _of_collection(info)


def _of_collection(info: RequestInfo) -> RequestInfo:
    """Return ``info`` with the verb that it has where no object is named."""
    if info.name or info.verb not in ("get", "delete"):
        return info
    if info.verb == "delete":
        return info._replace(verb="deletecollection")
    # Convert_Slice_string_To_bool: what is neither false nor 0 is true, nothing included.
    watching = any(value.lower() not in ("false", "0") for value in info.values("watch"))
    return info._replace(verb="watch" if watching else "list", name=_selected(info.values("fieldSelector")))


def _selected(selectors: list[str]) -> str:
    """Return the name that a field selector demands, empty if it demands none or the server may not understand it."""
    found = ""
    for term in sorted(term for selector in selectors for term in selector.split(",") if term):
        field, operator, value = term.partition("=")
        value = value.removeprefix("=")
        if not operator or "\\" in term or "=" in value:
            return ""
        if field == "metadata.name" and not found:
            found = value
    return found if _NAME.fullmatch(found) else ""


def _parameters(query: str) -> tuple[tuple[str, str], ...]:
    pairs = query_pairs(query)
    if pairs is None:
        raise NotDerivedError("a semicolon in the query, or bytes that are not UTF-8")
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise NotDerivedError(f"the parameter {name} is given twice")
        if name not in _LISTED:
            seen.add(name)
    return pairs


def _check(info: RequestInfo, method: str) -> None:
    if not info.verb:
        raise NotDerivedError(f"{method} is no method of the Kubernetes API")
    if info.group and not _GROUP.fullmatch(info.group):
        raise NotDerivedError(f"{info.group!r} is no API group")
    for word in (info.version, info.resource, *filter(None, [info.subresource])):
        if not _LABEL.fullmatch(word):
            raise NotDerivedError(f"{word!r} is no version, resource or subresource: they are written in small letters")
    for word in filter(None, [info.namespace, info.name]):
        if not _NAME.fullmatch(word):
            raise NotDerivedError(f"{word!r} is no name of an object")
    if info.namespace and not _LABEL.fullmatch(info.namespace):
        raise NotDerivedError(f"{info.namespace!r} is no namespace")
