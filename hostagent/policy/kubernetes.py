"""The check of ``what: kubernetes``: verb, resource, object and what a pod may reach, of a request to a Kubernetes API.

A name that a request does not say (a list, a deletion of all) could be any: a rule that permits is not about it, any other rule is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hostagent.model.operation import Completeness, Operation
from hostagent.model.verdict import MaskKubernetes, Obligation
from hostagent.policy.check import Check, Subject
from hostagent.policy.document import KubernetesRequest
from hostagent.policy.glob import Matcher, matcher, path_matcher

PROTOCOL: Final = "kubernetes"
CORE: Final = "core"
"""What rules call the API group without a name."""

_CONNECTS: Final = frozenset({"exec", "attach", "portforward", "proxy"})
_OF_ALL_NAMES: Final = frozenset({"list", "watch", "deletecollection", "create"})
_CLUSTER_WIDE: Final = frozenset(
    {
        *("nodes", "namespaces", "persistentvolumes", "componentstatuses", "clusterroles", "clusterrolebindings", "storageclasses", "ingressclasses"),
        *("customresourcedefinitions", "apiservices", "priorityclasses", "runtimeclasses", "volumeattachments", "csidrivers", "csinodes"),
        *("certificatesigningrequests", "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "flowschemas"),
        *("prioritylevelconfigurations", "validatingadmissionpolicies", "validatingadmissionpolicybindings", "selfsubjectaccessreviews"),
        *("selfsubjectrulesreviews", "subjectaccessreviews", "tokenreviews", "selfsubjectreviews"),
    }
)
"""Resources of Kubernetes itself that are in no namespace: a request for them is about none."""

_Part = Callable[[Operation, bool], bool | None]


def kubernetes_checks(form: KubernetesRequest | None, *, allows: bool, by_effects: bool) -> list[Check]:
    """Return the checks on a request: one for each part that ``form`` gives, and one for the protocol before them.

    ``allows``: they are an allow rule's; ``by_effects``: it names effects.
    """
    if form is None:
        return []
    checks = [_check("", "a request to a Kubernetes API", lambda _operation, _strict: True)]
    parts: tuple[tuple[str, Sequence[str] | None, Callable[[Matcher], _Part]], ...] = (
        ("verbs", form.verbs, _verb_part), ("groups", form.groups, _group_part), ("resources", form.resources, _resource_part),
        ("subresources", form.subresources, _subresource_part), ("namespaces", form.namespaces, _namespace_part), ("names", form.names, _name_part),
    )  # fmt: skip
    checks += [_check(f".{name}", _any_of(patterns), make(matcher(patterns))) for name, patterns, make in parts if patterns is not None]
    if form.paths is not None:
        checks.append(_check(".paths", _any_of(form.paths), _path_part(path_matcher(form.paths))))
    if form.dry_run is not None:
        checks.append(_check(".dry_run", str(form.dry_run).lower(), _dry_run_part(wanted=form.dry_run)))
    if form.privileged and not allows:
        checks.append(_check(".privileged", "true", lambda operation, _: _reaches_out(operation)))
    if allows and not form.privileged and not by_effects:
        checks.append(_check(".privileged", "given, as what is asked for reaches out of its own box", lambda operation, _: not _reaches_out(operation)))
    return checks


_SHOWN_BY: Final = {"secrets": frozenset({"secrets", "serviceaccounts/token"}), "configmaps": frozenset({"configmaps"})}


def may_show(obligation: Obligation, operation: Operation) -> bool:
    """Return whether what ``obligation`` masks may come back from ``operation``. One that is not about Kubernetes may, for all that is known here."""
    if not isinstance(obligation, MaskKubernetes):
        return True
    if operation.protocol != PROTOCOL or operation.verb == "connect":
        return False
    resource, subresource = operation.attributes.get("resource", ""), operation.attributes.get("subresource", "")
    if operation.completeness is not Completeness.FULL:
        return True
    return not {resource, f"{resource}/{subresource}"}.isdisjoint(_SHOWN_BY[obligation.what])


def _any_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else "any of " + ", ".join(values)


def _check(label: str, wants: str, part: _Part) -> Check:
    def test(subject: Subject, strict: bool) -> bool | None:
        operation = subject.operation
        if operation.protocol != PROTOCOL or operation.verb == "connect":
            return False
        if operation.completeness is not Completeness.FULL:
            return None
        return part(operation, strict)

    return Check(f"what.kubernetes{label}", wants, test)


def _is_resource(operation: Operation) -> bool:
    return operation.attributes["resource"] != ""


def _verb_part(matches: Matcher) -> _Part:
    """A way into something is opened by GET or POST alike (get or create): to permit it, both must be meant; otherwise either."""

    def part(operation: Operation, strict: bool) -> bool:
        if operation.attributes["subresource"] not in _CONNECTS:
            return matches(operation.verb)
        return (all if strict else any)(map(matches, (operation.verb, "create")))

    return part


def _group_part(matches: Matcher) -> _Part:
    return lambda operation, _: _is_resource(operation) and matches(operation.attributes["group"] or CORE)


def _resource_part(matches: Matcher) -> _Part:
    def part(operation: Operation, _strict: bool) -> bool:
        resource, subresource = operation.attributes["resource"], operation.attributes["subresource"]
        return resource != "" and matches(f"{resource}/{subresource}" if subresource else resource)

    return part


def _subresource_part(matches: Matcher) -> _Part:
    return lambda operation, _: operation.attributes["subresource"] != "" and matches(operation.attributes["subresource"])


def _namespace_part(matches: Matcher) -> _Part:
    def part(operation: Operation, _strict: bool) -> bool | None:
        namespace = operation.attributes["namespace"]
        if namespace:
            return matches(namespace)
        return None if _is_resource(operation) and operation.attributes["resource"] not in _CLUSTER_WIDE else False

    return part


def _name_part(matches: Matcher) -> _Part:
    def part(operation: Operation, _strict: bool) -> bool | None:
        name = operation.attributes["name"]
        if name:
            return matches(name)
        return None if operation.verb in _OF_ALL_NAMES else False

    return part


def _path_part(matches: Matcher) -> _Part:
    return lambda operation, _: not _is_resource(operation) and matches(operation.attributes["path"])


def _dry_run_part(*, wanted: bool) -> _Part:
    return lambda operation, _: (operation.attributes["dry_run"] == "true") is wanted


def _reaches_out(operation: Operation) -> bool:
    """Return whether a pod that it describes reaches the host or another account, or may."""
    return operation.attributes["privileged"] != "no"
