"""A request to the Kubernetes API as an operation: verb, effects, resource, and what its body makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from hostagent.inspectors.kubernetes import patch
from hostagent.inspectors.kubernetes.podspec import findings
from hostagent.inspectors.kubernetes.requestinfo import CONNECTS, DRY_RUN, RequestInfo
from hostagent.model.operation import Access, Completeness, Content, ContentKind, Effect, Operation, Resource
from hostagent.model.transfer import MAYBE_DOWNLOAD
from hostagent.wire.jsontext import JSON

PROTOCOL: Final = "kubernetes"

_EFFECTS: Final[Mapping[str, frozenset[Effect]]] = {
    "get": frozenset({Effect.READ}),
    "list": frozenset({Effect.READ}),
    "watch": frozenset({Effect.READ}),
    "head": frozenset({Effect.READ}),
    "create": frozenset({Effect.INSERT}),
    "update": frozenset({Effect.INSERT, Effect.UPDATE}),  # of what does not exist, for some kinds
    "patch": frozenset({Effect.INSERT, Effect.UPDATE}),  # server-side apply makes what does not exist
    "delete": frozenset({Effect.DELETE}),
    "deletecollection": frozenset({Effect.DELETE, Effect.DELETE_ALL}),
}
_DROPS: Final = frozenset({"namespaces", "customresourcedefinitions", "apiservices"})
"""Resources whose deletion takes everything in them along."""
_GRANTS: Final = frozenset(
    {
        *("roles", "rolebindings", "clusterroles", "clusterrolebindings", "certificatesigningrequests", "mutatingwebhookconfigurations"),
        *("validatingwebhookconfigurations", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "apiservices"),
        *("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
    }
)
_BINDS: Final = frozenset({("", "pods/binding"), ("", "bindings")})
"""What puts a pod on a node of one's choice, as ``nodeName`` does in its description."""
_READS_BY_CREATING: Final = frozenset(
    {"tokenreviews", "subjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "localsubjectaccessreviews", "selfsubjectreviews"}
)
_WRITES: Final = frozenset({"create", "update", "patch"})

_NO_POD: Final = CONNECTS | {"status", "scale"}
"""Subresources whose bodies describe no pod: of some the rest is left out, others go on to somebody else."""

_MASKS: Final = frozenset({"[masked]", "W21hc2tlZF0="})

NO, UNKNOWN = "no", "unknown"
"""What the attribute ``privileged`` says where nothing was found, and where it cannot be told. Otherwise it is what was found."""


def operation(asked: Operation, info: RequestInfo, *, empty: bool) -> Operation:
    """Return ``asked``, the HTTP request, as what it is about. ``empty``: no body comes behind its head.

    What it sends is a message that is looked at, and no file. ``attributes`` are those of the request, and ``method group version resource subresource namespace name privileged dry_run command``.
    """
    effects = _effects(info)
    names = {
        "method": asked.verb, "group": info.group, "version": info.version, "resource": info.resource, "subresource": info.subresource,
        "namespace": info.namespace, "name": info.name, "privileged": NO, "dry_run": "true" if info.dry_run else "false",
    }  # fmt: skip
    if info.subresource in ("exec", "attach"):
        names["command"] = " ".join(info.values("command"))
    access = Access.READ if effects == {Effect.READ} else Access.WRITE
    shown = Resource("kubernetes", _name(info), access) if info.resource else Resource("url", asked.attributes["path"], access)
    made = replace(
        asked, protocol=PROTOCOL, verb=info.verb, effects=effects, resources=(shown,), completeness=Completeness.FULL,
        attributes={**asked.attributes, **names}, transfer=None if info.subresource in CONNECTS else MAYBE_DOWNLOAD,
    )  # fmt: skip
    if info.kind == "nodes/proxy":  # the kubelet runs commands in any pod
        return _privileged(made, info.kind)
    if info.verb == "create" and (info.group, info.kind) in _BINDS:
        return _privileged(made, "nodeName")
    if info.subresource == "ephemeralcontainers" and info.verb in _WRITES:
        return _privileged(made, "ephemeralContainers")
    return with_content(made, Content(ContentKind.NOTHING)) if empty else made


def _name(info: RequestInfo) -> str:
    """Return ``NAMESPACE/RESOURCE.GROUP/NAME/SUBRESOURCE``; ``-`` for no namespace, ``*`` for no name."""
    kind = f"{info.resource}.{info.group}" if info.group else info.resource
    return "/".join(filter(None, [info.namespace or "-", kind, info.name or "*", info.subresource]))


def _effects(info: RequestInfo) -> frozenset[Effect]:
    found = set(_EFFECTS[info.verb])
    if info.subresource in CONNECTS:
        found = {Effect.READ, Effect.INSERT, Effect.EXECUTE}
    elif info.verb == "create" and info.resource in _READS_BY_CREATING:
        found = {Effect.READ}
    elif info.subresource == "eviction":
        found = {Effect.DELETE}
    elif Effect.READ not in found and (info.resource in _GRANTS or info.access_token):
        found.add(Effect.PRIVILEGE)
    if Effect.DELETE in found and info.resource in _DROPS and not info.subresource:
        found.add(Effect.DROP)
    return frozenset(found)


def with_content(asked: Operation, content: Content) -> Operation:
    """Return ``asked`` with its body: of a create its name, and how privileged the pods are that it describes. One not understood makes it anything."""
    meant = replace(asked, content=content)
    if content.kind is ContentKind.OPAQUE:
        return _privileged(replace(meant, completeness=Completeness.OPAQUE), UNKNOWN)
    if content.kind is not ContentKind.JSON or asked.attributes["subresource"] in _NO_POD:
        return meant
    if "delete" in asked.verb:
        return _deleting(meant, cast("JSON", content.value))
    if asked.verb not in _WRITES:
        return meant
    value = cast("JSON", content.value)
    if _holds_mask(value):
        meant = replace(meant, attributes={**meant.attributes, "writes_mask": "true"})
    if asked.verb == "patch":
        return _patched(meant, value)
    if not asked.attributes["name"]:
        meant = replace(meant, attributes={**meant.attributes, "name": _named(value)})
    found = findings(value)
    return _privileged(meant, ", ".join(found)) if found else meant


def _deleting(asked: Operation, options: JSON) -> Operation:
    """Return a deletion by its body: where there is one, the server takes its options from it alone (apiserver, handlers/delete.go)."""
    dry = isinstance(options, dict) and options.get("dryRun") == [DRY_RUN]
    return replace(asked, attributes={**asked.attributes, "dry_run": "true" if dry else "false"})


def _patched(asked: Operation, value: JSON) -> Operation:
    said = asked.attributes
    kind = media_type(said)
    if not patch.well_formed(kind, value):
        return _privileged(replace(asked, completeness=Completeness.OPAQUE), UNKNOWN)
    meant = replace(asked, attributes={**said, "patch_reads": "true"}) if patch.reads(value) else asked
    return _privileged(meant, UNKNOWN) if patch.reaches_pod(said["group"], said["resource"], kind, value) else meant


def media_type(attributes: Mapping[str, str]) -> str:
    """Return the media type that the request's Content-Type says, without parameters."""
    return attributes.get("header.content-type", "").partition(";")[0].strip().lower()


def _holds_mask(value: JSON) -> bool:
    """Return whether a text in ``value`` is what masking puts in place of a value, plain or encoded."""
    match value:
        case dict():
            return any(map(_holds_mask, value.values()))
        case list():
            return any(map(_holds_mask, value))
        case str():
            return value in _MASKS
        case _:
            return False


def _named(value: JSON) -> str:
    metadata = value.get("metadata") if isinstance(value, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def is_open(operation: Operation) -> bool:
    """Return whether ``operation`` is a patch that was understood, but not what it makes of a pod."""
    return operation.verb == "patch" and operation.attributes["privileged"] == UNKNOWN and operation.completeness is Completeness.FULL


def settled(operation: Operation, found: Sequence[str]) -> Operation:
    """Return an open ``operation`` now that is known that ``found`` (``podspec``) is what its object has after it."""
    resources = tuple(each for each in operation.resources if each.kind != "privilege")
    known = replace(operation, effects=operation.effects - {Effect.HOST}, resources=resources, attributes={**operation.attributes, "privileged": NO})
    return _privileged(known, ", ".join(found)) if found else known


def _privileged(asked: Operation, why: str) -> Operation:
    """Return ``asked`` as one that reaches beyond its own box, or may."""
    found = [Resource("privilege", each, Access.USE) for each in why.split(", ")]
    attributes = {**asked.attributes, "privileged": why}
    return replace(asked, effects=asked.effects | {Effect.HOST}, resources=(*asked.resources, *found), attributes=attributes)
