"""Watches the published CA file: when it changes (``hostagent ca``), the workloads that run get it into their trust bundles."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hostagent.enforcer.confinement.plainpath import read_public
from hostagent.enforcer.confinement.trust import renew
from hostagent.enforcer.governed import Governed, Stage
from hostagent.enforcer.reporting.evidence import Evidence
from hostagent.model.errors import HostagentError

log = logging.getLogger(__name__)


class TrustWatch:
    """``tick`` looks (one stat); what was brought to the workloads is in ``report``."""

    def __init__(self, ca_file: str, evidence: Evidence, live: Callable[[], Iterable[Governed]]) -> None:
        """``live`` gives the leaves that exist; every one was started with the file that is there at the first ``tick``."""
        self._path = ca_file
        self._evidence = evidence
        self._live = live
        self._seen = (0, 0)
        self._authority = b""
        self._due: dict[str, str] = {}

    def report(self) -> dict[str, Any]:
        """Return ``ca`` (hex SHA-256 of the CA file that running workloads trust) and ``behind`` (leaf to reason: not these)."""
        return {"ca": hashlib.sha256(self._authority).hexdigest() if self._authority else "", "behind": dict(self._due)}

    def tick(self) -> None:
        """Look whether the file is another one, and bring it to every running workload if so. Never raises."""
        if self._changed():
            # A leaf that is being started may have read the file before: it gets it when it runs.
            self._due = {each.leaf.name: "not yet" for each in self._live()}
            self._evidence.service("trust", f"the CA file is now sha256 {self.report()['ca'][:16]}, for {len(self._due)} leaves")
        if self._due:
            self._renew()

    def _changed(self) -> bool:
        try:
            status = Path(self._path).stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._seen:
                return False
            authority = read_public(self._path)
        except (HostagentError, OSError):
            return False  # no proxy has been here yet; one that removes it changes nothing for those who run
        first, self._seen, self._authority = not self._authority, stamp, authority
        # Whoever runs already under an earlier enforcerd may have an older one.
        return not first or any(each.returned for each in self._live())

    def _renew(self) -> None:
        live = {each.leaf.name: each for each in self._live()}
        for name in list(self._due):
            each = live.get(name)
            if each is None:
                del self._due[name]
            elif each.stage is Stage.RUNNING and each.main_pid:
                self._renew_one(name, each.main_pid)

    def _renew_one(self, name: str, pid: int) -> None:
        try:
            renew(pid, self._authority)
            del self._due[name]
        except (HostagentError, OSError) as error:
            if self._due[name] != str(error):
                log.warning("leaf %s has not got the new CA: %s", name, error)
            self._due[name] = str(error)
