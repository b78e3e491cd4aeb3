"""The three steps of exchanging the host CA, and a crash between any two of their writes."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from hostagent.proxy.authority import AuthorityError, open_authority
from hostagent.proxy.carotation import Rotation


def rotation(folder: Path) -> Rotation:
    return Rotation(open_authority(folder), folder, folder / "ca.pem")


def published(folder: Path) -> bytes:
    return (folder / "ca.pem").read_bytes()


def test_each_step_says_who_signs_and_who_is_trusted(tmp_path: Path) -> None:
    authority = open_authority(tmp_path)
    steps = Rotation(authority, tmp_path, tmp_path / "ca.pem")
    old, leaf = authority.certificate, authority.leaf(["db"])
    assert (steps.stage, published(tmp_path)) == ("settled", old)
    steps.announce()
    assert steps.stage == "announced"
    assert published(tmp_path).startswith(old)
    assert authority.certificate == old
    assert authority.leaf(["db"]) is leaf
    steps.activate()
    new = authority.certificate
    assert (steps.stage, new in published(tmp_path), old in published(tmp_path), new == old) == ("active", True, True, False)
    assert authority.leaf(["db"]).certificate.endswith(new), "no cached leaf of the old one"
    steps.retire()
    assert (steps.stage, published(tmp_path)) == ("settled", new)
    assert stat.S_IMODE((tmp_path / "ca.pem").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert ssl.create_default_context(cadata=published(tmp_path).decode())


def test_a_step_out_of_turn_is_refused(tmp_path: Path) -> None:
    steps = rotation(tmp_path)
    for step in (steps.activate, steps.retire):
        with pytest.raises(AuthorityError, match="the CA is settled"):
            step()
    steps.announce()
    for step in (steps.announce, steps.retire):
        with pytest.raises(AuthorityError, match="the CA is announced"):
            step()
    steps.activate()
    for step in (steps.announce, steps.activate):
        with pytest.raises(AuthorityError, match="the CA is active"):
            step()


def test_a_restart_between_the_steps_goes_on_where_they_were(tmp_path: Path) -> None:
    old = open_authority(tmp_path).certificate
    rotation(tmp_path).announce()
    assert open_authority(tmp_path).certificate == old
    rotation(tmp_path).activate()
    new = open_authority(tmp_path).certificate
    assert new != old
    rotation(tmp_path).retire()
    assert (open_authority(tmp_path).certificate, rotation(tmp_path).stage) == (new, "settled")


def test_a_key_whose_certificate_was_never_published_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = rotation(tmp_path)
    before = published(tmp_path)
    with monkeypatch.context() as broken:

        def dies(*_: object) -> None:
            raise OSError("power")

        broken.setattr(Rotation, "_publish", dies)
        with pytest.raises(OSError, match="power"):
            steps.announce()
    assert (tmp_path / "ca-next.key").exists()
    assert (rotation(tmp_path).stage, published(tmp_path)) == ("settled", before)
    rotation(tmp_path).announce()
    rotation(tmp_path).activate()
    assert open_authority(tmp_path).certificate in published(tmp_path)
