"""One table per codec, used in both directions; every body must also fail when cut short or followed by more."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.model.errors import RemoteWireError
from hostagent.wire.buffer import ReceiveBuffer
from hostagent.wire.postgres import backend as b
from hostagent.wire.postgres import frontend as f
from hostagent.wire.postgres.messages import (
    CLIENT_CAPS,
    HEADER,
    SERVER_CAPS,
    Server,
    refuse_frame,
    run_end,
    run_end_by_bytes,
)

Codec = tuple[Callable[..., bytes], Callable[[bytes], object]]

NAMED: Codec = (f.build_describe, f.parse_named)
CLOSE: Codec = (f.build_close, f.parse_named)
PARSE: Codec = (f.build_parse, f.parse_parse)
BIND: Codec = (f.build_bind, f.parse_bind)
EXECUTE: Codec = (f.build_execute, f.parse_execute)
CALL: Codec = (f.build_function_call, f.parse_function_call)
QUERY: Codec = (f.build_query, f.parse_query)
FAIL: Codec = (f.build_copy_fail, f.parse_copy_fail)
ROWS: Codec = (b.build_row_description, b.parse_row_description)
TYPES: Codec = (b.build_parameter_description, b.parse_parameter_description)
ROW: Codec = (b.build_data_row, b.parse_data_row)
TAG: Codec = (b.build_command_complete, b.parse_command_complete)
ERROR: Codec = (b.build_error, b.parse_fields)
NOTICE: Codec = (b.build_notice, b.parse_fields)
READY: Codec = (b.build_ready, b.parse_ready)
NOTIFY: Codec = (b.build_notification, b.parse_notification)
SHAPE: Codec = (lambda shape: b.build_copy_shape(Server.COPY_IN, shape), b.parse_copy_shape)

TABLE: list[tuple[Codec, object, bytes]] = [
    (QUERY, b"select 1", b"Q\0\0\0\x0dselect 1\0"),
    (QUERY, b"", b"Q\0\0\0\x05\0"),
    (PARSE, f.Parse(b"s", b"select $1", (23,)), b"P\0\0\0\x16s\0select $1\0\0\x01\0\0\0\x17"),
    (PARSE, f.Parse(b"", b"", ()), b"P\0\0\0\x08\0\0\0\0"),
    (
        BIND,
        f.Bind(b"p", b"s", (1,), (b"\0\0\0\x07", None), (0,)),
        b"B\0\0\0\x1ep\0s\0\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x07\xff\xff\xff\xff\0\x01\0\0",
    ),
    (BIND, f.Bind(b"", b"", (), (), ()), b"B\0\0\0\x0c\0\0\0\0\0\0\0\0"),
    (
        BIND,
        f.Bind(b"", b"", (0, 1), (b"", b"x"), (1, 0)),
        b"B\0\0\0\x1d\0\0\0\x02\0\0\0\x01\0\x02\0\0\0\0\0\0\0\x01x\0\x02\0\x01\0\0",
    ),
    (NAMED, f.Named(b"S", b"s"), b"D\0\0\0\x07Ss\0"),
    (NAMED, f.Named(b"P", b""), b"D\0\0\0\x06P\0"),
    (CLOSE, f.Named(b"P", b"c"), b"C\0\0\0\x07Pc\0"),
    (EXECUTE, f.Execute(b"", 0), b"E\0\0\0\x09\0\0\0\0\0"),
    (EXECUTE, f.Execute(b"p", 100), b"E\0\0\0\x0ap\0\0\0\0d"),
    (CALL, f.FunctionCall(1598, (), (), 0), b"F\0\0\0\x0e\0\0\x06>\0\0\0\0\0\0"),
    (
        CALL,
        f.FunctionCall(1, (1,), (b"a", None), 1),
        b"F\0\0\0\x19\0\0\0\x01\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\x01",
    ),
    (FAIL, b"no", b"f\0\0\0\x07no\0"),
    (
        ROWS,
        (b.Column(b"id", 16400, 1, 23, 4, -1, 0),),
        b"T\0\0\0\x1b\0\x01id\0\0\0\x40\x10\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0",
    ),
    (ROWS, (), b"T\0\0\0\x06\0\0"),
    (TYPES, (23, 25), b"t\0\0\0\x0e\0\x02\0\0\0\x17\0\0\0\x19"),
    (ROW, (b"1", None, b""), b"D\0\0\0\x13\0\x03\0\0\0\x011\xff\xff\xff\xff\0\0\0\0"),
    (ROW, (), b"D\0\0\0\x06\0\0"),
    (TAG, "SELECT 1", b"C\0\0\0\x0dSELECT 1\0"),
    (ERROR, {"S": "ERROR", "C": "42501", "M": "no"}, b"E\0\0\0\x17SERROR\0C42501\0Mno\0\0"),
    (NOTICE, {"M": "hi"}, b"N\0\0\0\x09Mhi\0\0"),
    (READY, b"T", b"Z\0\0\0\x05T"),
    (NOTIFY, b.Notification(7, b"ch", b"pay"), b"A\0\0\0\x0f\0\0\0\x07ch\0pay\0"),
    (SHAPE, b.CopyShape(0, (0, 0)), b"G\0\0\0\x0b\0\0\x02\0\0\0\0"),
]


@pytest.mark.parametrize(("codec", "value", "message"), TABLE)
def test_builds_and_parses(codec: Codec, value: object, message: bytes) -> None:
    build, parse = codec
    assert build(value) == message
    assert parse(message[5:]) == value


@pytest.mark.parametrize(("codec", "value", "message"), TABLE)
def test_refuses_bodies_that_are_short_or_long(codec: Codec, value: object, message: bytes) -> None:
    body = message[5:]
    for cut in range(len(body)):
        with pytest.raises(RemoteWireError):
            codec[1](body[:cut])
    with pytest.raises(RemoteWireError):
        codec[1](body + b"\0")


def test_parameter_status_goes_both_ways() -> None:
    message = b.build_status(b"TimeZone", b"UTC")
    assert message == b"S\0\0\0\x11TimeZone\0UTC\0"
    assert b.parse_status(message[5:]) == (b"TimeZone", b"UTC")


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\0\x01\0\x02\0\0\0\0",  # format code 2
        b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0",  # value of length -2
        b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0",  # value longer than the message
        b"\0\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0",  # two formats, one value
    ],
)
def test_bind_refuses(body: bytes) -> None:
    with pytest.raises(RemoteWireError):
        f.parse_bind(body)


def test_only_messages_of_this_phase_have_a_cap() -> None:
    assert sorted(map(chr, CLIENT_CAPS)) == sorted("QPBDECHSFdcfX")
    assert sorted(map(chr, SERVER_CAPS)) == sorted("RKvSZTtnDCIENA123sVGHWdc")
    assert str(refuse_frame(ord("p"), 10, CLIENT_CAPS)) == "message type 'p' is not part of this phase of the protocol"
    assert str(refuse_frame(ord("S"), 5, CLIENT_CAPS)) == "message 'S' of length 5 is outside 4..4"


def test_a_run_ends_at_the_first_other_or_incomplete_message() -> None:
    row = b.build_data_row((b"x",))
    buffer = row * 3 + b.build_command_complete("SELECT 3")
    assert run_end(buffer, 0, len(buffer), Server.DATA_ROW, 1000) == (3 * len(row), 3)
    assert run_end(buffer, 0, 2 * len(row) + 7, Server.DATA_ROW, 1000) == (2 * len(row), 2)
    with pytest.raises(RemoteWireError):
        run_end(buffer, 0, len(buffer), Server.DATA_ROW, 3)


@given(st.lists(st.binary(max_size=40), max_size=12), st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_receive_buffer_gives_every_message_whole_however_it_is_split(bodies: list[bytes], sizes: list[int]) -> None:
    messages = [f.build_copy_data(body) for body in bodies]
    stream = b"".join(messages)
    buffer = ReceiveBuffer()
    found: list[bytes] = []
    turn = 0
    while stream:
        size = sizes[turn % len(sizes)]
        turn += 1
        whole = buffer.push(stream[:size])
        stream = stream[size:]
        if whole is None:
            continue
        offset = 0
        while len(whole) - offset >= 5:
            stop = offset + HEADER(whole, offset)[1] + 1
            if stop > len(whole):
                break
            found.append(whole[offset:stop])
            offset = stop
        rest = whole[offset:]
        if rest:
            buffer.keep(rest, HEADER(rest, 0)[1] + 1 if len(rest) >= 5 else 5)
    assert found == messages
    assert len(buffer) == 0


_LENGTHS = st.one_of(st.integers(4, 40), st.sampled_from([-(2**31), -1, 0, 3, 4, 2**31 - 1]))


@given(st.lists(st.tuples(st.sampled_from(b"DDDDC"), _LENGTHS)), st.integers(0, 9), st.sampled_from([3, 30, 2**28]))
def test_both_walks_over_a_run_end_alike(headers: list[tuple[int, int]], cut: int, cap: int) -> None:
    buffer = b"".join(struct.pack(">Bi", kind, size) + b"D" * max(0, min(size, 40) - 4) for kind, size in headers)
    end = max(0, len(buffer) - cut)
    outcomes: list[object] = []
    for walk in (run_end, run_end_by_bytes):
        try:
            outcomes.append(walk(buffer, 0, end, Server.DATA_ROW, cap))
        except RemoteWireError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
