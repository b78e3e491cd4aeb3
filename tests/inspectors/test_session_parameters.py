"""Binary bind values read as PostgreSQL writes them."""

from __future__ import annotations

import pytest

from hostagent.inspectors.postgres.parameters import decode, decode_all

TABLE: list[tuple[int, str, str | bytes]] = [
    (16, "01", "t"),
    (20, "000000000000002a", "42"),
    (21, "fffe", "-2"),
    (23, "0000002a", "42"),
    (25, "c3a9", "é"),
    (26, "ffffffff", "4294967295"),
    (700, "3fc00000", "1.5"),
    (701, "3ff8000000000000", "1.5"),
    (1082, "000025b3", "2026-06-04"),
    (1114, "0000000000000000", "2000-01-01 00:00:00"),
    (1184, "00000000000f4240", "2000-01-01 00:00:01+00"),
    (1114, "7fffffffffffffff", "infinity"),
    (1700, "000200000000000100011388", "1.5"),
    (1700, "0000000000000000", "0"),
    (1700, "00010001400000000007", "-70000"),
    (1700, "00000000c0000000", "NaN"),
    (2950, "0" * 32, "00000000-0000-0000-0000-000000000000"),
    (3802, "017b7d", "{}"),
]


@pytest.mark.parametrize(("oid", "value", "shown"), TABLE)
def test_binary_value_is_shown_as_text(oid: int, value: str, shown: str | bytes) -> None:
    assert decode(bytes.fromhex(value), oid, 1) == shown


@pytest.mark.parametrize(
    ("oid", "value"),
    [(23, b"\0\0"), (16, b"\x02"), (25, b"\xff"), (3802, b"\x02{}"), (99999, b"x"), (1700, b"\0\x05\0\0")],
)
def test_value_that_does_not_read_as_its_type_stays_bytes(oid: int, value: bytes) -> None:
    assert decode(value, oid, 1) == value


def test_formats_and_types_may_be_fewer_than_values() -> None:
    assert decode_all((b"a", None, b"\0\0\0\1"), (25,), (1,)) == ("a", None, b"\0\0\0\1")
    assert decode_all((b"a", b"7"), (), ()) == ("a", "7")
    assert decode_all((b"\0\0\0\1", b"x"), (23, 25), (1, 0)) == ("1", "x")
    assert decode_all((), (23,), ()) == ()
