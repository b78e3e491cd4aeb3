"""Transforms: what stands in a value's place. Always type-correct for the format it travels in, else SQL NULL.

=========  ===================================================================================================
transform  effect
=========  ===================================================================================================
null       SQL NULL
redact     a fixed value: the text ``[masked]``, the number 0; NULL where the type has no such value
hash       equal values give equal replacements (HMAC-SHA256 under the proxy's key); no digits in texts
partial    ``****`` and the last four characters, the last four digits of a number; else as redact
=========  ===================================================================================================

Lengths of the original never show, except that NULL stays NULL.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable
from typing import Literal

from hostagent.mask.types import (
    BINARY_FORMAT,
    Kind,
    decode_integer,
    decode_numeric,
    encode_integer,
    encode_numeric,
)

Transform = Literal["null", "redact", "hash", "partial"]

TRANSFORMS: tuple[Transform, ...] = ("null", "redact", "hash", "partial")
"""The strictest first."""

MASKED = b"[masked]"
_KEEP = 4
_SHORTEST_PARTIAL = 8
_INTEGER_BITS = {Kind.INT2: 15, Kind.INT4: 31, Kind.INT8: 63}
_ZERO = {Kind.INT2: bytes(2), Kind.INT4: bytes(4), Kind.INT8: bytes(8), Kind.FLOAT4: bytes(4), Kind.FLOAT8: bytes(8)}
_LETTERS = bytes.maketrans(b"0123456789abcdef", b"abcdefghijklmnop")

Replace = Callable[[bytes], bytes | None]
"""From a value (never NULL) as it travels to its replacement; None is SQL NULL."""


def chosen(name: str) -> Transform:
    """Return the transform called ``name``.

    Raises:
        ValueError: there is none; an obligation that cannot be met must not be dropped silently.
    """
    for transform in TRANSFORMS:
        if transform == name:
            return transform
    raise ValueError(f"no transform is called {name!r}; there are {', '.join(TRANSFORMS)}")


def strictest(names: list[str]) -> Transform:
    """Return the strictest of these transforms; there is at least one."""
    return min((chosen(name) for name in names), key=TRANSFORMS.index)


def redacted(kind: Kind, form: int) -> bytes | None:
    """Return the fixed value that stands for any value of ``kind`` in format ``form`` (0 text, 1 binary)."""
    binary = form == BINARY_FORMAT
    match kind:
        case Kind.TEXT:
            return MASKED
        case Kind.CHAR:
            return b"*"
        case Kind.JSON:
            return b'"[masked]"'
        case Kind.JSONB:
            return b'\x01"[masked]"' if binary else b'"[masked]"'
        case Kind.BYTEA:
            return MASKED if binary else b"\\x" + MASKED.hex().encode()
        case Kind.NUMERIC:
            return bytes(8) if binary else b"0"
        case _ if kind in _ZERO:
            return _ZERO[kind] if binary else b"0"
        case _:
            return None


def column_transform(name: Transform, kind: Kind, form: int, key: bytes) -> tuple[Replace | None, bytes | None]:
    """Return how values of one column are replaced: a function, or (None, the same value for all).

    ``key`` is the secret of ``hash``; without one it falls back to redact, because a hash without a key can be guessed.
    """
    fixed = redacted(kind, form)
    if name == "null":
        return None, None
    if name == "hash" and key and (kind in _HASHED):
        return (lambda value: _hashed(value, kind, form, key)), fixed
    if name == "partial" and kind in _PARTIAL:
        return (lambda value: _partial(value, kind, form)), fixed
    return None, fixed


_HASHED = frozenset({Kind.TEXT, Kind.INT2, Kind.INT4, Kind.INT8, Kind.NUMERIC, Kind.UUID, Kind.BYTEA, Kind.JSON, Kind.JSONB})
_PARTIAL = frozenset({Kind.TEXT, Kind.INT2, Kind.INT4, Kind.INT8, Kind.NUMERIC})


def _plain(value: bytes, kind: Kind, form: int) -> bytes:
    """Return the value as it would read in text format, so that both formats give one hash."""
    if form != BINARY_FORMAT:
        return bytes.fromhex(value[2:].decode()) if kind is Kind.BYTEA and value[:2] == b"\\x" else value
    if kind in _INTEGER_BITS:
        return str(decode_integer(kind, value)).encode()
    if kind is Kind.NUMERIC:
        return (decode_numeric(value) or "0").encode()
    if kind is Kind.UUID and len(value) == 16:
        return str(uuid.UUID(bytes=value)).encode()
    return value[1:] if kind is Kind.JSONB else value


def _digest(key: bytes, value: bytes) -> bytes:
    return hmac.new(key, b"hostagent mask\x00" + value, hashlib.sha256).digest()


def letters(key: bytes, value: bytes) -> bytes:
    """Return 32 letters a to p that stand for ``value``: no digits, so that no detector takes them for anything."""
    return _digest(key, value)[:16].hex().encode().translate(_LETTERS)


def _hashed(value: bytes, kind: Kind, form: int, key: bytes) -> bytes | None:
    plain = _plain(value, kind, form)
    binary = form == BINARY_FORMAT
    if kind in _INTEGER_BITS or kind is Kind.NUMERIC:
        whole = plain.partition(b".")[0] or b"0"
        bits = _INTEGER_BITS.get(kind, 60)
        return _number(int.from_bytes(_digest(key, whole)[:8], "big") >> (64 - bits), kind, binary)
    if kind is Kind.UUID:
        stand_in = uuid.UUID(bytes=_digest(key, plain)[:16], version=4)
        return stand_in.bytes if binary else str(stand_in).encode()
    if kind is Kind.BYTEA:
        digest = _digest(key, plain)
        return digest if binary else b"\\x" + digest.hex().encode()
    word = letters(key, plain)
    if kind in (Kind.JSON, Kind.JSONB):
        return (b"\x01" if binary and kind is Kind.JSONB else b"") + b'"' + word + b'"'
    return word


def _number(value: int, kind: Kind, binary: bool) -> bytes:
    if not binary:
        return str(value).encode()
    return encode_numeric(value) if kind is Kind.NUMERIC else encode_integer(kind, value)


def _partial(value: bytes, kind: Kind, form: int) -> bytes | None:
    if kind is Kind.TEXT:
        return last_characters(value)
    whole = _plain(value, kind, form).partition(b".")[0].lstrip(b"-")
    if not whole.isdigit() or len(whole) < _SHORTEST_PARTIAL:
        return redacted(kind, form)
    return _number(int(whole[-_KEEP:]), kind, form == BINARY_FORMAT)


def last_characters(value: bytes) -> bytes:
    """Return ``****`` and the last four characters of a UTF-8 text, or ``[masked]`` when it has fewer than eight."""
    text = value.decode("utf-8", "replace")
    return b"****" + text[-_KEEP:].encode() if len(text) >= _SHORTEST_PARTIAL else MASKED


def content_transform(name: Transform, detector: str, key: bytes) -> Replace:
    """Return how a text that ``detector`` found is replaced inside a longer text; None means the whole value goes."""
    label = f"[masked:{detector}]".encode()
    if name == "null":
        return lambda value: None
    if name == "hash" and key:
        return lambda value: letters(key, value)
    if name == "partial":
        return _last_content
    return lambda value: label


def _last_content(value: bytes) -> bytes:
    return b"****" + value[-_KEEP:] if len(value) >= _SHORTEST_PARTIAL and value.isascii() else MASKED
