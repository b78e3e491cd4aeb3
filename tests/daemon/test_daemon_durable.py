"""Files put in place whole, also where a unit's call filter refuses to change owners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from hostagent.durable import write_whole


def test_a_file_without_a_group_of_its_own_needs_no_right_to_change_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> NoReturn:  # as ``SystemCallFilter=~@privileged`` answers
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    write_whole(tmp_path / "state", b"all of it", 0o644)
    assert ((tmp_path / "state").read_bytes(), (tmp_path / "state").stat().st_mode & 0o777) == (b"all of it", 0o644)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "state", b"other", 0o640, gid=0)
    assert (tmp_path / "state").read_bytes() == b"all of it"
