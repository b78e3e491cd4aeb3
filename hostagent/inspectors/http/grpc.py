"""gRPC over HTTP/2 (its protocol specification): the method that is called, and how a refusal is told.

Messages are not taken apart: without their descriptors nobody knows what stands in them, so nothing in them can be a condition
and a response that is to be masked is refused.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from hostagent.inspectors.http.fields import Listed
from hostagent.inspectors.http.problem import Problem

_KIND: Final = "application/grpc"
_PATH: Final = re.compile(r"/([A-Za-z_][\w.]*/[A-Za-z_]\w*)", re.ASCII)
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_INVALID_ARGUMENT, _PERMISSION_DENIED, _FAILED_PRECONDITION, _UNIMPLEMENTED, _UNAVAILABLE = 3, 7, 9, 12, 14
_CODES: Final = {400: _INVALID_ARGUMENT, 501: _UNIMPLEMENTED, 502: _UNAVAILABLE, 503: _UNAVAILABLE}


def is_grpc(fields: Listed) -> bool:
    """Return whether the content of a message with ``fields`` is gRPC's."""
    kinds = [value.partition(";")[0].strip().lower() for name, value in fields if name.lower() == "content-type"]
    return kinds == [_KIND] or (len(kinds) == 1 and kinds[0].startswith(_KIND + "+"))


def method_of(path: str) -> str:
    """Return ``package.Service/Method`` if ``path`` (canonical) is the one of a gRPC method, otherwise nothing."""
    found = _PATH.fullmatch(path)
    return "" if found is None else found[1]


def patience(fields: Listed) -> float | None:
    """Return how long a client waits, in seconds; None if it does not say."""
    for name, value in fields:
        if name.lower() == "grpc-timeout" and (found := _TIMEOUT.fullmatch(value)) is not None:
            return int(found[1]) * _UNITS[found[2]]
    return None


def refusal_fields(refused: Problem) -> Listed:
    """Return the one head that is all of a refused call's response (Trailers-Only)."""
    status, document = refused
    held = document["type"] == "urn:hostagent:held"
    code = _FAILED_PRECONDITION if held else _CODES.get(status, _PERMISSION_DENIED)
    words = [str(document["detail"]), f"ticket {document['ticket']}" if document.get("ticket") else "", str(document["next_step"])]
    message = "; ".join(word for word in words if word)
    return [("content-type", _KIND), ("grpc-status", str(code)), ("grpc-message", quote(message, safe=" !#$&'()*+,/:;=?@[]\"<>^`{|}\\"))]
