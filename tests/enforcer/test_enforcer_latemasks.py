"""Covering a unix socket that came into view late, where the file changes between the look and the cover."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from hostagent.enforcer.audit import latemasks


def _opened(path: Path) -> tuple[socket.socket, int]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener, os.open(path, os.O_PATH | os.O_NOFOLLOW)


def _dial(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_is_covered_by_one_that_turns_away(tmp_path: Path) -> None:
    served, place = _opened(tmp_path / "s")
    with served, latemasks._refusing(str(tmp_path / "mask"), place):
        os.close(place)
        with pytest.raises(OSError) as refused:
            _dial(tmp_path / "s")  # ours does not listen
        assert refused.value.errno == errno.ECONNREFUSED
        subprocess.run(["umount", tmp_path / "s"], check=True)


def test_a_socket_that_was_unlinked_meanwhile_needs_no_cover_and_is_nobodys_fault(tmp_path: Path) -> None:
    served, place = _opened(tmp_path / "s")
    (tmp_path / "s").unlink()
    again, new_place = _opened(tmp_path / "s")
    os.close(new_place)
    with served, again, latemasks._refusing(str(tmp_path / "mask"), place):
        _dial(tmp_path / "s")  # the new one is another file, found by the next look
    os.close(place)


def test_a_socket_that_only_lost_this_name_is_still_a_fault(tmp_path: Path) -> None:
    served, place = _opened(tmp_path / "s")
    os.link(tmp_path / "s", tmp_path / "other")
    (tmp_path / "s").unlink()
    with served, pytest.raises(FileNotFoundError):
        latemasks._refusing(str(tmp_path / "mask"), place)
    os.close(place)
