"""What root's documents and the host's sockets could be made to lend a workload, and what the proxy's own account could."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bypass.attacked import DOCUMENT, Attacked
from tests.bypass.attacks import HERE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# -- root's documents name places that others own -----------------------------------------------------------------------------


def _refused(attacked: Attacked, workload: str, reason: str) -> None:
    """The refused launch is on record."""
    question = f"select reason from admissions where workload = '{workload}' and outcome = 'refused' and reason like '%{reason}%'"
    assert attacked.service.wait_sql(question)


_TMPFS_MAPS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 3)
"""Whether this kernel can map the owners of files on a tmpfs, which the stage is on."""


@pytest.mark.attack("R13", placement="isolated")
def test_a_trust_file_that_became_a_link_does_not_lend_roots_eyes(attacked: Attacked) -> None:
    trust = attacked.home / "trust.pem"
    trust.write_text("of dana\n")
    trust.chmod(0o644)
    shutil.chown(trust, "dana", "dana")
    attacked.document("trusting", DOCUMENT + f"trust_files: [{trust}]\n")
    assert attacked.as_dana("trusting", "head", "-1", str(trust)).stdout == "of dana\n"
    trust.unlink()
    trust.symlink_to("/etc/shadow")
    os.chown(trust, 1901, 1901, follow_symlinks=False)
    refused = attacked.as_dana("trusting", "cat", str(trust))
    assert (refused.returncode != 0, refused.stdout, "was not made by root" in refused.stderr) == (True, "", True)
    trust.unlink()
    os.link("/etc/shadow", trust) if os.stat("/etc").st_dev == os.stat(attacked.home).st_dev else shutil.copy("/etc/shadow", trust)
    trust.chmod(0o600)
    refused = attacked.as_dana("trusting", "cat", str(trust))
    assert (refused.returncode != 0, refused.stdout, "that every user may read" in refused.stderr) == (True, "", True)
    _refused(attacked, "trusting", "was not made by root")
    _refused(attacked, "trusting", "that every user may read")


@pytest.mark.attack("R13", placement="isolated")
@pytest.mark.parametrize("victim", ["lee", "hostagent"])
def test_a_declared_path_that_became_a_link_does_not_lend_its_ends_owner(attacked: Attacked, victim: str) -> None:
    secret = attacked.world.folder / f"home-of-{victim}"
    secret.mkdir(mode=0o700)
    (secret / "secret").write_text("private\n")
    (secret / "secret").chmod(0o600)
    shutil.chown(secret, victim, victim)
    shutil.chown(secret / "secret", victim, victim)
    project = attacked.home / f"project-{victim}"
    project.mkdir()
    shutil.chown(project, "dana", "dana")
    if not _TMPFS_MAPS:  # its files keep their owners there, and so their permissions
        project.chmod(0o777)
    attacked.document(f"project-{victim}", DOCUMENT + f"paths: [{{path: {project}, writable: true}}]\n")
    assert attacked.as_dana(f"project-{victim}", "touch", f"{project}/made").returncode == 0
    assert ((project / "made").stat().st_uid == 1901) == _TMPFS_MAPS
    project.rename(attacked.home / f"moved-{victim}")
    project.symlink_to(secret)
    os.chown(project, 1901, 1901, follow_symlinks=False)
    refused = attacked.as_dana(f"project-{victim}", "cat", f"{project}/secret", f"{secret}/secret")
    assert (refused.returncode != 0, refused.stdout, "was not made by root" in refused.stderr) == (True, "", True)
    refused = attacked.as_dana(f"project-{victim}", "sh", "-c", f"touch {project}/planted {secret}/planted")
    assert (refused.returncode != 0, (secret / "planted").exists()) == (True, False)
    _refused(attacked, f"project-{victim}", "was not made by root")


@pytest.mark.attack("R14", placement="isolated")
def test_a_taken_over_proxy_cannot_make_root_read_or_hang(attacked: Attacked) -> None:
    """Whoever has the proxy's uid may exchange what is in its folder: the CA certificate that root reads for workloads."""
    patience = 10 if attacked.quick else 60
    certificate = attacked.service.folder / "state/proxyd/ca.pem"
    kept = certificate.with_suffix(".kept")
    certificate.rename(kept)
    try:
        for make in (f"ln -s {attacked.world.folder}/crm-password {certificate}", f"mkfifo -m 644 {certificate}", f"ln -s /dev/zero {certificate}"):
            subprocess.run(["setpriv", "--reuid=hostagent", "--regid=hostagent", "--clear-groups", "sh", "-c", make], check=True)
            began = time.monotonic()
            refused = attacked.service.launch("cat", "/etc/ssl/certs/ca-certificates.crt", workload="isolated")
            assert (refused.returncode != 0, refused.stdout) == (True, "")
            assert time.monotonic() - began < patience
            certificate.unlink()
    finally:
        with contextlib.suppress(FileNotFoundError):
            certificate.unlink()
        kept.rename(certificate)
    assert attacked.service.launch("true", workload="isolated").returncode == 0
    _refused(attacked, "isolated", "ca.pem")


# -- sockets of the host ----------------------------------------------------------------------------------------------------------

# What stands in for a masked socket was made by the workload's own first process, and closes what it accepts.
_DIAL = """
import socket, struct, sys
for path in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as dial:
            try:
                dial.connect(path.replace("@", "\\0"))
                maker, _, _ = struct.unpack("=iii", dial.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if maker != 1 or dial.recv(1) != b"":
                    print("REACHED", path)
            except OSError:
                pass
"""


@pytest.mark.attack("44")
@pytest.mark.parametrize("placement", HERE)
def test_a_hosts_unix_socket_is_out_of_reach_however_it_was_named(attacked: Attacked, placement: str) -> None:
    folder = attacked.world.folder / f"sockets-{placement}"
    folder.mkdir(mode=0o755)
    before = Path.cwd()
    with contextlib.ExitStack() as kept:

        def serve(name: str, kind: int = socket.SOCK_STREAM) -> None:
            made = kept.enter_context(socket.socket(socket.AF_UNIX, kind))
            made.bind(name)
            if not name.startswith("\0"):
                Path(name).chmod(0o777)
            if kind == socket.SOCK_STREAM:
                made.listen()

        serve(f"{folder}/absolute")
        serve(f"{folder}/datagram", socket.SOCK_DGRAM)
        serve(f"{folder}/first")
        Path(f"{folder}/first").rename(f"{folder}/moved")
        serve(f"{folder}/linked")
        os.link(f"{folder}/linked", f"{folder}/second")
        serve(f"{folder}/../{folder.name}/crooked")
        os.chdir(folder)
        try:
            serve("relative")
            names = ["absolute", "datagram", "moved", "linked", "second", "crooked", "relative"]
            paths = [f"{folder}/{name}" for name in names]
            outside = subprocess.run([sys.executable, "-c", _DIAL, *paths], capture_output=True, text=True, check=True)
            assert {line.split()[1] for line in outside.stdout.splitlines()} == set(paths)
            inside = attacked.service.launch(attacked.python, "-c", _DIAL, *paths, workload=placement)
        finally:
            os.chdir(before)
    assert (inside.returncode, inside.stdout) == (0, ""), inside.stderr


def test_an_isolated_workload_does_not_reach_an_abstract_socket(attacked: Attacked) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0hostile-abstract")
        server.listen()
        inside = attacked.service.launch(attacked.python, "-c", _DIAL, "@hostile-abstract", workload="isolated")
    assert (inside.returncode, inside.stdout) == (0, "")
