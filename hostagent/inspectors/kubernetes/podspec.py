"""What in an object makes a pod more than a program in its own box: the host, another account, another pod's process.

The list is that of the Pod Security Standards' *baseline* level, and beside it what stands for access by another way: the account of a service, a
chosen node, containers put into a running pod. It is looked for at any depth, so that every kind that holds a pod's description (Deployment, CronJob,
a custom resource) is looked through by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from hostagent.wire.jsontext import JSON, Number

_HARMLESS_CAPABILITIES: Final = frozenset(
    {
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP"),
        *("SETUID", "SYS_CHROOT"),
    }
)
_ORDINARY_TYPES: Final = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
"""SELinux types of a container that is none but one."""
_TEXTS: Final = frozenset({"data", "stringData", "binaryData"})
"""Members that describe no pod as long as nothing but texts stand in them."""
_MOST: Final = 20

PLACES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("", "pods"): ("spec",),
    ("", "replicationcontrollers"): ("spec", "template", "spec"),
    ("", "podtemplates"): ("template", "spec"),
    ("apps", "deployments"): ("spec", "template", "spec"),
    ("apps", "replicasets"): ("spec", "template", "spec"),
    ("apps", "statefulsets"): ("spec", "template", "spec"),
    ("apps", "daemonsets"): ("spec", "template", "spec"),
    ("batch", "jobs"): ("spec", "template", "spec"),
    ("batch", "cronjobs"): ("spec", "jobTemplate", "spec", "template", "spec"),
}
"""Where the kinds of Kubernetes itself describe a pod."""


def _other_account(value: JSON) -> bool:
    return value not in (None, "", "default")


def _filled(value: JSON) -> bool:
    return value not in (None, "", [], {})


def _unconfined(value: JSON) -> bool:
    return isinstance(value, dict) and value.get("type") == "Unconfined"


def _other_label(value: JSON) -> bool:
    if not isinstance(value, dict):
        return False
    return _filled(value.get("user")) or _filled(value.get("role")) or value.get("type") not in _ORDINARY_TYPES


def _adds(value: JSON) -> bool:
    added = value.get("add") if isinstance(value, dict) else None
    if not isinstance(added, list):
        return added is not None
    return any(not isinstance(each, str) or each.upper().removeprefix("CAP_") not in _HARMLESS_CAPABILITIES for each in added)


_TELLING: Final[Mapping[str, Callable[[JSON], bool]]] = {
    "hostNetwork": lambda value: value is True,
    "hostPID": lambda value: value is True,
    "hostIPC": lambda value: value is True,
    "hostProcess": lambda value: value is True,
    "privileged": lambda value: value is True,
    "hostPath": lambda value: isinstance(value, dict) and isinstance(value.get("path"), str),
    "hostPort": lambda value: isinstance(value, Number) and value.literal.strip("-0.") != "",
    "capabilities": _adds,
    "procMount": lambda value: value not in (None, "", "Default") and not isinstance(value, dict),
    "seccompProfile": _unconfined,
    "appArmorProfile": _unconfined,
    "seLinuxOptions": _other_label,
    "sysctls": lambda value: isinstance(value, list) and bool(value),
    "ephemeralContainers": lambda value: isinstance(value, list) and bool(value),
    "serviceAccountName": lambda value: isinstance(value, str) and _other_account(value),
    "serviceAccount": lambda value: isinstance(value, str) and _other_account(value),
}
_OF_PODS: Final[Mapping[str, Callable[[JSON], bool]]] = {"nodeName": _filled}
"""The same where they stand beside ``containers``: elsewhere these names say something else."""
APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
"""How annotations of a pod begin that say what AppArmor lets a container do; a server takes them for its ``appArmorProfile``."""
ACCOUNT: Final = "kubernetes.io/service-account.name"
"""The annotation of a Secret into which the server puts a token of that account, for any pod to read."""
TELLING_ANNOTATIONS: Final = (APPARMOR, ACCOUNT)
"""How annotations begin that say what a field of a pod's description may say."""

NAMES: Final = frozenset({*_TELLING, *_OF_PODS, "containers", "initContainers", "volumes", "securityContext"})
"""Names of members by which a part of an object may be a part of a pod's description."""


def findings(value: JSON) -> list[str]:
    """Return the names of what makes a pod described anywhere in ``value`` more than a program in its own box: each once, sorted; empty if nothing does."""
    found: set[str] = set()
    for each in _objects(value):
        found.update(_in_object(each))
        if len(found) >= _MOST:
            break
    return sorted(found)


def _in_object(each: dict[str, JSON]) -> Iterator[str]:
    for name, tells in _TELLING.items():
        if name in each and tells(each[name]):
            yield name
    if isinstance(each.get("containers"), list):
        for name, tells in _OF_PODS.items():
            if tells(each.get(name)):
                yield name
    if _other_account(each.get(ACCOUNT)):
        yield "serviceAccountName"
    for name, item in each.items():
        if name.startswith(APPARMOR) and item == "unconfined":
            yield "appArmorProfile"


def _objects(value: JSON) -> Iterator[dict[str, JSON]]:
    left: list[JSON] = [value]
    while left:
        match left.pop():
            case dict() as found:
                yield found
                left += [item for name, item in found.items() if name not in _TEXTS or not _only_texts(item)]
            case list() as items:
                left += items
            case _:
                pass


def _only_texts(value: JSON) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def shows_object(group: str, resource: str, value: JSON) -> bool:
    """Return whether ``value`` is an object of ``resource`` as a whole, and not what a server shows in place of one."""
    if not isinstance(value, dict) or value.get("kind") in (None, "Status", "Table", "PartialObjectMetadata"):
        return False
    place: JSON = value
    for name in PLACES.get((group, resource), ()):
        place = place.get(name) if isinstance(place, dict) else None
    return isinstance(place, dict)


def names_of_pods(value: JSON) -> bool:
    """Return whether a member anywhere in ``value`` could be a part of a pod's description."""
    return any(not NAMES.isdisjoint(each) for each in _objects(value))


def annotates(value: JSON) -> bool:
    """Return whether an annotation anywhere in ``value`` says what a field of a pod's description may say."""
    return any(name.startswith(TELLING_ANNOTATIONS) for each in _objects(value) for name in each)
