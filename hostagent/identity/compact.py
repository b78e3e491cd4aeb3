"""The compact form of a signed token, read strictly (RFC 7515 §7.1, RFC 7519 §7.2).

    BASE64URL(header) "." BASE64URL(payload) "." BASE64URL(signature)

Stricter than a general JWT reader, because two readers that disagree are an attack: no padding, no spare bits, no white space,
no JSON key given twice, no number that is not one, no text that cannot be written down again.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from hostagent.model.errors import IdentityError

MAX_TOKEN = 16_384
"""Longest token, in bytes. Kubernetes and SPIFFE tokens are about 1 KiB, tokens with many groups some 8 KiB."""

_SHAPE = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Compact(NamedTuple):
    """A token taken apart. Nothing of it is verified."""

    header: Mapping[str, object]
    claims: Mapping[str, object]


def read_compact(token: str | bytes) -> Compact:
    """Return header and claims of ``token``.

    Raises:
        IdentityError: it is not exactly one signed token in compact form.
    """
    try:
        raw = token.encode("ascii") if isinstance(token, str) else bytes(token)
    except UnicodeEncodeError:
        raise IdentityError("the token holds characters that no token has") from None
    if not raw:
        raise IdentityError("the token is empty")
    if len(raw) > MAX_TOKEN:
        raise IdentityError(f"the token is longer than {MAX_TOKEN} bytes")
    if raw.count(b".") == 4:
        raise IdentityError("the token is encrypted (JWE); a signed one (JWS) is needed")
    if not _SHAPE.fullmatch(raw):
        raise IdentityError("the token is not a signed JWT: three parts of base64url without padding, joined by dots")
    header, claims, signature = raw.split(b".")
    _decode(signature, "signature")
    return Compact(read_object(_decode(header, "header"), "header"), read_object(_decode(claims, "payload"), "payload"))


def _decode(segment: bytes, what: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except binascii.Error:
        raise IdentityError(f"the token's {what} is not base64url") from None
    # Spare bits in the last character would let two texts mean the same token.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise IdentityError(f"the token's {what} is not base64url in its only form")
    return decoded


def read_object(raw: bytes, what: str) -> Mapping[str, object]:
    """Return the one JSON object that ``raw`` holds, in UTF-8; ``what`` names it in errors.

    Raises:
        IdentityError: anything else, a key given twice, NaN or infinity, or half of a surrogate pair.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise IdentityError(f"the {what} is not strict JSON: {error}") from None
    if not isinstance(value, dict):
        raise IdentityError(f"the {what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
