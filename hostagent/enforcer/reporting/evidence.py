"""enforcerd's own lines of history."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from hostagent.enforcer.governed import Governed
from hostagent.enforcer.reporting.redaction import redact
from hostagent.ipc import Admitted
from hostagent.model.errors import JournalError
from hostagent.model.event import Event, EventKind
from hostagent.model.ports import Journal

log = logging.getLogger(__name__)

_IDENTITY_FIELDS = ("issuer", "subject", "groups", "purpose", "claims", "token_id")


class Evidence:
    """Writes events. ``failed`` holds why the last one could not be written, empty when it could."""

    def __init__(self, journal: Journal) -> None:
        """Write to ``journal``."""
        self._journal = journal
        self.failed = ""

    def admission(self, governed: Governed, answer: Admitted) -> None:
        """Record the proxy's answer.

        Raises:
            JournalError: nothing may be started.
        """
        fields: dict[str, object] = {
            "leaf": governed.leaf.name,
            "outcome": "admitted" if answer.admitted else "refused",
            "reason": answer.reason,
            "launcher": governed.launcher,
            "placement": governed.workload.placement.value,
            "expires_at": answer.expires_at,
        }
        fields |= {key: answer.identity.get(key, "") for key in _IDENTITY_FIELDS}
        self._append(EventKind.ADMISSION, governed.workload.name, fields)

    def refused(self, workload: str, launcher: str, leaf: str, reason: str) -> None:
        """Record a launch that was refused before or after the proxy was asked. Never raises: nothing was started."""
        fields: dict[str, object] = {"leaf": leaf, "outcome": "refused", "reason": reason, "launcher": launcher}
        self.note(EventKind.ADMISSION, workload, fields)

    def launch(self, governed: Governed) -> None:
        """Record that the program runs.

        Raises:
            JournalError: it must be ended.
        """
        fields: dict[str, object] = {
            "leaf": governed.leaf.name,
            "pid": governed.main_pid,
            "start_ticks": governed.start_ticks,
            "exe": governed.executable,
            "argv": redact(governed.request.argv),
            "uid": governed.account.uid,
            "degraded": False,
        }
        self._append(EventKind.LAUNCH, governed.workload.name, fields)

    def exit(self, governed: Governed) -> None:
        """Record the end of a program that ran."""
        fields: dict[str, object] = {"leaf": governed.leaf.name, "pid": governed.main_pid, "status": governed.status}
        if governed.reason:
            fields["reason"] = governed.reason
        self.note(EventKind.EXIT, governed.workload.name, fields)

    def service(self, change: str, detail: str) -> None:
        """Record a change of enforcerd itself."""
        self.note(EventKind.SERVICE, "", {"component": "enforcerd", "change": change, "version": "", "detail": detail})

    def note(self, kind: EventKind, workload: str, fields: dict[str, object]) -> None:
        """Append an event about something that has happened already; a failure is kept in ``failed`` and logged."""
        try:
            self._append(kind, workload, fields)
        except JournalError as error:
            log.critical("evidence cannot be written, no workload will be started: %s", error)

    def note_all(self, events: Sequence[Event]) -> None:
        """As ``note``, for many at once."""
        try:
            self._journal.append(events)
            self.failed = ""
        except JournalError as error:
            self.failed = str(error)
            log.critical("evidence cannot be written, no workload will be started: %s", error)

    def _append(self, kind: EventKind, workload: str, fields: dict[str, object]) -> None:
        try:
            self._journal.append([Event(kind, time.time_ns(), "", workload, fields)])
        except JournalError as error:
            self.failed = str(error)
            raise
        self.failed = ""
