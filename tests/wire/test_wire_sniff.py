from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.wire.sniff import Sniffed, sniff


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", Sniffed.INCOMPLETE),
        (b"\x16", Sniffed.INCOMPLETE),
        (b"\x16\x03\x01", Sniffed.TLS),
        (b"\x16\x02", Sniffed.UNKNOWN),
        (b"\0\0\0\x08", Sniffed.INCOMPLETE),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Sniffed.POSTGRES),
        (b"\0\0\0\x08\x04\xd2\x16\x30", Sniffed.POSTGRES),
        (b"\0\0\0\x10\x04\xd2\x16\x2e", Sniffed.POSTGRES),
        (b"\0\0\0\x29\0\x03\0\0user", Sniffed.POSTGRES),
        (b"\0\0\0\x29\0\x03\0\x02user", Sniffed.POSTGRES),
        (b"\0\0\0\x29\0\x02\0\0user", Sniffed.UNKNOWN),
        (b"\0\x01", Sniffed.UNKNOWN),
        (b"GE", Sniffed.INCOMPLETE),
        (b"GET / HTTP/1.1", Sniffed.HTTP),
        (b"PRI * HTTP/2.0\r\n", Sniffed.HTTP),
        (b"PRI * SPAM", Sniffed.UNKNOWN),
        (b"SSH-2.0-x", Sniffed.SSH),
        (b"SS", Sniffed.INCOMPLETE),
        (b"hello", Sniffed.UNKNOWN),
        (b"\xff" * 40, Sniffed.UNKNOWN),
    ],
)
def test_first_bytes_tell_the_protocol(data: bytes, found: Sniffed) -> None:
    assert sniff(data) is found


@given(st.binary(min_size=16, max_size=40))
def test_sixteen_bytes_are_enough(data: bytes) -> None:
    assert sniff(data) is not Sniffed.INCOMPLETE


@given(st.binary(max_size=40), st.binary(max_size=10))
def test_more_bytes_never_change_an_answer(data: bytes, more: bytes) -> None:
    if sniff(data) is not Sniffed.INCOMPLETE:
        assert sniff(data + more) is sniff(data)
