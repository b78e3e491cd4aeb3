"""The slice and its leaves where systemd owns the cgroup tree: it makes and removes them, we only use them.

The slice is a unit that an anchor unit keeps populated (``systemd/``). A leaf is a transient scope in it with ``Delegate=yes``
(systemd.io/CGROUP_DELEGATION): StartTransientUnit wants a process to begin with, so one that only sleeps holds the scope until the
workload's first process is inside. A scope that is empty ends by itself, and systemd removes its cgroup.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from pathlib import Path

from hostagent.enforcer.cgroup import Leaf, Slice
from hostagent.model.errors import HostagentError

ANCHOR = "hostagent-anchor.service"
UNIT = "governed.slice"
"""The slice that the anchor is in, as shipped."""
_SUFFIX = ".scope"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.:-]")  # of a unit (systemd.unit(5)); our own probe's name has such
_CALL_S = 20.0
_MADE_S = 10.0
_GONE_S = 15.0
_LOOK_S = 0.002


class UnitSlice(Slice):
    """The parent of every leaf, a unit of systemd's."""

    def __init__(self, name: str) -> None:
        """Nothing is started until ``create``.

        Raises:
            HostagentError: systemd would put a slice of this name somewhere else in the tree.
        """
        if "-" in name:
            raise HostagentError(f"enforcement.slice {name}: under systemd its name may have no '-', which means a slice in a slice")
        super().__init__(name)

    def create(self) -> None:
        """See that the anchor runs, and with it the slice.

        Raises:
            HostagentError: systemd cannot start it.
        """
        if not (self.path / ANCHOR).is_dir():
            _call("systemctl", "start", ANCHOR)
        if not (self.path / ANCHOR).is_dir():
            raise HostagentError(f"{ANCHOR} is not in {self.name}: give it a drop-in with Slice={self.name}, or leave enforcement.slice as it is")

    def leaves(self) -> list[str]:
        """Return the names of the leaves that exist; a unit that somebody put into the slice counts as one, to be ended."""
        return [name for name in super().leaves() if name != ANCHOR]

    def leaf(self, name: str) -> Leaf:
        """Return the leaf called ``name``, existing or not."""
        if name.endswith(_SUFFIX) or (self.path / name).is_dir():
            return ScopeLeaf(self, name)
        return ScopeLeaf(self, _NOT_IN_A_NAME.sub("_", name) + _SUFFIX)

    def remove(self) -> None:
        """Do nothing: the units go when ``hostagent uninstall`` starts hostagent-uninstall.target, which ends enforcerd too."""


class ScopeLeaf(Leaf):
    """One workload's cgroup, a transient scope."""

    _holder: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Have the scope made, with a process in it that only sleeps.

        Raises:
            HostagentError: systemd refused or did not answer.
        """
        self._holder = subprocess.Popen(
            ["/bin/sleep", "infinity"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        try:
            _call(*_start_scope(self.name, self.path.parent.name, self._holder.pid))
            self._await_made(self._holder.pid)
        except HostagentError:
            self.occupied()
            raise

    def occupied(self) -> None:
        """The workload's first process is inside: what held the scope until then goes."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.kill()
            holder.wait()

    def remove(self) -> None:
        """Kill what is left and wait until systemd has removed the scope.

        Raises:
            HostagentError: processes inside do not end, or systemd does not remove it.
        """
        self.kill()
        self.occupied()
        until = time.monotonic() + _GONE_S
        while self.path.exists():
            if time.monotonic() > until:
                raise HostagentError(f"{self.name}: systemd has not removed the scope within {_GONE_S:.0f} s of its end")
            time.sleep(_LOOK_S)

    def kill(self) -> None:
        """End every process inside at once; a scope that is just being removed has none."""
        with contextlib.suppress(OSError):
            super().kill()

    def _await_made(self, pid: int) -> None:
        until = time.monotonic() + _MADE_S
        while pid not in self.processes():
            if time.monotonic() > until:
                raise HostagentError(f"{self.name}: systemd has not made the scope within {_MADE_S:.0f} s")
            time.sleep(_LOOK_S)


def slice_of(name: str, *, systemd: bool) -> Slice:
    """Return the slice, made by systemd or by ourselves.

    Raises:
        HostagentError: a name that systemd understands differently.
    """
    return UnitSlice(name) if systemd else Slice(name)


def installed(name: str) -> Slice:
    """Return the slice as it is on this host: systemd's where its anchor is in it."""
    found = Slice(name)
    return UnitSlice(name) if (found.path / ANCHOR).is_dir() else found


def _start_scope(name: str, parent: str, pid: int) -> list[str]:
    """Return the call of ``StartTransientUnit(name, mode, properties, aux)`` (org.freedesktop.systemd1(5))."""
    properties = {
        "Description": ("s", "Governed workload"),
        "Slice": ("s", parent),
        "PIDs": ("au", "1", str(pid)),
        "Delegate": ("b", "true"),
        "CollectMode": ("s", "inactive-or-failed"),
        "TimeoutStopUSec": ("t", "5000000"),
    }
    words = [word for key, value in properties.items() for word in (key, *value)]
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    return [
        "busctl", "--system", "--quiet", f"--timeout={_CALL_S:.0f}", "call", *manager,
        "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", str(len(properties)), *words, "0",
    ]  # fmt: skip


def _call(*command: str) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_CALL_S + 5, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostagentError(f"systemd cannot be asked: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise HostagentError(f"systemd refused {Path(command[0]).name}: {said[-1]}")
