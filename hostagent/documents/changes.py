"""What differs between two readings of the configuration and of the targets, and which of it counts without a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import NamedTuple

from pydantic.fields import FieldInfo

from hostagent.documents.config import Config
from hostagent.documents.named import Key, Strict
from hostagent.model.target import Target


class Change(NamedTuple):
    """One key of ``hostagent.toml`` that differs; ``live`` says whether a reload is enough."""

    key: str
    before: object
    after: object
    live: bool

    def __str__(self) -> str:
        """``limits.login_timeout_s: 30.0 -> 5.0``."""
        return f"{self.key}: {self.before} -> {self.after}"


def key_of(field: FieldInfo) -> Key:
    """Return what a field's annotation says of it to people; an empty ``Key`` where it says nothing."""
    return next((item for item in field.metadata if isinstance(item, Key)), Key(""))


def config_changes(before: Config, after: Config) -> list[Change]:
    """Return every key that differs, in the order of the document."""
    found = []
    for section in fields(Config):
        old: Strict = getattr(before, section.name)
        new: Strict = getattr(after, section.name)
        for name, field in type(old).model_fields.items():
            values = getattr(old, name), getattr(new, name)
            if values[0] != values[1]:
                found.append(Change(f"{section.name}.{name}", *values, key_of(field).live))
    return found


def with_live(before: Config, after: Config) -> Config:
    """Return ``before`` with the values of ``after`` for the keys that count without a restart."""
    updates: dict[str, dict[str, object]] = {}
    for change in config_changes(before, after):
        section, _, name = change.key.partition(".")
        if change.live:
            updates.setdefault(section, {})[name] = change.after
    sections = {name: getattr(before, name).model_copy(update=values) for name, values in updates.items()}
    return replace(before, **sections)


class TargetChanges(NamedTuple):
    """Targets by name. A credential is ``renewed`` where only it, or the place it is kept at, is another."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    renewed: list[str]

    @property
    def ended(self) -> frozenset[str]:
        """Those whose sessions cannot go on: they were opened, and are judged, by a document that is no longer in force."""
        return frozenset(self.removed) | frozenset(self.changed)

    def lines(self) -> list[str]:
        """Return one line for a person for each."""
        words = (
            (self.added, "new"),
            (self.removed, "removed, its sessions end"),
            (self.changed, "changed, its sessions end"),
            (self.renewed, "another credential, from the next login on"),
        )
        return [f"target {name}: {word}" for names, word in words for name in names]


def target_changes(
    before: Mapping[str, Target], after: Mapping[str, Target], old_secrets: Mapping[str, str], new_secrets: Mapping[str, str]
) -> TargetChanges:
    """Return what differs between two sets of targets with their secrets."""
    both = sorted(before.keys() & after.keys())
    changed = [name for name in both if _without_place(before[name]) != _without_place(after[name])]
    return TargetChanges(
        added=sorted(after.keys() - before.keys()),
        removed=sorted(before.keys() - after.keys()),
        changed=changed,
        renewed=[name for name in both if name not in changed and old_secrets.get(name) != new_secrets.get(name)],
    )


def _without_place(target: Target) -> Target:
    return replace(target, login=replace(target.login, credential=None))
