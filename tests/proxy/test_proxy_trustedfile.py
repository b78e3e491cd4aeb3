"""Files that decide who a workload is: everything that would let someone else read or replace them is refused."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.model.errors import IdentityError
from hostagent.model.workload import IdentityKind, IdentitySource, Workload
from hostagent.proxy.trustedfile import read_token, read_trusted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "folder" / "token"
    made.parent.mkdir()
    made.parent.chmod(0o755)
    made.write_bytes(b"content")
    made.chmod(0o640)
    return made


def refusal(path: Path | str, *, secret: bool = True, limit: int = 100, foreign: tuple[int, ...] = ()) -> str:
    with pytest.raises(IdentityError) as caught:
        read_trusted(str(path), limit, secret=secret, foreign_groups=foreign)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_file_for_its_owner_and_group_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_trusted(str(file), 100, secret=True) == b"content"


def test_what_all_may_read_is_read_only_if_it_is_no_secret(file: Path) -> None:
    file.chmod(0o644)
    assert read_trusted(str(file), 100, secret=False) == b"content"
    assert refusal(file) == "every user may read it, the workload too (chmod o-r)"


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o642, 0o620])
def test_what_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert refusal(file, secret=False) == "others may write it (chmod go-w)"


def test_a_secret_is_refused_if_the_workloads_group_may_read_it(file: Path) -> None:
    group = file.stat().st_gid
    assert refusal(file, foreign=(group,)) == f"the workload's user is in group {group}, which may read it"
    file.chmod(0o600)
    assert read_trusted(str(file), 100, secret=True, foreign_groups=(group,)) == b"content"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_folder_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert refusal(file) == "others may write a folder on the way, so they could replace the file (chmod go-w)"
    file.parent.chmod(0o1777)
    assert read_trusted(str(file), 100, secret=True) == b"content", "with the sticky bit, only owners may rename"


@pytest.mark.root
def test_what_belongs_to_someone_else_is_refused(file: Path, tmp_path: Path) -> None:
    os.chown(file, 4711, -1)
    assert refusal(file) == "the file belongs to user 4711; it must belong to root or to this service"
    os.chown(file, 0, -1)
    os.chown(file.parent, 4711, -1)
    assert refusal(file) == "a folder on the way belongs to user 4711; it must belong to root or to this service"
    os.chown(file.parent, 0, -1)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_trusted(str(link), 100, secret=True) == b"content"
    os.lchown(link, 4711, -1)
    assert refusal(link) == "a symbolic link on the way belongs to user 4711; it must belong to root or to this service"


def test_links_as_kubernetes_makes_them_are_followed(tmp_path: Path) -> None:
    for stamp in ("..2026_1", "..2026_2"):
        (tmp_path / stamp).mkdir()
        (tmp_path / stamp / "token").write_text(stamp)
        (tmp_path / stamp / "token").chmod(0o640)
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "token").symlink_to("..data/token")
    assert read_trusted(str(tmp_path / "token"), 100, secret=True) == b"..2026_1"
    (tmp_path / "fresh").symlink_to("..2026_2")
    (tmp_path / "fresh").rename(tmp_path / "..data")
    assert read_trusted(str(tmp_path / "token"), 100, secret=True) == b"..2026_2"


def test_absolute_links_and_parent_steps_are_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "absolute").symlink_to(file.parent)
    assert read_trusted(str(tmp_path / "absolute" / "token"), 100, secret=True) == b"content"
    assert read_trusted(f"{file.parent}/../folder/./token", 100, secret=True) == b"content"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert refusal(tmp_path / "a") == "has too many steps or symbolic links, or ends at none"


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("make", "wanted"), [(_fifo, "is not a regular file"), (lambda path: path.mkdir(0o700), "is not a regular file")]
)
def test_what_is_no_regular_file_is_refused_without_hanging(
    tmp_path: Path, make: Callable[[Path], None], wanted: str
) -> None:
    make(tmp_path / "x")
    assert refusal(tmp_path / "x") == wanted


def test_missing_relative_and_oversized_files_are_refused(file: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent") == "no such file or directory"
    assert refusal(file / "below") == "not a directory"
    assert refusal("relative") == "must be an absolute path"
    assert refusal("/") == "has too many steps or symbolic links, or ends at none"
    assert refusal(file, limit=6) == "longer than 6 bytes"
    assert read_trusted(str(file), 7, secret=True) == b"content"


def test_no_descriptor_is_left_open(file: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    read_trusted(str(file), 100, secret=True)
    for path in (file.parent, file / "below", file.parent / "absent"):
        refusal(path)
    assert sorted(os.listdir("/proc/self/fd")) == before


def workload(file: Path, user: str) -> Workload:
    return Workload(
        "bot", user=user, identity=IdentitySource(kind=IdentityKind.TOKEN_FILE, path=str(file), jwks="/j", audience="a")
    )


def test_a_token_is_read_without_the_space_around_it(file: Path) -> None:
    file.write_bytes(b"  a.b.c\r\n")
    assert read_token(workload(file, "")) == b"a.b.c"


def test_a_workload_that_runs_as_the_tokens_reader_is_refused(file: Path) -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    for user in {own, "root"}:
        with pytest.raises(IdentityError, match=f"workload bot runs as {user}, who could read its token"):
            read_token(workload(file, user))
    with pytest.raises(IdentityError, match="there is no user nobody-of-this-name"):
        read_token(workload(file, "nobody-of-this-name"))


@pytest.mark.root
def test_a_workload_in_the_tokens_group_is_refused(file: Path) -> None:
    account = pwd.getpwnam("nobody")
    os.chown(file, 0, account.pw_gid)
    assert grp.getgrgid(account.pw_gid)
    with pytest.raises(IdentityError, match="the workload's user is in group"):
        read_token(workload(file, "nobody"))
    file.chmod(0o600)
    assert read_token(workload(file, "nobody")) == b"content"
