from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.wire.dns import (
    Code,
    ExtendedError,
    Query,
    QueryError,
    build_frame,
    build_response,
    parse_query,
    read_frame,
)

HEAD = bytes.fromhex("1234 0100 0001 0000 0000 0000")
QUESTION = b"\x03crm\x08internal\0\0\1\0\1"
OPT = bytes.fromhex("00 0029 1000 00 00 0000 0000")
PLAIN = Query(0x1234, 0x0100, "crm.internal", 1, QUESTION)
EDNS = Query(0x1234, 0x0100, "crm.internal", 1, QUESTION, True, 4096)


def with_opt(opt: bytes = OPT) -> bytes:
    return HEAD[:10] + b"\0\1" + QUESTION + opt


def test_plain_query_is_read() -> None:
    assert parse_query(HEAD + QUESTION) == PLAIN


def test_edns_query_is_read_and_its_options_are_not_looked_at() -> None:
    assert parse_query(with_opt()) == EDNS
    cookie = bytes.fromhex("00 0029 1000 00 00 0000 000c 000a0008 1122334455667788")
    assert parse_query(with_opt(cookie)) == EDNS


@pytest.mark.parametrize(("size", "used"), [(0, 512), (511, 512), (1232, 1232), (65535, 4096)])
def test_payload_size_is_kept_within_bounds(size: int, used: int) -> None:
    assert parse_query(with_opt(b"\0\0\x29" + size.to_bytes(2, "big") + b"\0" * 6)).size == used


def test_name_is_folded_but_echoed_as_it_came() -> None:
    question = b"\x03CrM\x08InterNal\0\0\1\0\1"
    query = parse_query(HEAD + question)
    assert (query.name, query.question) == ("crm.internal", question)
    assert question in build_response(query, Code.NXDOMAIN)


@pytest.mark.parametrize(
    ("label", "name"), [(b"a.b", "a\\046b"), (b"\xff", "\\255"), (b"a b", "a\\032b"), (b"\\", "\\092"), (b"_x-1", "_x-1")]
)
def test_odd_labels_are_escaped_so_that_no_two_names_look_alike(label: bytes, name: str) -> None:
    question = bytes([len(label)]) + label + b"\0\0\1\0\1"
    assert parse_query(HEAD + question).name == name


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (bytes.fromhex("1234 2800 0001 0000 0000 0000") + QUESTION, Code.NOTIMP),
        (bytes.fromhex("1234 0100 0000 0000 0000 0000"), Code.FORMERR),
        (bytes.fromhex("1234 0100 0002 0000 0000 0000") + QUESTION * 2, Code.FORMERR),
        (bytes.fromhex("1234 0100 0001 0001 0000 0000") + QUESTION, Code.FORMERR),
        (bytes.fromhex("1234 0100 0001 0000 0001 0000") + QUESTION, Code.FORMERR),
        (bytes.fromhex("1234 0100 0001 0000 0000 0002") + QUESTION + OPT * 2, Code.FORMERR),
        (HEAD + QUESTION + b"x", Code.FORMERR),
        (HEAD + QUESTION[:-1], Code.FORMERR),
        (HEAD + b"\xc0\x0c\0\1\0\1", Code.FORMERR),
        (HEAD + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", Code.FORMERR),
        (HEAD + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", Code.FORMERR),
        (with_opt(b"\0\0\1\0\1\0\0\0\0\0\0"), Code.FORMERR),
        (with_opt(b"\1a" + OPT[1:]), Code.FORMERR),
        (with_opt(OPT[:-1] + b"\5"), Code.FORMERR),
        (HEAD + QUESTION[:-1] + b"\3", Code.REFUSED),  # class CHAOS
    ],
)
def test_query_that_is_not_one_clean_question_gets_an_error(data: bytes, rcode: Code) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(data)
    reply = caught.value.reply
    assert (reply[:2], reply[2] & 0x80, reply[3] & 0xF) == (b"\x12\x34", 0x80, rcode)


def test_unknown_edns_version_gets_badvers() -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(with_opt(b"\0\0\x29\x10\0\0\1\0\0\0\0"))
    assert caught.value.reply == (
        bytes.fromhex("1234 8580 0001 0000 0000 0001") + QUESTION + bytes.fromhex("00 0029 1000 01 00 0000 0000")
    )


@pytest.mark.parametrize("data", [b"", b"x" * 11, bytes.fromhex("1234 8100 0001 0000 0000 0000") + QUESTION, b"x" * 5000])
def test_what_is_no_query_gets_no_reply(data: bytes) -> None:
    with pytest.raises(QueryError) as caught:
        parse_query(data)
    assert caught.value.reply == b""


def test_longest_name_is_255_bytes() -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(longest) == 255
    assert len(parse_query(HEAD + longest + b"\0\1\0\1").name) == 253


def test_addresses_are_answered() -> None:
    assert build_response(PLAIN, Code.NOERROR, ["10.0.0.2", "10.0.0.3"], ttl=30) == (
        bytes.fromhex("1234 8580 0001 0002 0000 0000")
        + QUESTION
        + bytes.fromhex("c00c 0001 0001 0000001e 0004 0a000002")
        + bytes.fromhex("c00c 0001 0001 0000001e 0004 0a000003")
    )


def test_ipv6_addresses_are_answered() -> None:
    query = PLAIN.__class__(1, 0, "crm.internal", 28, QUESTION[:-3] + b"\x1c\0\1")
    answer = build_response(query, Code.NOERROR, ["fd77::2"])
    assert answer.endswith(bytes.fromhex("c00c 001c 0001 00000000 0010 fd770000000000000000000000000002"))


def test_no_data_and_no_such_name_have_no_records() -> None:
    assert build_response(PLAIN, Code.NOERROR) == bytes.fromhex("1234 8580 0001 0000 0000 0000") + QUESTION
    assert build_response(PLAIN, Code.NXDOMAIN) == bytes.fromhex("1234 8583 0001 0000 0000 0000") + QUESTION


def test_reason_is_told_to_a_client_that_speaks_edns() -> None:
    told = build_response(EDNS, Code.NXDOMAIN, explanation=(ExtendedError.PROHIBITED, "no"))
    assert told == (
        bytes.fromhex("1234 8583 0001 0000 0000 0001")
        + QUESTION
        + bytes.fromhex("00 0029 1000 00 00 0000 0008 000f 0004 0012")
        + b"no"
    )
    assert build_response(PLAIN, Code.NXDOMAIN, explanation=(ExtendedError.PROHIBITED, "no")) == build_response(
        PLAIN, Code.NXDOMAIN
    )


def test_answer_that_does_not_fit_is_empty_and_marked() -> None:
    many = [f"10.0.0.{i}" for i in range(1, 40)]
    cut = build_response(PLAIN, Code.NOERROR, many, limit=512)
    assert cut == bytes.fromhex("1234 8780 0001 0000 0000 0000") + QUESTION
    assert len(build_response(PLAIN, Code.NOERROR, many, limit=4096)) == 12 + len(QUESTION) + 39 * 16


def test_address_of_another_family_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="no answer"):
        build_response(PLAIN, Code.NOERROR, ["fd77::2"])


def test_stream_framing_both_ways() -> None:
    framed = build_frame(HEAD + QUESTION)
    assert framed == len(HEAD + QUESTION).to_bytes(2, "big") + HEAD + QUESTION
    assert [read_frame(framed[:n]) for n in range(len(framed))] == [None] * len(framed)
    assert read_frame(framed + b"more") == (HEAD + QUESTION, len(framed))
    with pytest.raises(QueryError):
        read_frame(b"\xff\xff")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_query_or_an_error(data: bytes) -> None:
    for candidate in (data, HEAD + data):
        try:
            query = parse_query(candidate)
        except QueryError as error:
            assert error.reply == b"" or error.reply[:2] == candidate[:2]
        else:
            assert len(build_response(query, Code.NXDOMAIN)) >= 12
