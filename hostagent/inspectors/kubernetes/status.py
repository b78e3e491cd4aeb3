"""How the API server says no: an object of kind Status (k8s.io/apimachinery, meta/v1), whose message clients show to people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from hostagent.inspectors.http.problem import Problem

_REASONS: Final = {
    400: "BadRequest", 403: "Forbidden", 405: "MethodNotAllowed", 413: "RequestEntityTooLarge", 415: "UnsupportedMediaType",
    502: "InternalError", 503: "ServiceUnavailable",
}  # fmt: skip
_CAUSES: Final = ("rule", "ticket", "policy", "expires_in", "next_step")
"""What a program may want to know of a refusal, one cause each."""


def written(refused: Problem, attributes: Mapping[str, str]) -> bytes:
    """Return the Status for ``refused``; ``attributes`` are those of the operation (``meaning``), empty if it is not known."""
    code, document = refused
    details: dict[str, object] = {
        name: attributes[key] for name, key in (("name", "name"), ("group", "group"), ("kind", "resource")) if attributes.get(key)
    }
    details["causes"] = [
        {"reason": f"Hostagent{key.title().replace('_', '')}", "message": str(document[key])} for key in _CAUSES if document.get(key)
    ]
    step = document.get("next_step")
    status = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": f"{document['detail']}{f' ({step})' if step else ''}",
        "reason": _REASONS.get(code, ""), "details": details, "code": code,
    }  # fmt: skip
    return json.dumps(status).encode() + b"\n"
