"""The shape of a result: what the client may know of it, how its rows are masked, and how the record tells it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hostagent.inspectors.ports import Column, Masking, Shape
from hostagent.wire.postgres.backend import build_row_description, parse_row_description

_SHAPES: Final = 128
_NAME_LIMIT: Final = 63


@lru_cache(maxsize=256)
def plain_shape(body: bytes) -> Shape:
    """Return the shape of a RowDescription that passes as it is, with rows that pass as they are."""
    columns = [
        {
            "name": column.name.decode("utf-8", "replace"),
            "table": "",
            "column": "",
            "type": column.type_oid,
            "masked": "",
        }
        for column in parse_row_description(body)
    ]
    return Shape(None, None, columns)


def shape_of(body: bytes, masking: Masking | None, exposed: int) -> Shape:
    """Return the shape of the RowDescription ``body`` under ``masking``; compiled once and then remembered."""
    if masking is None:
        return plain_shape(body)
    key = (body, exposed)
    found = masking.shapes.get(key)
    if found is None:
        if len(masking.shapes) >= _SHAPES:
            masking.shapes.clear()
        found = masking.shapes[key] = _compile(body, masking, exposed)
    return found


def _compile(body: bytes, masking: Masking, exposed: int) -> Shape:
    columns = parse_row_description(body)
    names = [masking.text(column.name.decode("utf-8", "surrogateescape")) for column in columns]
    shown = tuple(
        column._replace(name=name.encode("utf-8", "surrogateescape")[:_NAME_LIMIT])
        for column, name in zip(columns, names, strict=True)
    )
    planned = masking.rows(
        [
            Column(name, column.table_oid, column.attnum, column.type_oid, column.format)
            for column, name in zip(columns, names, strict=True)
        ],
        exposed,
    )
    message = None if shown == columns else build_row_description(shown)
    return Shape(message, planned.plan, planned.columns, planned.unknown)
