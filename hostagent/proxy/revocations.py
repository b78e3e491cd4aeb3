"""Revoked workloads and tokens, kept on disk so that a restart forgets none."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hostagent.durable import write_whole
from hostagent.identity.validate import MAX_LIFETIME_S
from hostagent.model.errors import HostagentError, IdentityError

FILE_NAME = "revocations.json"
_GRACE_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Revocation:
    """Who revoked, why, and when (unix seconds)."""

    by: str
    reason: str
    at: float

    def __str__(self) -> str:
        """Return it as part of a sentence."""
        return f"revoked by {self.by or 'someone'}" + (f": {self.reason}" if self.reason else "")


class Revocations:
    """The list in memory and its file. A revocation counts at once, even if the disk then refuses it."""

    def __init__(self, folder: Path) -> None:
        """Read the list in ``folder``; no file means an empty list.

        Raises:
            IdentityError: the file is damaged. Starting without it would forgive everyone.
        """
        self._path = folder / FILE_NAME
        self.workloads: dict[str, Revocation] = {}
        self.tokens: dict[str, Revocation] = {}
        try:
            document = json.loads(self._path.read_bytes())
            for name, table in (("workloads", self.workloads), ("tokens", self.tokens)):
                for key, entry in document[name].items():
                    table[key] = Revocation(str(entry["by"]), str(entry["reason"]), float(entry["at"]))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IdentityError(f"{self._path}: the list of revocations cannot be read: {error}") from None

    def find(self, workload: str, token_id: str) -> Revocation | None:
        """Return why this workload, or this token of it, is revoked."""
        return self.workloads.get(workload) or self.tokens.get(token_id)

    def save(self, now: float) -> None:
        """Write the list. Tokens so long revoked that none can still be valid are left out.

        Raises:
            HostagentError: it counts now, but would be forgotten by a restart.
        """
        oldest = now - MAX_LIFETIME_S - _GRACE_S
        for token_id in [token_id for token_id, entry in self.tokens.items() if entry.at < oldest]:
            del self.tokens[token_id]
        document = {
            name: {key: asdict(entry) for key, entry in table.items()}
            for name, table in (("workloads", self.workloads), ("tokens", self.tokens))
        }
        try:
            write_whole(self._path, json.dumps(document, indent=1).encode())
        except OSError as error:
            raise HostagentError(
                f"done, but a restart will forget it, because {self._path} cannot be written: {error}"
            ) from None
