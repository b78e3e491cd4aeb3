"""A target's unix socket in a workload's view is ours: what the workload, the host and a dying proxy can make of it."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.stage import Stage, stage, unix_socket_pair, wait_for

pytestmark = pytest.mark.root

BOTH = ("isolated", "shared")
_IN_RUN, _IN_TMP = "/run/database/s.db", "/tmp/.s.db"

_DIAL = """
import errno, json, socket
def dial(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            connection.connect(path)
            return connection.recv(200).decode().split()
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))
"""
_WHILE = """
import sys, time
print(dial(PATH), flush=True)
sys.stdin.readline()
began = time.monotonic()
print(dial(PATH), time.monotonic() - began < 2, flush=True)
sys.stdin.readline()
print(dial(PATH), flush=True)
"""


class Host:
    """A stage whose targets have unix sockets below /run, in /tmp, and in a folder of the host's that holds a real one."""

    def __init__(self, stage_: Stage, real: str) -> None:
        self.stage = stage_
        self.real = real


@pytest.fixture(scope="module")
def unix_host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="hatest-", dir="/var/lib") as outside, tempfile.TemporaryDirectory(prefix="hatest-") as name:
        Path(outside).chmod(0o755)
        real = f"{outside}/real.sock"
        Path(outside, "secret").write_text("of the server")
        workloads: list[dict[str, object]] = [{"name": "isolated"}, {"name": "shared", "placement": "shared"}]
        with unix_socket_pair(Path(real)), stage(Path(name), workloads, unix_targets=[_IN_RUN, _IN_TMP, real]) as built:
            yield Host(built, real)


@pytest.mark.parametrize("placement", BOTH)
def test_a_dial_of_a_declared_path_is_served_as_the_leafs_own(unix_host: Host, placement: str) -> None:
    script = _DIAL + "print(json.dumps([dial(path) for path in PATHS]))"
    answers = unix_host.stage.probe(placement, script, PATHS=[_IN_RUN, f"/var{_IN_RUN}", _IN_TMP, unix_host.real])
    leaves = {leaf for leaf, _ in answers}
    assert [how for _, how in answers] == ["unix"] * 4
    assert len(leaves) == 1
    assert leaves.pop().startswith(f"{placement}-")


@pytest.mark.parametrize("placement", BOTH)
def test_the_workload_can_neither_remove_nor_replace_nor_close_it(unix_host: Host, placement: str) -> None:
    script = _DIAL + """
import os
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        return True
    return False
def bind(path):
    socket.socket(socket.AF_UNIX).bind(path)
attempts = []
for path in PATHS:
    folder = os.path.dirname(path)
    attempts += [refused(os.unlink, path), refused(os.rename, path, path + ".old"), refused(os.chmod, path, 0)]
    attempts += [refused(os.symlink, "/tmp/other", path), refused(bind, path), refused(os.link, path, "/tmp/linked")]
    open("/tmp/mine", "w").close()
    attempts += [refused(os.rename, "/tmp/mine", path)]
    if folder != "/tmp":
        attempts += [refused(os.rename, folder, folder + ".old"), refused(os.mkdir, folder + "/sub"), refused(os.rmdir, folder)]
print(json.dumps([all(attempts), [dial(path)[1] for path in PATHS]]))
"""
    assert unix_host.stage.probe(placement, script, PATHS=[_IN_RUN, _IN_TMP, unix_host.real]) == [True, ["unix"] * 3]


def test_the_hosts_own_folder_shows_nothing_but_our_socket_even_when_the_server_makes_its_own_anew(unix_host: Host) -> None:
    look = _WHILE + "import os\nprint(os.listdir(os.path.dirname(PATH)))"
    process = unix_host.stage.start("isolated", "/usr/bin/python3", "-I", "-c", f"PATH = {unix_host.real!r}\n{_DIAL}{look}", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert "unix" in process.stdout.readline()
    Path(unix_host.real).unlink()
    with unix_socket_pair(Path(unix_host.real)) as anew:
        out, _ = process.communicate("\n\n", timeout=30)
        assert out.count("unix") == 2, out
        assert out.splitlines()[-1] == "['real.sock']"
        anew.setblocking(False)
        with pytest.raises(BlockingIOError):
            anew.accept()


def test_every_leaf_has_a_socket_of_its_own(unix_host: Host) -> None:
    script = _DIAL + "print(json.dumps(dial(PATH)[0]))"
    first, second = (unix_host.stage.probe("isolated", script, PATH=_IN_RUN) for _ in range(2))
    assert first != second


def test_an_undeclared_socket_stays_refused(unix_host: Host) -> None:
    path = Path(unix_host.real).parent.parent / f"{unix_host.stage.tag}.sock"
    try:
        with unix_socket_pair(path) as other:
            other.setblocking(False)
            answer = unix_host.stage.probe("isolated", _DIAL + "print(json.dumps(dial(PATH)))", PATH=str(path))
            assert answer in ([], "ECONNREFUSED", "ECONNRESET", "EACCES")
            with pytest.raises(BlockingIOError):
                other.accept()
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("placement", BOTH)
def test_without_a_proxy_dials_are_refused_at_once_and_served_again_after(unix_host: Host, placement: str) -> None:
    host = unix_host.stage
    process = host.start(placement, "/usr/bin/python3", "-I", "-c", f"PATH = {_IN_TMP!r}\n{_DIAL}{_WHILE}", stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert "unix" in process.stdout.readline()
    host.stop_proxy()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "EACCES True\n"
    host.start_proxy()
    wait_for("the leaf to be served", lambda: all(each["served"] for each in host.status()["leaves"]))
    out, _ = process.communicate("\n", timeout=30)
    assert "unix" in out


def test_a_flood_of_dials_is_served_or_refused_and_never_hangs(unix_host: Host) -> None:
    script = """
import json, signal, socket
signal.alarm(30)
ends = [socket.socket(socket.AF_UNIX) for _ in range(900)]
outcomes = {}
for end in ends:
    end.setblocking(False)
    try:
        end.connect(PATH)
        outcome = "connected"
    except OSError as error:
        outcome = type(error).__name__
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
for end in ends:
    end.close()
end = socket.socket(socket.AF_UNIX)
end.connect(PATH)
print(json.dumps([sorted(set(outcomes) - {"connected", "BlockingIOError"}), end.recv(200).decode().split()[1]]))
"""
    assert unix_host.stage.probe("isolated", script, PATH=_IN_RUN) == [[], "unix"]


def test_what_the_leaf_had_is_gone_with_it(unix_host: Host) -> None:
    unix_host.stage.probe("isolated", _DIAL + "print(json.dumps(dial(PATH)))", PATH=_IN_RUN)
    wait_for("the leaf's end", lambda: not unix_host.stage.status()["leaves"])
    assert os.listdir(unix_host.stage.runtime / "sockets") == []


def test_nobody_but_root_reaches_the_sockets_from_outside(unix_host: Host) -> None:
    assert (unix_host.stage.runtime / "sockets").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda _: None, "does not exist"),
        (lambda folder: os.lchown(_link(folder), 1234, 1234), "was not made by root"),
    ],
    ids=["missing", "foreign-link"],
)
def test_a_folder_that_is_missing_or_behind_anothers_link_refuses_the_launch(place: Path, make: object, complaint: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hatest-", dir="/var/lib") as outside:
        assert callable(make)
        make(Path(outside, "server"))
        with stage(place, [{"name": "isolated"}], unix_targets=[f"{outside}/server/s.sock"]) as host:
            done = host.run("isolated", "/bin/true")
            assert done.returncode != 0
            assert complaint in done.stderr
            assert not list(Path(outside).rglob("s.sock"))


def _link(place: Path) -> Path:
    place.symlink_to("/etc")
    return place


def test_a_socket_file_left_by_a_killed_enforcer_is_cleared(place: Path) -> None:
    (place / "run" / "sockets").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / "run/sockets/left"))
    with stage(place, [{"name": "isolated"}], unix_targets=[_IN_RUN]) as host:
        assert not (place / "run/sockets/left").exists()
        assert host.run("isolated", "/bin/true").returncode == 0
