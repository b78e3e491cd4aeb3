"""What claims mean: groups, purpose, the subset that policy may see, Kubernetes service accounts, SPIFFE ids.

A claim is named by a dotted path. Because names themselves may hold dots (``kubernetes.io``, or a URL), the longest name that
exists wins at each level: ``kubernetes.io.namespace`` finds ``{"kubernetes.io": {"namespace": …}}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hostagent.model.errors import IdentityError

RESERVED_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})
"""Claims with a meaning of their own (RFC 7519 §4.1); they appear as fields of the identity, never among its claims."""

DEFAULT_CLAIMS = frozenset(
    {
        # OAuth 2 and OIDC
        "acr", "amr", "azp", "client_id", "entitlements", "groups", "realm_access.roles", "role", "roles", "scope", "scp", "tid",
        # who it is for
        "department", "env", "environment", "org", "project", "purpose", "team", "tenant", "ticket",
        # Kubernetes projected tokens
        "kubernetes.io.namespace", "kubernetes.io.node.name", "kubernetes.io.pod.name", "kubernetes.io.serviceaccount.name",
        # continuous integration (GitHub Actions, GitLab)
        "actor", "event_name", "job_workflow_ref", "namespace_path", "pipeline_source", "project_path", "ref", "ref_protected",
        "ref_type", "repository", "repository_owner", "repository_visibility", "run_id", "workflow",
    }
)  # fmt: skip
"""The allow-list of claims for tokens from outside: what says which job and role it is, nothing about a person's life."""

MAX_GROUPS = 1_000
MAX_TEXT = 2_048
_MAX_ITEMS = 100
_SERVICE_ACCOUNT = re.compile(
    r"system:serviceaccount:([a-z0-9]([a-z0-9.-]*[a-z0-9])?):([a-z0-9]([a-z0-9.-]*[a-z0-9])?)"
)
_SPIFFE = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")


def find(claims: Mapping[str, object], path: str) -> object:
    """Return the claim at the dotted ``path``, or None if there is none."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        value = claims.get(".".join(parts[:length]))
        if length == len(parts):
            if value is not None:
                return value
        elif isinstance(value, dict):
            found = find(value, ".".join(parts[length:]))
            if found is not None:
                return found
    return None


def plain_text(value: object, what: str) -> str:
    """Return ``value`` if it is text that can be shown on one line.

    Raises:
        IdentityError: not text, empty, too long, or with characters that cannot be printed.
    """
    if not isinstance(value, str) or not value:
        raise IdentityError(f"the token has no {what}" if value in (None, "") else f"the token's {what} is not text")
    if len(value) > MAX_TEXT or not value.isprintable():
        raise IdentityError(
            f"the token's {what} is longer than {MAX_TEXT} characters or holds some that cannot be printed"
        )
    return value


def groups(claims: Mapping[str, object], path: str) -> frozenset[str]:
    """Return the groups at ``path``: a list of names, or one name (``scope`` and ``scp``: several, separated by spaces).

    Kubernetes service accounts are also in the groups that Kubernetes itself puts them in.

    Raises:
        IdentityError: the claim has another shape, or the token speaks of a service account in two ways that disagree.
    """
    value = find(claims, path) if path else None
    if value is None:
        names: Iterable[object] = ()
    elif isinstance(value, str):
        names = value.split(" ") if path in ("scope", "scp") else [value]
    elif isinstance(value, list) and len(value) <= MAX_GROUPS:
        names = value
    else:
        raise IdentityError(f"the token's claim {path} is not a list of at most {MAX_GROUPS} group names")
    declared = frozenset(plain_text(name, f"group in {path}") for name in names if name != "")
    return declared | _service_account_groups(claims)


def _service_account_groups(claims: Mapping[str, object]) -> frozenset[str]:
    """Groups of a Kubernetes service account, only if subject and the ``kubernetes.io`` claim say the same."""
    bound = claims.get("kubernetes.io")
    match = _SERVICE_ACCOUNT.fullmatch(str(claims.get("sub")))
    if not isinstance(bound, dict) or match is None:
        return frozenset()
    namespace, name = match[1], match[3]
    if find(bound, "namespace") != namespace or find(bound, "serviceaccount.name") != name:
        raise IdentityError("the token's subject and its kubernetes.io claim name different service accounts")
    return frozenset({"system:serviceaccounts", f"system:serviceaccounts:{namespace}"})


def purpose(claims: Mapping[str, object], path: str) -> str:
    """Return the declared purpose at ``path``, or nothing.

    Raises:
        IdentityError: it is there but not one line of text.
    """
    value = find(claims, path) if path else None
    return "" if value in (None, "") else plain_text(value, f"claim {path}")


def visible(claims: Mapping[str, object], allowed: frozenset[str]) -> dict[str, object]:
    """Return the allowed claims by their path: single values and lists of them; anything else is left out."""
    shown: dict[str, object] = {}
    for path in sorted(allowed - RESERVED_CLAIMS):
        value = find(claims, path)
        if isinstance(value, list) and len(value) <= _MAX_ITEMS and all(_is_single(item) for item in value):
            shown[path] = list(value)
        elif _is_single(value):
            shown[path] = value
    return shown


def _is_single(value: object) -> bool:
    return len(value) <= MAX_TEXT if isinstance(value, str) else isinstance(value, bool | int | float)


def trust_domain(subject: str) -> str:
    """Return the trust domain of a SPIFFE id with a path, or nothing if ``subject`` is not one (SPIFFE-ID §2)."""
    match = _SPIFFE.fullmatch(subject)
    if match is None or len(subject) > MAX_TEXT or any(part in (".", "..") for part in match[2].split("/")):
        return ""
    return match[1]
