"""Opening what root's document names: only root's own links count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostagent.enforcer.confinement.plainpath import open_plain, read_public
from hostagent.model.errors import HostagentError

pytestmark = pytest.mark.root


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert read_public(str(tmp_path / "file")) == b"content"


def test_roots_own_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("content")
    (tmp_path / "by-name").symlink_to("real")
    (tmp_path / "by-path").symlink_to(tmp_path / "by-name/../by-name/file")
    assert read_public(str(tmp_path / "by-path")) == b"content"


@pytest.mark.parametrize(("link", "folder"), [(1000, 0), (0, 1000), (1000, 1000)])
def test_anybody_elses_link_is_not_followed(tmp_path: Path, link: int, folder: int) -> None:
    place = tmp_path / "theirs"
    place.mkdir()
    (place / "link").symlink_to("/etc/hostname")
    os.chown(place / "link", link, link, follow_symlinks=False)
    os.chown(place, folder, folder)
    with pytest.raises(HostagentError, match="was not made by root"):
        open_plain(str(place / "link"))


def test_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(HostagentError, match="too many"):
        open_plain(str(tmp_path / "a"))


@pytest.mark.parametrize("kind", ["secret", "pipe", "folder", "device"])
def test_what_not_everybody_may_read_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "secret":
        path.write_text("x")
        path.chmod(0o640)
    elif kind == "pipe":
        os.mkfifo(path, 0o644)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(HostagentError, match="regular file"):
        read_public(str(path))
