"""Certificates of ours in Java's key stores: nothing else changes, and what is no such store is refused."""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.enforcer.confinement import keystore
from hostagent.enforcer.confinement.lookups import replaced_files
from hostagent.enforcer.confinement.rootfs import HostFiles
from hostagent.enforcer.confinement.trust import MARK, _renew_store, trusting
from hostagent.model.errors import HostagentError


def text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def trusted(alias: bytes, certificate: bytes, version: int = 2) -> bytes:
    kind = text(b"X.509") if version == 2 else b""
    return struct.pack(">I", 2) + text(alias) + struct.pack(">Q", 1_700_000_000_000) + kind + struct.pack(">I", len(certificate)) + certificate


def private(alias: bytes) -> bytes:
    chain = b"".join(text(b"X.509") + struct.pack(">I", 3) + b"abc" for _ in range(2))
    return struct.pack(">I", 1) + text(alias) + struct.pack(">Q", 1) + struct.pack(">I", 4) + b"key!" + struct.pack(">I", 2) + chain


def store(*entries: bytes, version: int = 2, password: str = "changeit", magic: int = 0xFEEDFEED, more: int = 0) -> bytes:
    body = struct.pack(">III", magic, version, len(entries) + more) + b"".join(entries)
    return body + hashlib.sha1(password.encode("utf-16-be") + b"Mighty Aphrodite" + body).digest()


def pem(certificate: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(certificate) + b"\n-----END CERTIFICATE-----\n"


THEIRS = (trusted(b"debian:one.pem", b"one" * 300), private(b"mine"), trusted(b"debian:two.pem", b""))


@pytest.mark.parametrize("version", [1, 2])
def test_ours_are_added_and_taken_out_and_theirs_stay_byte_for_byte(version: int) -> None:
    theirs = [trusted(b"a", b"x" * 70_000, version), trusted(b"b", b"", version)]
    before = store(*theirs, version=version)
    both = keystore.trusting(before, [b"first", b"second"])
    assert both.startswith(struct.pack(">III", 0xFEEDFEED, version, 4) + b"".join(theirs))
    assert (b"first" in both, b"second" in both) == (True, True)
    assert keystore.trusting(both, [b"first", b"second"]) == both
    assert keystore.trusting(keystore.trusting(both, [b"second"]), []) == before


def test_private_keys_of_a_store_stay() -> None:
    assert keystore.trusting(keystore.trusting(store(*THEIRS), [b"ours"]), []) == store(*THEIRS)


@pytest.mark.parametrize(
    "content",
    [
        store(*THEIRS, password="another"),
        store(*THEIRS, magic=0xCECECECE),
        store(*THEIRS, version=3),
        store(*THEIRS, more=1),
        store(*THEIRS, more=0xFFFF_FFF0),
        store(*THEIRS, b"\0"),
        store(struct.pack(">I", 7)),
        store(struct.pack(">I", 2) + struct.pack(">H", 0xFFFF)),
        store(*THEIRS)[:-1],
        store()[:20],
        b"",
    ],
)
def test_what_is_no_such_store_is_refused(content: bytes) -> None:
    with pytest.raises(HostagentError, match="not a Java key store"):
        keystore.trusting(content, [b"ours"])


@given(st.binary(max_size=200))
def test_no_content_does_worse_than_that(entries: bytes) -> None:
    whole = store(entries)
    try:
        assert keystore.trusting(keystore.trusting(whole, [b"ours"]), []) == whole
    except HostagentError as error:
        assert "not a Java key store" in str(error)


def test_a_trust_file_is_either_kind_and_another_is_refused() -> None:
    assert trusting(b"theirs\n\n", pem(b"ours")) == b"theirs\n" + MARK + pem(b"ours")
    assert trusting(store(*THEIRS), pem(b"ours")) == keystore.trusting(store(*THEIRS), [b"ours"])
    with pytest.raises(HostagentError, match="keytool"):
        trusting(b"0\x82\0\1pkcs12", pem(b"ours"))


def test_a_system_store_that_cannot_be_changed_keeps_nobody_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, authority = tmp_path / "good", tmp_path / "bad", tmp_path / "ca.pem"
    good.write_bytes(store(*THEIRS))
    bad.write_bytes(store(*THEIRS, password="another"))
    authority.write_bytes(pem(b"ours"))
    monkeypatch.setattr(keystore, "SYSTEM", (str(bad), str(good), str(tmp_path / "none")))
    files = replaced_files(str(authority), [], "", 1, 1, "/", HostFiles())
    assert {path for path in files if path.startswith(str(tmp_path))} == {str(good)}
    with pytest.raises(HostagentError, match=f"{bad}: not a Java key store"):
        replaced_files(str(authority), [str(bad)], "", 1, 1, "/", HostFiles())


def test_a_running_programs_store_follows_a_new_ca(tmp_path: Path) -> None:
    file = tmp_path / "cacerts"
    file.write_bytes(keystore.trusting(store(*THEIRS), [b"a long certificate that goes"]))
    with file.open("r+b") as opened:
        assert _renew_store(opened.fileno(), file.read_bytes(), pem(b"new"))
        assert file.read_bytes() == keystore.trusting(store(*THEIRS), [b"new"])
        assert not _renew_store(opened.fileno(), file.read_bytes(), pem(b"new"))
