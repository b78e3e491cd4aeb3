"""The check of ``what.transfer``: direction, name, declared media type and declared size of a file that is moved.

Whether the answer to a request is a file is known only when it comes. Until then a rule that permits downloads matches, and any other
does not: what comes is judged once more, as what it is. A size that nobody declared matches ``max_size``, and ``size_over`` too;
the verdict then has a limit (``limit_of``), at which the transfer is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hostagent.model.operation import Completeness
from hostagent.model.transfer import Transfer, TransferLimit, strictest
from hostagent.policy.check import Check, Subject
from hostagent.policy.document import FileTransfer
from hostagent.policy.glob import Matcher, matcher

if TYPE_CHECKING:
    from hostagent.policy.rule import Rule

_Part = Callable[[Transfer, bool], bool | None]


def transfer_checks(form: FileTransfer | None) -> list[Check]:
    """Return one check for each part that ``form`` gives."""
    if form is None:
        return []
    checks = [_check(form, "direction", f"a file {form.direction}", lambda _transfer, _strict: True)]
    if form.names is not None:
        names = matcher(form.names), matcher([each.casefold() for each in form.names])
        checks.append(_check(form, "names", _any_of(form.names), _name_part(*names)))
    if form.media_types is not None:
        kinds = matcher([each.lower() for each in form.media_types])
        checks.append(_check(form, "media_types", _any_of(form.media_types), _type_part(kinds)))
    if form.max_size is not None:
        most = form.max_size
        checks.append(_check(form, "max_size", f"at most {most} bytes", lambda t, _: t.size is None or t.size <= most))
    if form.size_over is not None:
        over = form.size_over
        checks.append(_check(form, "size_over", f"more than {over} bytes", lambda t, _: None if t.size is None else t.size > over))
    return checks


def limit_of(subject: Subject, denies: Sequence[Rule], allows: Sequence[Rule]) -> TransferLimit | None:
    """Return where a transfer whose size nobody declared is cut, None: nowhere.

    ``denies`` are the rules that would deny it if it grows beyond their ``size_over``, ``allows`` those that permit it, of which any
    suffices.
    """
    transfer = subject.operation.transfer
    if transfer is None or not transfer.certain or transfer.size is not None:
        return None
    limits = [TransferLimit(rule.id, rule.size_over) for rule in denies if rule.size_over is not None]
    most = [TransferLimit(rule.id, rule.max_size) for rule in allows if rule.max_size is not None]
    if most and len(most) == len(allows):
        limits.append(max(most, key=lambda each: (each.size, each.rule)))
    return strictest(limits)


def _any_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else "any of " + ", ".join(values)


def _check(form: FileTransfer, label: str, wants: str, part: _Part) -> Check:
    direction = form.direction

    def test(subject: Subject, strict: bool) -> bool | None:
        transfer = subject.operation.transfer
        if transfer is None and subject.operation.completeness is not Completeness.FULL:
            return None
        if transfer is None or transfer.direction is not direction:
            return False
        return part(transfer, strict) if transfer.certain else strict

    return Check(f"what.transfer.{label}", wants, test)


def _several(found: tuple[str, ...] | None, matches: Matcher, *, strict: bool) -> bool | None:
    """All must match to permit, any suffices otherwise; what nobody declared cannot be told."""
    if not found or (not strict and "" in found):
        return None
    return all(map(matches, found)) if strict else any(map(matches, found))


def _name_part(matches: Matcher, matches_folded: Matcher) -> _Part:
    """The whole path or what stands behind its last slash; letters count only to permit, as not all systems tell them apart."""

    def named(name: str) -> bool:
        return matches(name) or matches(name.rpartition("/")[2])

    def folded(name: str) -> bool:
        name = name.casefold()
        return matches_folded(name) or matches_folded(name.replace("\\", "/").rpartition("/")[2])

    return lambda transfer, strict: _several(transfer.names, named if strict else folded, strict=strict)


def _type_part(matches: Matcher) -> _Part:
    return lambda transfer, strict: _several(transfer.media_types, matches, strict=strict)
