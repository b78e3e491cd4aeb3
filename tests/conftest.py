"""Every test runs in network and mount namespaces of its own: nothing a test does reaches the machine or outlives the run."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more about what else runs than about the code; whole tests have their time-outs.
hypothesis.settings.register_profile("hostagent", deadline=None)
hypothesis.settings.load_profile("hostagent")

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Leave the machine's network and mounts before anything else happens (as root; the pure floors need neither)."""
    if os.geteuid() != 0 or os.environ.get("HOSTAGENT_TEST_NAMESPACES") == "kept":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        raise pytest.UsageError(f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # One for the whole run, as a host has: what one enforcerd pins, the next one finds.
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=700", "tests", "/sys/fs/bpf"], check=False)
    _open_the_way_to(_REPOSITORY)
    # As systemd would give it: what one enforcerd of this run has compiled, the next one need not.
    cache = tempfile.mkdtemp(prefix="hatest-cache-")
    os.environ["CACHE_DIRECTORY"] = cache
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))


def _open_the_way_to(checkout: Path) -> None:
    """Make a clone in a home that nobody else may enter (say /root) readable by the unprivileged processes, at its own path.

    In these private mounts alone: the topmost closed folder is covered by an open one that holds nothing but the clone.
    """
    closed = [folder for folder in checkout.parents if not folder.stat().st_mode & stat.S_IXOTH]
    if not closed:
        return
    handle = os.open(checkout, os.O_PATH | os.O_DIRECTORY)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "way", str(closed[-1])], check=True)
    checkout.mkdir(parents=True)
    subprocess.run(["mount", "--no-canonicalize", "--bind", f"/proc/self/fd/{handle}", str(checkout)], check=True, pass_fds=[handle])
    os.close(handle)
    os.chdir(checkout)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root fail where they cannot run; they are never skipped."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.usefixtures("_no_root"))


@pytest.fixture
def _no_root() -> None:
    pytest.fail("this test needs root: run `make test` as root")
