"""Changing a trust bundle that somebody reads: nothing moves, nothing else is touched."""

from __future__ import annotations

import pytest

from hostagent.enforcer.confinement.trust import MARK, change_of
from hostagent.model.errors import HostagentError


def pem(letter: str) -> bytes:
    return f"-----BEGIN CERTIFICATE-----\n{letter * 64}\n-----END CERTIFICATE-----\n".encode()


THEIRS = pem("t") + b"# text\n" + pem("o")


def changed(bundle: bytes, authority: bytes) -> bytes:
    change = change_of(bundle, authority)
    result = bytearray(bundle + change.more)
    for offset, length in change.blank:
        result[offset : offset + length] = b"\n" * length
    return bytes(result)


def test_a_second_ca_is_appended_and_the_first_taken_out_in_place() -> None:
    bundle = THEIRS + MARK + pem("A")
    both = changed(bundle, pem("A") + pem("B"))
    assert both == bundle + pem("B")
    assert changed(both, pem("A") + pem("B")) == both
    new = changed(both, pem("B"))
    assert new == THEIRS + MARK + b"\n" * len(pem("A")) + pem("B")
    assert changed(new, pem("B") + pem("C")) == new + pem("C")


def test_certificates_that_are_not_ours_stay_whatever_they_are() -> None:
    theirs = pem("A") + THEIRS
    assert changed(theirs + MARK + pem("A"), pem("B")) == theirs + MARK + b"\n" * len(pem("A")) + pem("B")
    assert change_of(THEIRS, pem("B")) == ((), b""), "a file without our mark is none of ours"


@pytest.mark.parametrize("authority", [b"", b"garbage", pem("A")[:-9], pem("A") * 9])
def test_what_is_no_ca_file_changes_nothing(authority: bytes) -> None:
    with pytest.raises(HostagentError, match="certificates"):
        change_of(THEIRS + MARK + pem("A"), authority)
