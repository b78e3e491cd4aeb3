"""The slice and its leaves in cgroup v2. A leaf is a workload's boundary: what is inside it is governed.

The slice has an anchor child, so that nothing but us removes and recreates it (a new directory has a new id, and rules hold
ids, not paths).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hostagent.enforcer import kernel
from hostagent.model.errors import HostagentError

_ANCHOR = "anchor"
_EMPTY_WAIT_S = 5.0


def find_mount(mountinfo: str) -> str:
    """Return where cgroup v2 is mounted, given the text of ``/proc/self/mountinfo``.

    Raises:
        HostagentError: nowhere.
    """
    for line in mountinfo.split("\n"):
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            return before.split(" ")[4]
    raise HostagentError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")


class Slice:
    """The parent of every leaf."""

    def __init__(self, name: str) -> None:
        """Nothing is made until ``create``."""
        self.mount = find_mount(kernel.text_of("/proc/self/mountinfo"))
        self.name = name
        self.path = Path(self.mount) / name

    @property
    def level(self) -> int:
        """How deep the slice lies: 1 directly below the root. Leaves are one deeper."""
        return len(Path(self.name).parts)

    @property
    def id(self) -> int:
        """The kernel's id of the slice as it is now, 0 if there is none."""
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return 0

    def create(self) -> None:
        """Make the slice and its anchor where they do not exist."""
        (self.path / _ANCHOR).mkdir(parents=True, exist_ok=True)

    def leaves(self) -> list[str]:
        """Return the names of the leaves that exist."""
        try:
            entries = sorted(self.path.iterdir())
        except FileNotFoundError:
            return []
        return [entry.name for entry in entries if entry.is_dir() and entry.name != _ANCHOR]

    def leaf(self, name: str) -> Leaf:
        """Return the leaf called ``name``, existing or not."""
        return Leaf(self, name)

    def remove(self) -> None:
        """Remove the slice; every leaf must be gone."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / _ANCHOR).rmdir()
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()

    def contains(self, pid: int) -> bool:
        """Whether process ``pid`` is in the slice, by the kernel's word; a process that is gone counts as inside."""
        try:
            lines = kernel.text_of(f"/proc/{pid}/cgroup").split("\n")
        except OSError:
            return True
        places = [line[3:] for line in lines if line.startswith("0::")]
        return not places or f"{places[0]}/".startswith(f"/{self.name}/")


class Leaf:
    """One workload's cgroup."""

    def __init__(self, parent: Slice, name: str) -> None:
        """Nothing is made until ``create``."""
        self.name = name
        self.path = parent.path / name
        self.rule_path = f"{parent.name}/{name}"

    def create(self) -> None:
        """Make the cgroup. It must not exist: an old id would mean old rules."""
        self.path.mkdir()

    @property
    def id(self) -> int:
        """The kernel's id, as in nft rules and BPF."""
        return self.path.stat().st_ino

    def enter(self) -> None:
        """Move the calling process inside. A socket it made before stays outside, so do this first."""
        (self.path / "cgroup.procs").write_text("0")

    def occupied(self) -> None:
        """The workload's first process is inside, and nothing else need keep the cgroup."""

    def processes(self) -> list[int]:
        """Return the process ids inside, nested cgroups included."""
        return self._listed("cgroup.procs")

    def headless(self) -> list[int]:
        """Return the processes inside whose first thread has ended: as processes they are listed, as a thread it is not.

        The kernel goes on to name the cgroup that the thread was in when it ended, wherever the others are now; one that ends
        in this moment may be among them.
        """
        processes = self.processes()
        return sorted({*processes} - {*self._listed("cgroup.threads")})

    def _listed(self, file: str) -> list[int]:
        found: list[int] = []
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found.extend(int(line) for line in (folder / file).read_text().split())
        return found

    def freeze(self) -> None:
        """Stop every process inside where it is; a killed one ends all the same (``cgroup.freeze``)."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.freeze").write_text("1")

    @property
    def frozen(self) -> bool:
        """Whether it was told to stop."""
        try:
            return (self.path / "cgroup.freeze").read_text().strip() == "1"
        except OSError:
            return False

    def kill(self) -> None:
        """End every process inside at once (``cgroup.kill``, Linux 5.14)."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Kill what is left and remove the cgroup.

        Raises:
            HostagentError: processes inside do not end.
        """
        if not self.path.exists():
            return
        self.kill()
        until = time.monotonic() + _EMPTY_WAIT_S
        while self._populated() and time.monotonic() < until:
            time.sleep(0.002)
        try:
            for folder in self._folders():
                folder.rmdir()
        except OSError as error:
            raise HostagentError(f"cgroup {self.path} cannot be removed: {error.strerror}") from error

    def _populated(self) -> bool:
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except FileNotFoundError:
            return False

    def _folders(self) -> Iterator[Path]:
        """Yield the leaf and what is below it, deepest first."""
        for folder, _, _ in os.walk(self.path, topdown=False):
            yield Path(folder)
