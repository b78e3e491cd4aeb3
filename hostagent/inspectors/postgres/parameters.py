"""Bind values as text, for policy, for the approver and (after masking) for the record.

Text values are taken as they are. Binary values are decoded for the common types (PostgreSQL 17 ``src/backend/utils/adt``,
the ``*recv`` functions); a value of any other type stays ``bytes``, and so does one that does not decode.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from struct import Struct
from typing import Final

_INT2: Final = Struct(">h")
_INT4: Final = Struct(">i")
_INT8: Final = Struct(">q")
_OID: Final = Struct(">I")
_FLOAT4: Final = Struct(">f")
_FLOAT8: Final = Struct(">d")
_NUMERIC: Final = Struct(">HhHH")
_EPOCH: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - PostgreSQL's epoch; the zone is added as text

_NEGATIVE: Final = 0x4000
_SPECIAL: Final = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
_TEXT: Final = (0,)
_DIGIT_BASE: Final = 10_000


def _integer(layout: Struct) -> Callable[[bytes], str]:
    return lambda value: str(layout.unpack(value)[0])


def _float4(value: bytes) -> str:
    return f"{_FLOAT4.unpack(value)[0]:.9g}"


def _float8(value: bytes) -> str:
    return repr(_FLOAT8.unpack(value)[0])


def _text(value: bytes) -> str:
    return value.decode("utf-8")


def _boolean(value: bytes) -> str:
    return {b"\0": "f", b"\x01": "t"}[value]


def _uuid(value: bytes) -> str:
    return str(uuid.UUID(bytes=value))


def _numeric(value: bytes) -> str:
    count, weight, sign, scale = _NUMERIC.unpack_from(value)
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    if len(value) != _NUMERIC.size + 2 * count or abs(weight) > 4096 or scale > 16_384:
        raise ValueError("not a numeric value")
    total = 0
    for index in range(count):
        total = total * _DIGIT_BASE + int(_INT2.unpack_from(value, _NUMERIC.size + 2 * index)[0])
    number = Decimal(total).scaleb(4 * (weight - count + 1))
    shown = f"{number:.{scale}f}"
    return "-" + shown if sign == _NEGATIVE else shown


def _timestamp(value: bytes) -> str:
    microseconds = _INT8.unpack(value)[0]
    if microseconds == 2**63 - 1:
        return "infinity"
    if microseconds == -(2**63):
        return "-infinity"
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(sep=" ")


def _timestamptz(value: bytes) -> str:
    shown = _timestamp(value)
    return shown if shown.endswith("infinity") else shown + "+00"


def _date(value: bytes) -> str:
    days = _INT4.unpack(value)[0]
    if days == 2**31 - 1:
        return "infinity"
    if days == -(2**31):
        return "-infinity"
    return (date(2000, 1, 1) + timedelta(days=days)).isoformat()


def _jsonb(value: bytes) -> str:
    if value[:1] != b"\x01":
        raise ValueError("unknown jsonb version")
    return value[1:].decode("utf-8")


# Built-in type OIDs (PostgreSQL ``pg_type.dat``; fixed for ever).
_DECODERS: Final[dict[int, Callable[[bytes], str]]] = {
    16: _boolean,
    18: _text,  # char
    19: _text,  # name
    20: _integer(_INT8),
    21: _integer(_INT2),
    23: _integer(_INT4),
    25: _text,
    26: _integer(_OID),
    114: _text,  # json
    142: _text,  # xml
    700: _float4,
    701: _float8,
    705: _text,  # unknown
    1042: _text,  # bpchar
    1043: _text,  # varchar
    1082: _date,
    1114: _timestamp,
    1184: _timestamptz,
    1700: _numeric,
    2950: _uuid,
    3802: _jsonb,
}


def decode(value: bytes | None, type_oid: int, format_code: int) -> str | bytes | None:
    """Return ``value`` as text, None for NULL, or the bytes themselves when they cannot be read as their type."""
    if value is None:
        return None
    try:
        if format_code == 0:
            return value.decode("utf-8")
        reader = _DECODERS.get(type_oid)
        return value if reader is None else reader(value)
    except (ValueError, KeyError, OverflowError, ArithmeticError, struct.error):
        return value


def decode_all(
    values: tuple[bytes | None, ...], types: tuple[int, ...], formats: tuple[int, ...]
) -> tuple[str | bytes | None, ...]:
    """Return every value of a Bind as ``decode`` does. Missing types count as unknown (0)."""
    if not values:
        return ()
    if not formats or formats == _TEXT:
        return tuple([decode(value, 0, 0) for value in values])
    if len(formats) == 1:
        formats = formats * len(values)
    types = types + (0,) * (len(values) - len(types))
    return tuple(map(decode, values, types, formats))
