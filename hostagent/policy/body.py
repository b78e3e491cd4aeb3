"""The check of ``what.http.body``: members of a JSON body, fields of a form.

What the body is to every server was found by the inspector. A body that could be something else, or that nobody has looked at, is
nothing that a rule permits, and anything that another rule is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from hostagent.model.operation import Content, ContentKind
from hostagent.policy.check import Check, Subject
from hostagent.policy.document import HttpBody
from hostagent.policy.glob import Matcher, matcher
from hostagent.wire.forms import Form, spelled
from hostagent.wire.jsonpath import find, parse_path
from hostagent.wire.jsontext import JSON, scalar_text

_Part = Callable[[Content, bool], bool | None]


def body_checks(form: HttpBody | None) -> list[Check]:
    """Return one check for each part that ``form`` gives."""
    if form is None:
        return []
    checks = [_check(f"json.{path}", patterns, ContentKind.JSON, _json_part(path, matcher(patterns))) for path, patterns in form.json_.items()]
    checks += [_check(f"form.{name}", patterns, ContentKind.FORM, _form_part(name, matcher(patterns))) for name, patterns in form.form.items()]
    return checks


def _check(label: str, patterns: Sequence[str], kind: ContentKind, part: _Part) -> Check:
    def test(subject: Subject, strict: bool) -> bool | None:
        content = subject.operation.content
        if content is None or content.kind is ContentKind.OPAQUE:
            return None
        if content.kind is ContentKind.NOTHING:
            return False
        return part(content, strict) if content.kind is kind else None

    wants = patterns[0] if len(patterns) == 1 else "any of " + ", ".join(patterns)
    return Check(f"what.http.body.{label}", wants, test, content=True)


def _several(found: Sequence[str | None], matches: Matcher, *, strict: bool) -> bool | None:
    """All must match to permit, any suffices otherwise; None among them is what cannot be told."""
    known = [matches(each) for each in found if each is not None]
    if strict:
        return bool(found) and len(known) == len(found) and all(known)
    return True if any(known) else None if len(known) < len(found) else False


def _json_part(text: str, matches: Matcher) -> _Part:
    path = parse_path(text)

    def part(content: Content, strict: bool) -> bool | None:
        value = cast("JSON", content.value)
        return _several([scalar_text(each) for each in find(path, value, loose=not strict)], matches, strict=strict)

    return part


def _form_part(name: str, matches: Matcher) -> _Part:
    def part(content: Content, strict: bool) -> bool | None:
        alike = [field for field in cast("Form", content.value) if spelled(field.name) == spelled(name)]
        if strict and any(field.name != name for field in alike):
            return False
        return _several([field.value for field in alike], matches, strict=strict)

    return part
