"""What a PostgreSQL server sends after start-up: parsers and builders (PostgreSQL 17 §53.7, §53.8).

Parsers take a message *body*, builders return a whole message, and ``parse(build(x)) == x`` for each pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from hostagent.model.errors import RemoteWireError
from hostagent.wire.postgres.messages import INT16, INT32, UINT16, UINT32, Fields, Server, frame

PARSE_COMPLETE: Final = b"1\0\0\0\x04"
BIND_COMPLETE: Final = b"2\0\0\0\x04"
CLOSE_COMPLETE: Final = b"3\0\0\0\x04"
NO_DATA: Final = b"n\0\0\0\x04"
EMPTY_QUERY: Final = b"I\0\0\0\x04"
PORTAL_SUSPENDED: Final = b"s\0\0\0\x04"
COPY_DONE: Final = b"c\0\0\0\x04"


class Column(NamedTuple):
    """One column of a RowDescription. ``table_oid`` and ``attnum`` are 0 when it is not a plain table column."""

    name: bytes
    table_oid: int
    attnum: int
    type_oid: int
    type_size: int
    type_modifier: int
    format: int


class CopyShape(NamedTuple):
    """CopyInResponse or CopyOutResponse: overall format (0 text, 1 binary) and one format per column."""

    format: int
    columns: tuple[int, ...]


class Notification(NamedTuple):
    """NotificationResponse."""

    pid: int
    channel: bytes
    payload: bytes


# Most columns of a result (``MaxTupleAttributeNumber``, ``src/include/access/htup_details.h``).
MAX_COLUMNS: Final = 1664


def parse_row_description(body: bytes) -> tuple[Column, ...]:
    """Return the columns of a RowDescription; more than any server can send are a violation."""
    fields = Fields(body)
    if int.from_bytes(body[:2], "big") > MAX_COLUMNS:
        raise RemoteWireError(f"a result of more than {MAX_COLUMNS} columns")
    columns = tuple(
        Column(
            fields.string(), fields.oid(), fields.int16(), fields.oid(), fields.int16(), fields.int32(), fields.int16()
        )
        for _ in range(fields.count())
    )
    fields.finish()
    return columns


def build_row_description(columns: tuple[Column, ...]) -> bytes:
    """Return a RowDescription."""
    parts = [UINT16.pack(len(columns))]
    for column in columns:
        parts.append(column.name + b"\0" + UINT32.pack(column.table_oid) + INT16.pack(column.attnum))
        parts.append(UINT32.pack(column.type_oid) + INT16.pack(column.type_size))
        parts.append(INT32.pack(column.type_modifier) + INT16.pack(column.format))
    return frame(Server.ROW_DESCRIPTION, b"".join(parts))


def parse_parameter_description(body: bytes) -> tuple[int, ...]:
    """Return the type OIDs of a ParameterDescription."""
    fields = Fields(body)
    types = tuple(fields.oid() for _ in range(fields.count()))
    fields.finish()
    return types


def build_parameter_description(types: tuple[int, ...]) -> bytes:
    """Return a ParameterDescription."""
    return frame(Server.PARAMETER_DESCRIPTION, UINT16.pack(len(types)) + b"".join(UINT32.pack(oid) for oid in types))


def parse_data_row(body: bytes) -> tuple[bytes | None, ...]:
    """Return the values of a DataRow; None is NULL."""
    fields = Fields(body)
    values = tuple(fields.value() for _ in range(fields.count()))
    fields.finish()
    return values


def build_data_row(values: tuple[bytes | None, ...]) -> bytes:
    """Return a DataRow."""
    parts = [UINT16.pack(len(values))]
    parts += [INT32.pack(-1) if value is None else INT32.pack(len(value)) + value for value in values]
    return frame(Server.DATA_ROW, b"".join(parts))


def parse_command_complete(body: bytes) -> str:
    """Return the command tag."""
    if not body or body.find(b"\0") != len(body) - 1:
        raise RemoteWireError("invalid CommandComplete message")
    return body[:-1].decode("utf-8", "replace")


def build_command_complete(tag: str) -> bytes:
    """Return a CommandComplete."""
    return frame(Server.COMMAND_COMPLETE, tag.encode() + b"\0")


def parse_fields(body: bytes) -> dict[str, str]:
    """Return the fields of an ErrorResponse or NoticeResponse by their one-letter code (PostgreSQL 17 §53.8)."""
    found: dict[str, str] = {}
    fields = Fields(body)
    while True:
        code = fields.take(1)
        if code == b"\0":
            break
        found[code.decode("latin-1")] = fields.string().decode("utf-8", "surrogateescape")
    fields.finish()
    return found


def _build_fields(kind: int, fields: Mapping[str, str]) -> bytes:
    parts = []
    for code, text in fields.items():
        clean = text.replace("\0", "")
        parts.append(code.encode("latin-1") + clean.encode("utf-8", "surrogateescape") + b"\0")
    return frame(kind, b"".join(parts) + b"\0")


def build_error(fields: Mapping[str, str]) -> bytes:
    """Return an ErrorResponse."""
    return _build_fields(Server.ERROR, fields)


def build_notice(fields: Mapping[str, str]) -> bytes:
    """Return a NoticeResponse."""
    return _build_fields(Server.NOTICE, fields)


def parse_ready(body: bytes) -> bytes:
    """Return the transaction status: ``b"I"`` idle, ``b"T"`` in a transaction, ``b"E"`` in a failed one."""
    if body not in (b"I", b"T", b"E"):
        raise RemoteWireError("invalid ReadyForQuery message")
    return body


def build_ready(status: bytes) -> bytes:
    """Return a ReadyForQuery."""
    return frame(Server.READY, status)


def parse_notification(body: bytes) -> Notification:
    """Return the fields of a NotificationResponse."""
    fields = Fields(body)
    found = Notification(fields.int32(), fields.string(), fields.string())
    fields.finish()
    return found


def build_notification(message: Notification) -> bytes:
    """Return a NotificationResponse."""
    body = INT32.pack(message.pid) + message.channel + b"\0" + message.payload + b"\0"
    return frame(Server.NOTIFICATION, body)


def parse_status(body: bytes) -> tuple[bytes, bytes]:
    """Return (name, value) of a ParameterStatus."""
    fields = Fields(body)
    found = (fields.string(), fields.string())
    fields.finish()
    return found


def build_status(name: bytes, value: bytes) -> bytes:
    """Return a ParameterStatus."""
    return frame(Server.PARAMETER_STATUS, name + b"\0" + value + b"\0")


def parse_copy_shape(body: bytes) -> CopyShape:
    """Return the fields of a CopyInResponse or CopyOutResponse."""
    fields = Fields(body)
    overall = fields.take(1)[0]
    columns = tuple(fields.int16() for _ in range(fields.count()))
    fields.finish()
    return CopyShape(overall, columns)


def build_copy_shape(kind: int, shape: CopyShape) -> bytes:
    """Return a CopyInResponse or CopyOutResponse, as ``kind`` says."""
    body = bytes((shape.format,)) + UINT16.pack(len(shape.columns))
    return frame(kind, body + b"".join(INT16.pack(code) for code in shape.columns))
