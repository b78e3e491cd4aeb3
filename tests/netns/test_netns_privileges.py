"""In which order a program's first moments give up what root has, as the kernel was told: by strace, in both placements."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.netns.stage import Stage, wait_for

pytestmark = pytest.mark.root

_CALLS = "setgroups,prctl,setresgid,setresuid,capset,landlock_restrict_self,seccomp,execve,setuid,setgid,unshare,setns"
_STEPS = (
    ("the bounding set", r"prctl\(PR_CAPBSET_DROP, .*\) += 0"),
    ("groups", r"setgroups\(0, .*\) += 0"),
    ("group", r"setresgid\((\d+), \1, \1\) += 0"),
    ("user", r"setresuid\((\d+), \1, \1\) += 0"),
    ("capabilities", r"capset\(.*effective=0, permitted=0, inheritable=0.*\) += 0"),
    ("no_new_privs", r"prctl\(PR_SET_NO_NEW_PRIVS, 1, .*\) += 0"),
    ("the filter", r"seccomp\(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER.*\) += \d+"),
    ("the program", r'execve\("/usr/bin/true".*\) += 0'),
)


@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_everything_is_given_up_in_order_before_the_program_and_nothing_is_asked_for_after(host: Stage, place: Path, workload: str) -> None:
    assert host.enforcer is not None
    told = place / "strace"
    words = ["strace", "-ff", "-qq", "-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(told), "-p", str(host.enforcer.pid)]
    status = Path(f"/proc/{host.enforcer.pid}/status")
    with subprocess.Popen(words) as strace:
        wait_for("strace", lambda: f"TracerPid:\t{strace.pid}" in status.read_text())
        assert host.run(workload, "/usr/bin/true").returncode == 0
        strace.terminate()
    # A file for each process: in one of all, a call during which another process makes one is cut in two.
    written = [file.read_text().splitlines() for file in place.glob("strace.*")]
    (own,) = [lines for lines in written if any('execve("/usr/bin/true"' in line and line.endswith("= 0") for line in lines)]
    places = [[number for number, line in enumerate(own) if re.match(pattern, line)] for _, pattern in _STEPS]
    assert all(places), [name for (name, _), found in zip(_STEPS, places, strict=True) if not found]
    order = [found[-1] for found in places]
    # Without a capability the bounding set could not be dropped any more: it, and the groups, go before the user.
    assert max(order[:3]) < order[3] < order[4] < order[5] < order[6] < order[7], own
    assert (len(places[0]) > 35, order[7]) == (True, len(own) - 1), own
