"""The Debian package from its first installation to its purge, one story in order; `make test-package` runs it.

``HOSTAGENT_DEB`` and ``HOSTAGENT_DEB_AGAIN`` are two builds of this tree, ``HOSTAGENT_DEB_OLD`` is one with a lower version.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.package.chroot import ROOT, Chroot, Packaged
from tests.stage import World
from tests.stage.service import _TARGET, _WORKLOAD
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6

NEW, AGAIN, OLD = (os.environ.get(name, "") for name in ("HOSTAGENT_DEB", "HOSTAGENT_DEB_AGAIN", "HOSTAGENT_DEB_OLD"))
REPOSITORY = str(Path(__file__).resolve().parents[2])
HOME = ROOT / "usr/lib/hostagent"
QUERY = ("psql", "-X", "-At", "host=crm.internal dbname=crm user=crm_app password=anything sslmode=require", "-c")
_CHECKED_HASH = 3

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as built:
        yield built


@pytest.fixture(scope="module")
def chroot(world: World) -> Iterator[Chroot]:
    with Chroot(Path(os.environ["HOSTAGENT_DEB_BASE"])) as built:
        yield built


@pytest.fixture(scope="module")
def before(chroot: Chroot) -> dict[str, str]:
    """The file system before hostagent was ever on it."""
    return chroot.listing()


@pytest.fixture(scope="module")
def service(world: World, chroot: Chroot) -> Packaged:
    return Packaged(world, f"ha-deb-{os.getpid()}.slice")


@pytest.fixture(scope="module", autouse=True)
def story(before: dict[str, str], service: Packaged) -> Iterator[None]:
    """Nothing may outlive the module, however far the story came."""
    yield
    service.stop()
    if (ROOT / "usr/bin/hostagent").exists():
        service.hostagent("uninstall", "--yes", check=False)


def test_the_same_tree_gives_the_same_bytes() -> None:
    assert Path(NEW).read_bytes() == Path(AGAIN).read_bytes()


def test_installs_without_a_network_and_without_systemd(chroot: Chroot) -> None:
    chroot.install(OLD)
    assert chroot.run("dpkg-query", "-W", "-f", "${Version} ${Status}", "hostagent").stdout == "0.0.1 install ok installed"
    for name in ("hostagent", "hostagent-rec"):
        assert chroot.run("getent", "passwd", name).stdout.endswith(":/nonexistent:/usr/sbin/nologin\n")
    assert chroot.run("getent", "group", "hostagent-approvers").stdout
    assert chroot.run("dpkg", "--verify", "hostagent").stdout == ""


def test_no_path_of_the_build_and_no_time_is_inside() -> None:
    for path in HOME.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert REPOSITORY.encode() not in content, path
            assert b"hostagent-deb-" not in content, path
            if path.suffix == ".pyc":
                assert content[4:8] == _CHECKED_HASH.to_bytes(4, "little"), path


def test_the_program_is_roots_and_no_service_user_can_write_to_it(chroot: Chroot) -> None:
    for path in (HOME, *HOME.rglob("*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert path.is_symlink() or not status.st_mode & 0o022, path
    for user in ("hostagent", "hostagent-rec"):
        tried = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "touch", "/usr/lib/hostagent/lib/new"]
        assert "Permission denied" in chroot.run(*tried, check=False).stderr


def test_the_command_teaches_and_examines_the_host(chroot: Chroot) -> None:
    assert chroot.run("hostagent", "--version").stdout == "hostagent, version 0.0.1\n"
    doctor = {each["id"]: each for each in json.loads(chroot.run("hostagent", "doctor", "--json", check=False).stdout)}
    assert {name: each["detail"] for name, each in doctor.items() if each["state"] == "fail"} == {}
    # The C files are found where the package has put them, and Debian's own interpreter, which has bcc, compiles them.
    assert doctor["bpf.compiler"]["state"] == "ok", doctor["bpf.compiler"]


def test_the_default_configuration_denies(world: World, service: Packaged) -> None:
    etc = ROOT / "etc/hostagent"
    text = (etc / "hostagent.toml").read_text(encoding="utf-8")
    changed = text.replace('#slice = "governed.slice"', f'slice = "{service.slice}"')
    assert changed != text
    (etc / "hostagent.toml").write_text(changed, encoding="utf-8")
    words = {"company_ca": world.folder / "company-ca.pem", "secret": world.folder / "crm-password"}
    names = {"name": DATABASE_NAME, "v4": DATABASE_V4, "v6": DATABASE_V6}
    (etc / "targets/crm-db.yaml").write_text(_TARGET.format(**words, **names), encoding="utf-8")
    (etc / "workloads/support-bot.yaml").write_text(_WORKLOAD.format(**words), encoding="utf-8")
    service.start()
    denied = service.launch(*QUERY, "select email from customers limit 1")
    assert denied.returncode != 0
    assert "hostagent: login denied by default: no rule allows connect at crm-db" in denied.stderr


def test_a_governed_query_passes_when_a_policy_allows_it(chroot: Chroot, service: Packaged) -> None:
    chroot.run("gpasswd", "-a", "daemon", "hostagent-approvers")
    example = ROOT / "usr/share/doc/hostagent/examples/policy/customer-data.yaml"
    (ROOT / "etc/hostagent/policy/customer-data.yaml").write_bytes(example.read_bytes())
    service.stop()
    service.start()
    done = service.launch(*QUERY, "select email from customers limit 1")
    assert (done.stdout, done.returncode) == ("[masked]\n", 0), done.stderr
    assert service.wait_sql("select decision from statements where text like '%customers%' and decision = 'allow'")


def test_the_boundary_holds(service: Packaged) -> None:
    verified = service.hostagent("verify", check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_manual_pages_and_completion_come_with_it(chroot: Chroot) -> None:
    for page in ("hostagent", "hostagent-run", "hostagent-policy-check"):
        assert (ROOT / f"usr/share/man/man8/{page}.8.gz").is_file()
    for place in ("bash-completion/completions/hostagent", "zsh/vendor-completions/_hostagent", "fish/vendor_completions.d/hostagent.fish"):
        assert "_HOSTAGENT_COMPLETE" in (ROOT / "usr/share" / place).read_text(encoding="utf-8")
    typed = {"_HOSTAGENT_COMPLETE": "bash_complete", "COMP_WORDS": "hostagent run --workload sup", "COMP_CWORD": "3"}
    assert chroot.run("hostagent", **typed).stdout == "plain,support-bot\n"


def test_an_upgrade_leaves_the_service_governing_and_the_configuration_as_it_is(chroot: Chroot, service: Packaged) -> None:
    pid = service.pid("enforcerd")
    chroot.install(NEW)
    assert service.pid("enforcerd") == pid
    assert chroot.run("hostagent", "--version").stdout != "hostagent, version 0.0.1\n"
    assert service.slice in (ROOT / "etc/hostagent/hostagent.toml").read_text(encoding="utf-8")
    assert service.launch(*QUERY, "select 1").stdout == "1\n"
    service.stop()
    service.start()
    assert service.launch(*QUERY, "select 1").stdout == "1\n"


def test_the_hot_floors_are_compiled_where_the_build_had_a_compiler(chroot: Chroot) -> None:
    (packages,) = HOME.glob("lib/python3.*/site-packages")
    asked = "import hostagent.wire.postgres.frontend as f; print(f.__file__)"
    place = chroot.run("/usr/lib/hostagent/bin/python", "-I", "-c", asked).stdout.strip()
    # `make setup` brings mypyc; a compiler and Python's headers are the machine's own.
    compiled = Path("/usr/bin/gcc").exists() and Path("/usr/include/python3.11/Python.h").exists()
    assert place.endswith(".so" if compiled else ".py"), place
    assert bool(list(packages.glob("*__mypyc*.so"))) == compiled


def test_an_upgrade_restarts_nothing_into_a_configuration_that_does_not_load(chroot: Chroot) -> None:
    asked = _with_a_systemctl_that_writes_down()
    done = chroot.run("/var/lib/dpkg/info/hostagent.postinst", "configure", "0.0.1")
    assert "the configuration does not load" not in done.stderr
    good = asked()
    config = ROOT / "etc/hostagent/hostagent.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text + "\n[no-such]\nkey = 1\n", encoding="utf-8")
    refused = chroot.run("/var/lib/dpkg/info/hostagent.postinst", "configure", "0.0.1")
    config.write_text(text, encoding="utf-8")
    assert "the configuration does not load" in refused.stderr
    assert "no-such" in refused.stderr
    assert not [line for line in asked() if "restart" in line or "start" in line.split()]
    assert [line for line in good if "restart" in line] == [line for line in good if "hostagent-proxyd.service" in line and "restart" in line]
    (ROOT / "usr/local/sbin/systemctl").unlink()
    (ROOT / "run/systemd/system").rmdir()


def _with_a_systemctl_that_writes_down() -> Callable[[], list[str]]:
    (ROOT / "run/systemd/system").mkdir(parents=True)
    program = ROOT / "usr/local/sbin/systemctl"
    program.write_text('#!/bin/sh\necho "$*" >>/tmp/asked\n[ "$2" != is-enabled ] || echo enabled\n', encoding="utf-8")
    program.chmod(0o755)

    def asked() -> list[str]:
        log = ROOT / "tmp/asked"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return asked


def test_removal_takes_the_fence_down_and_purge_leaves_nothing(chroot: Chroot, service: Packaged, before: dict[str, str]) -> None:
    service.stop()
    assert "table inet hostagent" in chroot.run("nft", "list", "tables").stdout
    chroot.run("apt-get", "remove", "-y", "hostagent")
    assert chroot.run("nft", "list", "tables").stdout == ""
    assert not [path for path in (ROOT / "sys/fs/bpf").iterdir() if path.suffix != ".debug"]  # the kernel puts those there
    assert not (ROOT / "sys/fs/cgroup" / service.slice).exists()
    assert (ROOT / "etc/hostagent/targets/crm-db.yaml").exists()
    assert (ROOT / "var/lib/hostagent/evidence").exists()
    chroot.run("apt-get", "purge", "-y", "hostagent")
    after = chroot.listing()
    assert {path: (before.get(path), after.get(path)) for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == {}
    assert subprocess.run(["chroot", str(ROOT), "getent", "passwd", "hostagent"], check=False, capture_output=True).stdout == b""
