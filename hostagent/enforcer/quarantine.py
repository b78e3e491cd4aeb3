"""Workloads that must not run until somebody lets them again: kept in a file, so that no restart forgets one.

The file is root's alone. One that cannot be read counts as naming every workload: what was in it is not known.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.enforcer.settings import Settings
from hostagent.model.errors import HostagentError, NotPermittedError
from hostagent.model.event import EventKind

log = logging.getLogger(__name__)

_MODE = 0o600


@dataclass(frozen=True, slots=True)
class _Entry:
    """By whom (a unix user name), why, and when (unix seconds)."""

    by: str
    reason: str
    at: float


class Quarantine:
    """The list, in force from the beginning. ``problem`` says why the file cannot be read, empty when it can."""

    def __init__(
        self, settings: Settings, evidence: Evidence, live: Callable[[], list[Governed]], end: Callable[[Governed, str], None]
    ) -> None:
        """Read the list; ``end`` ends a leaf and gives the reason to its launcher."""
        self.problem = ""
        self._file = settings.quarantine_file
        self._workloads = settings.workloads
        self._evidence = evidence
        self._live = live
        self._end = end
        self._entries: dict[str, _Entry] = {}
        try:
            self._entries = _read(self._file)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self.problem = f"{self._file} cannot be read: {error}; mend it, or remove it to release every workload, and restart"
            log.critical("nothing will be launched: %s", self.problem)

    def check(self, workload: str) -> None:
        """Let a launch of ``workload`` pass.

        Raises:
            NotPermittedError: it is in quarantine, or nobody knows whether it is.
        """
        if self.problem:
            raise NotPermittedError(f"which workloads are in quarantine is not known: {self.problem}")
        entry = self._entries.get(workload)
        if entry is not None:
            because = f": {entry.reason}" if entry.reason else ""
            raise NotPermittedError(
                f"workload {workload} is in quarantine (by {entry.by}{because}); root can end that: hostagent release {workload}"
            )

    def impose(self, name: str, by: str, reason: str) -> list[str]:
        """End every leaf of the workload ``name`` (or of the workload whose leaf it is) and refuse its launches from now on.

        Returns the names of the leaves that were ended.

        Raises:
            HostagentError: no workload is called that; or it is ended and refused, but a restart would forget that.
        """
        workload = self._workload(name)
        self._entries[workload] = _Entry(by, reason, time.time())
        began = time.monotonic()
        running = [each for each in self._live() if each.workload.name == workload]
        for each in running:
            self._end(each, f"quarantined by {by}: {reason}" if reason else f"quarantined by {by}")
        self._record(workload, "quarantine", f"by {by}: {reason}", "killed" if running else "reported", began)
        self._write()
        return [each.leaf.name for each in running]

    def lift(self, name: str, by: str) -> None:
        """Let the workload ``name`` be launched again.

        Raises:
            HostagentError: it is not in quarantine; or it is released, but a restart would forget that.
        """
        if self.problem:
            raise HostagentError(self.problem)
        if name not in self._entries:
            raise HostagentError(f"{name} is not in quarantine")
        entry = self._entries.pop(name)
        began = time.monotonic()
        try:
            self._write()
        except HostagentError:
            self._entries[name] = entry
            raise
        self._record(name, "release", f"by {by}", "reported", began)

    def report(self) -> dict[str, Any]:
        """Return, by workload, ``by``, ``reason`` and ``at`` of each entry."""
        return {name: asdict(entry) for name, entry in sorted(self._entries.items())}

    def _workload(self, name: str) -> str:
        if self.problem:
            raise HostagentError(self.problem)
        for each in self._live():
            if name in (each.workload.name, each.leaf.name):
                return each.workload.name
        if name in self._workloads():
            return name
        raise HostagentError(f"no workload is called {name}")

    def _record(self, workload: str, finding: str, detail: str, action: str, began: float) -> None:
        fields: dict[str, object] = {"leaf": "", "finding": finding, "pid": 0, "start_ns": 0, "exe": "", "detail": detail}
        elapsed = int((time.monotonic() - began) * 1e6)
        self._evidence.note(EventKind.AUDIT, workload, fields | {"action": action, "elapsed_us": elapsed})

    def _write(self) -> None:
        """Replace the file in one step that survives a loss of power."""
        if not self._file:
            return
        file = Path(self._file)
        fresh = file.with_name(f"{file.name}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            with os.fdopen(descriptor, "w") as output:
                json.dump(self.report(), output, indent=2)
                output.flush()
                os.fsync(output.fileno())
            fresh.replace(file)
            folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise HostagentError(f"in force now, but a restart would forget it: {self._file}: {error.strerror}") from error


def _read(name: str) -> dict[str, _Entry]:
    try:
        content = json.loads(Path(name).read_text()) if name else {}
    except FileNotFoundError:
        return {}
    return {
        str(workload): _Entry(str(entry["by"]), str(entry["reason"]), float(entry["at"])) for workload, entry in content.items()
    }
