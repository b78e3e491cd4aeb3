"""The supervisor: who owns what, and that the unprivileged processes have nothing left."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.daemon.accounts import account_of
from hostagent.daemon.up import drop_privileges, prepare_folders
from hostagent.documents import parse_config
from hostagent.model.errors import DocumentError

pytestmark = pytest.mark.root


def test_the_unprivileged_processes_have_no_capability_and_can_get_none() -> None:
    shown = subprocess.run(
        drop_privileges("nobody", ["cat", "/proc/self/status"]), capture_output=True, text=True, check=True
    ).stdout
    status = dict(line.split(":\t", 1) for line in shown.splitlines() if ":\t" in line)
    nobody = pwd.getpwnam("nobody")
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert status["Groups"].strip() == ""
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_root_keeps_its_command_as_it_is() -> None:
    assert drop_privileges("", ["x"]) == ["x"]


def test_a_missing_account_is_named_with_the_command_that_makes_it() -> None:
    with pytest.raises(DocumentError, match=r"useradd --system .* no-such-user"):
        account_of("no-such-user")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents every account may pass."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_folders_keep_the_processes_apart(open_folder: Path) -> None:
    config = parse_config(
        "c",
        f'[paths]\nstate = "{open_folder}/state"\nruntime = "{open_folder}/run"\n[users]\nproxy = "nobody"\nrecorder = "daemon"\n',
    )
    prepare_folders(config)
    prepare_folders(config)  # again, as at every start
    nobody, daemon = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")

    def seen(path: str) -> tuple[int, int, int]:
        status = Path(path).stat()
        return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)

    assert seen(config.proxy_state) == (nobody.pw_uid, nobody.pw_gid, 0o700)
    assert seen(config.evidence) == (daemon.pw_uid, daemon.pw_gid, 0o750)
    assert seen(config.paths.runtime) == (0, 0, 0o755), "nobody but root may replace enforcerd's socket"
    assert seen(f"{config.journal}/proxyd-0") == (nobody.pw_uid, daemon.pw_gid, 0o2750)
    assert seen(f"{config.journal}/enforcerd") == (0, daemon.pw_gid, 0o2750)
    # The recorder may read a journal, and may not write it.
    journal = Path(config.journal) / "proxyd-0" / "x"
    journal.touch(mode=0o640)
    os.chown(journal, nobody.pw_uid, daemon.pw_gid)
    attempt = subprocess.run(drop_privileges("daemon", ["sh", "-c", f"cat {journal} && ! echo x >> {journal}"]), check=False)
    assert attempt.returncode == 0
