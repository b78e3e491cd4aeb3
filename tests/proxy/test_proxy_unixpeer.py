"""Who counts as inside a leaf when a target's unix socket is dialled."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import pytest

from hostagent.enforcer.cgroup import find_mount
from hostagent.proxy.unixpeer import _inside

pytestmark = pytest.mark.root


def test_a_cgroup_elsewhere_with_the_leafs_name_is_not_the_leaf() -> None:
    """Who owns a part of the tree (every user of systemd) can make the same names below it."""
    own = f"hatest-{secrets.token_hex(4)}"
    top = Path(find_mount(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))) / own
    leaf = top / "hostagent.slice/bot-1"
    leaf.mkdir(parents=True)
    try:
        with subprocess.Popen(["sleep", "60"]) as process:
            (leaf / "cgroup.procs").write_text(str(process.pid))
            assert _inside(process.pid, f"{own}/hostagent.slice/bot-1")
            assert not _inside(process.pid, "hostagent.slice/bot-1")
            process.kill()
    finally:
        for each in (leaf, leaf.parent, top):
            each.rmdir()
