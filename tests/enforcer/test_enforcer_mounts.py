"""By which other paths a file is in view, from the text of mountinfo alone."""

from __future__ import annotations

import pytest

from hostagent.enforcer.confinement.foreign import needed
from hostagent.enforcer.confinement.mounts import Mount, aliases, elsewhere, parse

_HERE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /run rw shared:2 - tmpfs tmpfs rw
24 22 0:20 / /srv/jail/run rw shared:2 - tmpfs tmpfs rw
25 22 8:1 /srv/data /mnt/with\\040blank rw - ext4 /dev/sda1 rw
26 22 0:4 net:[4026532000] /srv/namespace rw - nsfs nsfs rw
"""
_CONTAINER = """\
90 80 0:99 / / rw - overlay overlay rw,lowerdir=/a - b
91 90 8:1 /srv/data/db /data rw master:1 - ext4 /dev/sda1 rw
92 90 0:20 /postgresql /sockets rw - tmpfs tmpfs rw
93 90 0:4 net:[4026532000] /namespace rw - nsfs nsfs rw
"""


def test_a_mount_is_read_with_its_escapes() -> None:
    assert parse(_HERE)[3] == Mount(25, "8:1", "/srv/data", "/mnt/with blank", "ext4")
    assert parse("broken line\n") == []


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("/data/s.sock", {"/srv/data/db/s.sock", "/mnt/with blank/db/s.sock"}),
        ("/data", {"/srv/data/db", "/mnt/with blank/db"}),
        ("/sockets/.s.PGSQL.5432", {"/run/postgresql/.s.PGSQL.5432", "/srv/jail/run/postgresql/.s.PGSQL.5432"}),
        ("/database/s.sock", set()),
        ("/namespace", set()),
    ],
)
def test_a_containers_folder_is_found_by_every_name_it_has_here(path: str, here: set[str]) -> None:
    assert set(elsewhere(path, aliases(parse(_HERE), parse(_CONTAINER)))) == here


@pytest.mark.parametrize(
    ("path", "besides"),
    [
        ("/run/dbus/socket", {"/srv/jail/run/dbus/socket"}),
        ("/srv/jail/run/dbus/socket", {"/run/dbus/socket"}),
        ("/srv/data/x/y", {"/mnt/with blank/x/y"}),
        ("/srv/other", set()),
        ("/", set()),
    ],
)
def test_a_folder_that_is_mounted_twice_has_two_names(path: str, besides: set[str]) -> None:
    mounts = parse(_HERE)
    assert set(elsewhere(path, aliases(mounts, mounts))) == besides


def test_what_a_declared_path_lies_below_must_be_there_again() -> None:
    assert needed({"/home", "/net"}, ["/home/dana/work", "/netz", "/net"]) == ["/home"]
