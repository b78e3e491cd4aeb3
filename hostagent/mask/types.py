"""PostgreSQL types as masking sees them: what a value may hold and how it looks in text and in binary format.

Sources: PostgreSQL 17 ``pg_type.dat`` for OIDs, the types' ``*_send`` functions for binary forms.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping

from hostagent.model.catalogue import CatalogueType

TEXT_FORMAT = 0
BINARY_FORMAT = 1


class Kind(enum.Enum):
    """What a value can hold."""

    TEXT = "text"  # binary form is the text itself
    CHAR = "char"  # the one-byte type "char"
    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    NUMERIC = "numeric"
    UUID = "uuid"
    JSON = "json"
    JSONB = "jsonb"
    BYTEA = "bytea"
    ARRAY = "array"
    RANGE = "range"
    RECORD = "record"
    HARMLESS = "harmless"  # too narrow or too rigid to hold text: bool, dates, network addresses, identifiers
    UNKNOWN = "unknown"


_KINDS: dict[int, Kind] = {
    **dict.fromkeys((25, 1043, 1042, 19, 705, 2275, 142, 1790), Kind.TEXT),
    18: Kind.CHAR,
    21: Kind.INT2,
    23: Kind.INT4,
    20: Kind.INT8,
    700: Kind.FLOAT4,
    701: Kind.FLOAT8,
    1700: Kind.NUMERIC,
    2950: Kind.UUID,
    114: Kind.JSON,
    3802: Kind.JSONB,
    17: Kind.BYTEA,
    2249: Kind.RECORD,
    # bool, oid, tid, xid, cid, xid8, pg_lsn, date, time, timetz, timestamp, timestamptz, interval
    **dict.fromkeys((16, 26, 27, 28, 29, 5069, 3220, 1082, 1083, 1266, 1114, 1184, 1186), Kind.HARMLESS),
    # void, cidr, inet, macaddr, macaddr8, bit, varbit, int2vector, oidvector
    **dict.fromkeys((2278, 650, 869, 829, 774, 1560, 1562, 22, 30), Kind.HARMLESS),
}

_ARRAYS = (
    # array type, element type
    (1009, 25, 1015, 1043, 1014, 1042, 1003, 19, 1002, 18, 1263, 2275, 143, 142, 2201, 1790, 2287, 2249),
    (1005, 21, 1007, 23, 1016, 20, 1021, 700, 1022, 701, 1231, 1700, 2951, 2950, 199, 114, 3807, 3802, 1001, 17),
    (1000, 16, 1028, 26, 1010, 27, 1011, 28, 1012, 29, 271, 5069, 3221, 3220, 1182, 1082, 1183, 1083, 1270, 1266),
    (1115, 1114, 1185, 1184, 1187, 1186, 651, 650, 1041, 869, 1040, 829, 775, 774, 1561, 1560, 1563, 1562),
)
_ELEMENTS: dict[int, int] = {row[i]: row[i + 1] for row in _ARRAYS for i in range(0, len(row), 2)}
_RANGES: dict[int, int] = {
    # range or multirange type: subtype
    3904: 23,
    3926: 20,
    3906: 1700,
    3908: 1114,
    3910: 1184,
    3912: 1082,
    4451: 23,
    4536: 20,
    4532: 1700,
    4533: 1114,
    4534: 1184,
    4535: 1082,
}
_NO_DIGITS = frozenset({Kind.HARMLESS, Kind.INT2, Kind.INT4, Kind.FLOAT4, Kind.UUID})


def kind_of(oid: int, types: Mapping[int, CatalogueType]) -> Kind:
    """Return what values of type ``oid`` hold; ``types`` are the server's own additions. Not known means UNKNOWN."""
    if oid in _KINDS:
        return _KINDS[oid]
    if oid in _ELEMENTS:
        return Kind.HARMLESS if _KINDS.get(_ELEMENTS[oid]) in _NO_DIGITS else Kind.ARRAY
    if oid in _RANGES:
        return Kind.HARMLESS if _KINDS.get(_RANGES[oid]) in _NO_DIGITS else Kind.RANGE
    found = types.get(oid)
    if found is None:
        return Kind.UNKNOWN
    if found.kind == "d" and found.base != oid:
        return kind_of(found.base, {key: value for key, value in types.items() if key != oid})
    return {"S": Kind.TEXT, "A": Kind.ARRAY, "C": Kind.RECORD, "R": Kind.RANGE}.get(found.category, Kind.UNKNOWN)


def holds_content(kind: Kind) -> bool:
    """Return whether a value of ``kind`` can hold anything that a content detector looks for."""
    return kind not in _NO_DIGITS


def element_of(oid: int) -> int:
    """Return the element type of a built-in array or range type, or 0."""
    return _ELEMENTS.get(oid, 0) or _RANGES.get(oid, 0)


_NUMERIC_HEAD = struct.Struct(">HhHH")
_NUMERIC_NAN_BITS = 0xC000
_MOST_PLACES = 64


def decode_numeric(data: bytes) -> str:
    """Return the digits before the decimal point of a binary numeric, or an empty text when there is no such number.

    Layout (``numeric_send``): count, weight, sign, display scale (16 bits each), then base-10000 digits, the first of
    which counts 10000 ** weight.
    """
    if len(data) < 8:
        return ""
    count, weight, sign, _ = _NUMERIC_HEAD.unpack_from(data)
    if len(data) != 8 + 2 * count or sign & _NUMERIC_NAN_BITS == _NUMERIC_NAN_BITS or not 0 <= weight < _MOST_PLACES:
        return ""
    digits = struct.unpack_from(f">{count}H", data, 8)
    whole = [digits[i] if i < count else 0 for i in range(weight + 1)]
    return ("-" if sign else "") + "".join(f"{digit:04d}" for digit in whole).lstrip("0")


def encode_numeric(value: int) -> bytes:
    """Return the binary numeric of a whole number that is not negative."""
    digits: list[int] = []
    while value:
        value, digit = divmod(value, 10000)
        digits.append(digit)
    digits.reverse()
    head = _NUMERIC_HEAD.pack(len(digits), max(len(digits) - 1, 0), 0, 0)
    return head + struct.pack(f">{len(digits)}H", *digits)


_BINARY_INTEGERS = {Kind.INT2: ">h", Kind.INT4: ">i", Kind.INT8: ">q"}


def decode_integer(kind: Kind, data: bytes) -> int | None:
    """Return a binary integer, or None when the length is wrong."""
    layout = _BINARY_INTEGERS[kind]
    return int(struct.unpack(layout, data)[0]) if len(data) == struct.calcsize(layout) else None


def encode_integer(kind: Kind, value: int) -> bytes:
    """Return ``value`` as a binary integer of this kind; it fits."""
    return struct.pack(_BINARY_INTEGERS[kind], value)


def float_digits(text: str) -> str:
    """Return a float8 in text form as the whole number it stands for, or an empty text when it has too few digits.

    PostgreSQL prints 1e15 and above in scientific form, which would hide the digits of a card number.
    """
    try:
        value = float(text)
    except ValueError:
        return ""
    return str(int(value)) if 1e12 <= abs(value) < 1e20 and value == int(value) else ""
