"""Every test runs in network and mount namespaces of its own: nothing a test does reaches the machine or outlives the run."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000


def pytest_configure(config: pytest.Config) -> None:
    """Leave the machine's network and mounts before anything else happens (as root; the pure floors need neither)."""
    if os.geteuid() != 0 or os.environ.get("HOSTAGENT_TEST_NAMESPACES") == "kept":
        return
    # Kept open for the one thing that may need it: installing node's drivers (tests/e2e/conftest.py).
    machine = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.environ["HOSTAGENT_TEST_MACHINE_NETWORK"] = f"/proc/{os.getpid()}/fd/{machine}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        raise pytest.UsageError(f"unshare: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


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
