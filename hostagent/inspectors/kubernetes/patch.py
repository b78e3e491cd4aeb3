"""Whether a patch can change how a pod is described (RFC 6902, RFC 7386, strategic merge, server-side apply).

What an object is after a patch depends on what it was, which a request does not say. So only what a patch surely leaves alone is told here: the
description of a pod that no part of the patch reaches is as privileged after it as it was before it.
"""

from __future__ import annotations

from typing import Final

from hostagent.inspectors.kubernetes.podspec import NAMES, PLACES, TELLING_ANNOTATIONS, annotates, names_of_pods
from hostagent.wire.jsontext import JSON

JSON_PATCH: Final = "application/json-patch+json"
MERGES: Final = frozenset({"application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"})
_OPERATIONS: Final = frozenset({"add", "remove", "replace", "move", "copy", "test"})


def well_formed(kind: str, value: JSON) -> bool:
    """Return whether ``value`` is a patch of media type ``kind``."""
    if kind in MERGES:
        return isinstance(value, dict)
    if kind != JSON_PATCH or not isinstance(value, list):
        return False
    return all(isinstance(each, dict) and each.get("op") in _OPERATIONS and _pointers(each) is not None for each in value)


def reads(value: JSON) -> bool:
    """Return whether a JSON patch tells, or puts elsewhere, what stands in the object (test, copy, move)."""
    return isinstance(value, list) and any(isinstance(each, dict) and each.get("op") in ("test", "copy", "move") for each in value)


def reaches_pod(group: str, resource: str, kind: str, value: JSON) -> bool:
    """Return whether the patch ``value`` (well formed) may change the description of a pod in an object of ``resource``."""
    place = PLACES.get(("apps" if group == "extensions" else group, resource))
    if kind == JSON_PATCH:
        assert isinstance(value, list)
        return any(_one_reaches(place, each) for each in value if isinstance(each, dict) and each.get("op") != "test")
    if annotates(value):
        return True
    return names_of_pods(value) or _directive(value) if place is None else _merge_reaches(place, value)


def _merge_reaches(place: tuple[str, ...], value: JSON) -> bool:
    for name in place:
        if not isinstance(value, dict) or any(key.startswith("$") for key in value):
            return True
        if name not in value:
            return False
        value = value[name]
    return True


def _directive(value: JSON) -> bool:
    """Return whether a strategic merge says anything in directives: what they do to lists and objects is the server's to know."""
    match value:
        case dict():
            return any(name.startswith("$") or _directive(item) for name, item in value.items())
        case list():
            return any(map(_directive, value))
        case _:
            return False


def _one_reaches(place: tuple[str, ...] | None, operation: dict[str, JSON]) -> bool:
    pointers = _pointers(operation) or [()]
    if annotates(operation.get("value")) or any(part.startswith(TELLING_ANNOTATIONS) for pointer in pointers for part in pointer):
        return True
    if place is not None:
        return any(pointer[: len(place)] == place[: len(pointer)] for pointer in pointers)
    touched = any(not pointer or not NAMES.isdisjoint(pointer) for pointer in pointers)
    return touched or names_of_pods(operation.get("value")) or operation.get("op") in ("copy", "move")


def _pointers(operation: dict[str, JSON]) -> list[tuple[str, ...]] | None:
    """Return where an operation writes to, and what it takes away (RFC 6901); None if it does not say."""
    names = ["path", "from"] if operation.get("op") in ("move", "copy") else ["path"]
    found = []
    for name in names:
        text = operation.get(name)
        if not isinstance(text, str) or (text and not text.startswith("/")):
            return None
        found.append(tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]))
    return found
