"""The check of ``what: http``: method, host, path, query, header fields and body of an HTTP request.

A path that servers may read in several ways, a parameter or field that is given several times: a rule that permits needs all of
them to match, any other rule one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hostagent.model.operation import Completeness, Operation
from hostagent.policy.body import body_checks
from hostagent.policy.check import Check, Subject
from hostagent.policy.document import HttpRequest
from hostagent.policy.glob import Matcher, matcher, path_matcher
from hostagent.wire.forms import spelled
from hostagent.wire.http1.location import query_pairs, readings

PROTOCOL = "http"

_Part = Callable[[Operation, bool], bool | None]


def http_checks(form: HttpRequest | None) -> list[Check]:
    """Return the checks on a request: one for each part that ``form`` gives, and one for the protocol before them."""
    if form is None:
        return []
    checks = [_check("what.http", "an HTTP request", lambda _operation, _strict: True)]
    if form.methods is not None:
        methods = matcher([each.upper() for each in form.methods])
        checks.append(_check("what.http.methods", _any_of(form.methods), _method_part(methods)))
    if form.hosts is not None:
        hosts = matcher([each.lower() for each in form.hosts])
        checks.append(_check("what.http.hosts", _any_of(form.hosts), lambda o, _: hosts(o.attributes["host"])))
    if form.paths is not None:
        checks.append(_check("what.http.paths", _any_of(form.paths), _path_part(path_matcher(form.paths), path_matcher([each.casefold() for each in form.paths]))))
    for name, patterns in form.query.items():
        checks.append(_check(f"what.http.query.{name}", _any_of(patterns), _query_part(name, matcher(patterns))))
    for name, patterns in form.headers.items():
        checks.append(_check(f"what.http.headers.{name}", _any_of(patterns), _header_part(name, matcher(patterns))))
    if form.grpc is not None:
        checks.append(_check("what.http.grpc", _any_of(form.grpc), _grpc_part(path_matcher(form.grpc))))
    if form.aws is not None:
        checks.append(_check("what.http.aws", _any_of(form.aws), _aws_part(form.aws)))
    return checks + body_checks(form.body)


def _any_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else "any of " + ", ".join(values)


def _check(label: str, wants: str, part: _Part) -> Check:
    def test(subject: Subject, strict: bool) -> bool | None:
        operation = subject.operation
        if operation.protocol != PROTOCOL or "path" not in operation.attributes:
            return False
        return part(operation, strict)

    return Check(label, wants, test)


def _several(found: Sequence[str], matches: Matcher, *, strict: bool) -> bool:
    return bool(found) and (all if strict else any)(map(matches, found))


def _method_part(matches: Matcher) -> _Part:
    def part(operation: Operation, _strict: bool) -> bool | None:
        return matches(operation.verb) if operation.completeness is Completeness.FULL else None

    return part


def _path_part(matches: Matcher, matches_folded: Matcher) -> _Part:
    """To permit, letters count; otherwise not: there are servers to which they are all the same."""

    def part(operation: Operation, strict: bool) -> bool:
        path = operation.attributes["path"]
        found = readings(path) if path != "*" else ["*"]
        return all(map(matches, found)) if strict else any(matches(each) or matches_folded(each.casefold()) for each in found)

    return part


def _grpc_part(matches: Matcher) -> _Part:
    """To permit, the content must be gRPC's; otherwise the path is enough: JSON and gRPC-Web call the same methods."""

    def part(operation: Operation, strict: bool) -> bool | None:
        called = operation.attributes.get("grpc", "")
        if strict and (operation.completeness is not Completeness.FULL or not _is_grpc(operation)):
            return False
        return bool(called) and matches(called)

    return part


def _aws_part(patterns: Sequence[str]) -> _Part:
    """An operation that cannot be told (REST services name none) could be any of its service's."""
    operations, services = matcher(patterns), matcher([pattern.partition(":")[0] for pattern in patterns])

    def part(operation: Operation, strict: bool) -> bool | None:
        called = operation.attributes.get("aws", "")
        service, _, action = called.partition(":")
        if action and operation.completeness is Completeness.FULL:
            return operations(called)
        return None if called and services(service) else False

    return part


def _is_grpc(operation: Operation) -> bool:
    kind = operation.attributes.get("header.content-type", "").partition(";")[0].strip().lower()
    return kind == "application/grpc" or kind.startswith("application/grpc+")


def _query_part(name: str, matches: Matcher) -> _Part:
    """To permit, the name must be written exactly; otherwise however a server may read it as this one."""

    def part(operation: Operation, strict: bool) -> bool | None:
        pairs = query_pairs(operation.attributes["query"])
        if pairs is None:
            return None
        alike = [(key, value) for key, value in pairs if spelled(key) == spelled(name)]
        if strict and any(key != name for key, _ in alike):
            return False
        return _several([value for _, value in alike], matches, strict=strict)

    return part


def _header_part(name: str, matches: Matcher) -> _Part:
    def part(operation: Operation, strict: bool) -> bool:
        attributes: Mapping[str, str] = operation.attributes
        value = attributes.get(f"header.{name.replace('_', '-')}")
        return value is not None and _several(value.split("\n"), matches, strict=strict)

    return part
