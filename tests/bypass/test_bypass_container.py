"""A container image as a workload's root: the same boundary, the image's own files, a driver that works with our CA in its trust.

The image is made of the host's /usr and files of its own, as no registry can be asked here; to the service it is a folder like what
``podman export`` leaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bypass import outcomes
from tests.bypass.attacked import DOCUMENT, Attacked
from tests.bypass.attacks import HERE, OPEN
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_ATTEMPTS = [
    *("tcp4-443", "tcp6-443", "udp4-443", "dns-own-resolver", "socket-packet", "unshare-net", "unshare-user", "call-setns", "call-pivot_root"),
    *("call-chroot", "call-mount", "setuid-0", "capabilities", "processes", "cgroup-escape", "abstract-socket", "doors-engines", "device-made"),
]
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "var/tmp", "usr", "etc/ssl/certs", "opt", "mnt/hostile")


@pytest.fixture(scope="module")
def image(attacked: Attacked) -> Iterator[Path]:
    """An image's folder with a program, accounts, trust and a stray socket; and a link that leads out of it."""
    root = attacked.world.folder / "image"
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files mdns4 resolve dns\n")
    (root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    (root / "etc/image-name").write_text("an image\n")
    shutil.copy(attacked.world.folder / "company-ca.pem", root / "etc/company-ca.pem")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    with contextlib.suppress(FileNotFoundError):
        shutil.copy("/etc/ld.so.cache", root / "etc/ld.so.cache")
    shutil.copytree(attacked.world.repository / "tests/bypass/hostile_program", root / "mnt/hostile/hostile_program")
    subprocess.run(["mount", "--bind", "/usr", str(root / "usr")], check=True)
    with socket.socket(socket.AF_UNIX) as stray:
        stray.bind(str(root / "opt/daemon.sock"))
        (root / "opt/daemon.sock").chmod(0o777)
        stray.listen()
        stray.setblocking(False)
        for placement in HERE:
            text = f"{DOCUMENT}placement: {placement}\nroot: {root}\ntrust_files: [/etc/company-ca.pem]\n"
            attacked.document(f"boxed-{placement}", text)
        yield root
        with pytest.raises(BlockingIOError):
            stray.accept()
    subprocess.run(["umount", "-l", str(root / "usr")], check=True)


def _inside(attacked: Attacked, placement: str, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = [*attacked.service.command, "run", "--workload", f"boxed-{placement}", "--no-tty", "--", *command]
    return subprocess.run(
        words, env={**attacked.environment, **more}, cwd="/", text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )


@pytest.mark.attack("R16")
@pytest.mark.parametrize("placement", HERE)
def test_a_driver_in_an_image_works_with_the_images_own_trust(attacked: Attacked, image: Path, placement: str) -> None:
    assert image
    words = ["/usr/lib/postgresql/15/bin/psql", "-XAtc", "select count(*) > 0 from customers"]
    settings = {"PGHOST": DATABASE_NAME, "PGDATABASE": "crm", "PGUSER": "crm_app", "PGPASSWORD": "wrong", "PGSSLMODE": "verify-full"}
    done = _inside(attacked, placement, *words, **settings, PGSSLROOTCERT="/etc/company-ca.pem", PGCONNECT_TIMEOUT="10")
    assert (done.returncode, done.stdout) == (0, "t\n"), done.stderr
    rows = attacked.service.wait_sql(f"select target, outcome from sessions where workload = 'boxed-{placement}' and outcome = 'closed'")
    assert {row["target"] for row in rows} == {"crm-db"}


@pytest.mark.attack("R16")
@pytest.mark.parametrize("placement", HERE)
def test_the_boundary_of_an_image_is_the_same(attacked: Attacked, image: Path, placement: str) -> None:
    assert image
    before = len(attacked.world.sink_lines())
    label = f"R16-{placement}"
    command = ["/usr/bin/python3", "/mnt/hostile/hostile_program", DATABASE_V4, DATABASE_V6, f":{label}", *_ATTEMPTS]
    done = _inside(attacked, placement, *command)
    assert done.returncode == 0, done.stderr
    came = json.loads(done.stdout)
    can, said = OPEN.get(("49", placement), (lambda: True, ""))
    if not can():  # as for any workload in this placement, and said so when it is started
        assert said in done.stderr
        del came["abstract-socket"]
    assert {name: said for name, said in came.items() if not outcomes.matches(name, placement, said)} == {}
    assert attacked.world.sink_lines()[before:] == []
    wait_for(lambda: {"proxy", "dns", "seccomp"} <= {str(row["layer"]) for row in attacked.rows([label])[label]}, "its rows")


_LOOK = """
import os, socket, sys
print(open("/etc/image-name").read().strip())
print(open("/etc/resolv.conf").read().strip())
print("hosts: files dns" in open("/etc/nsswitch.conf").read())
import pwd; print(pwd.getpwuid(os.getuid()).pw_name)
print([path for path in sys.argv[1:] if os.path.exists(path)])
print(os.access("/proc/1/root/", os.R_OK))
try:
    open("/etc/made", "w")
    print("WRITTEN")
except OSError as error:
    print(error.errno)
import struct
with socket.socket(socket.AF_UNIX) as dial:
    try:
        dial.connect("/opt/daemon.sock")
        print(struct.unpack("=iii", dial.getsockopt(1, 17, 12))[0] == 1 and dial.recv(1) == b"")
    except OSError:
        print(True)
"""


@pytest.mark.attack("R16")
@pytest.mark.parametrize("placement", HERE)
def test_an_image_sees_its_own_files_and_none_of_the_hosts(attacked: Attacked, image: Path, placement: str) -> None:
    assert image
    hosts = [str(attacked.world.folder), str(attacked.world.repository), "/etc/shadow", "/home", "/root", "/var/lib"]
    done = _inside(attacked, placement, "/usr/bin/python3", "-c", _LOOK, *hosts)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said == ["an image", "nameserver 127.0.0.1", "True", f"boxed-{placement}", "[]", "False", "30", "True"]
    rows = attacked.service.wait_sql(f"select destination, reason from refusals where workload = 'boxed-{placement}' and layer = 'mount'")
    assert any("/opt/daemon.sock" in str(row) for row in rows)


@pytest.mark.attack("R16", placement="isolated")
def test_links_in_an_image_do_not_lend_roots_eyes(attacked: Attacked, image: Path) -> None:
    """An image's maker chooses what /etc/passwd leads to; it leads nowhere but into the image."""
    kept = (image / "etc/group").read_bytes()
    (image / "etc/group").unlink()
    (image / "etc/group").symlink_to("/etc/shadow")
    try:
        refused = _inside(attacked, "isolated", "cat", "/etc/group")
        assert (refused.returncode != 0, "root:" in refused.stdout) == (True, False)
    finally:
        (image / "etc/group").unlink()
        (image / "etc/group").write_bytes(kept)
    os.rename(image / "sys", image / "elsewhere")
    try:
        refused = _inside(attacked, "isolated", "true")
        assert (refused.returncode != 0, "has no folder /sys" in refused.stderr) == (True, True)
    finally:
        os.rename(image / "elsewhere", image / "sys")
    assert _inside(attacked, "isolated", "true").returncode == 0


@pytest.mark.attack("R16")
@pytest.mark.parametrize("placement", HERE)
def test_a_socket_that_is_made_in_an_images_folder_later_is_masked_where_the_image_has_it(attacked: Attacked, image: Path, placement: str) -> None:
    late = image / f"opt/late-{placement}.sock"
    words = [*attacked.service.command, "run", "--workload", f"boxed-{placement}", "--no-tty", "--", "/bin/sh", "-c", "echo in; sleep 60"]
    with subprocess.Popen(
        words, env=attacked.environment, cwd="/", stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process, socket.socket(socket.AF_UNIX) as server:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        server.bind(str(late))
        late.chmod(0o777)
        server.listen()
        rows = attacked.service.wait_sql(f"select action from audits where detail = '/opt/{late.name}' and workload = 'boxed-{placement}'")
        process.terminate()
    assert {row["action"] for row in rows} == {"masked"}
    late.unlink()
