"""The rim's ports: what the process around a floor provides. Fakes in tests implement the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hostagent.model.event import Event


class Journal(Protocol):
    """Append-only evidence."""

    def append(self, events: Sequence[Event]) -> None:
        """Append in order, all or nothing. On return the bytes survive the death of this process.

        Raises:
            JournalError: nothing may be forwarded.
        """
