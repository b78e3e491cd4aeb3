"""A file on its way, whatever the protocol: counted, hashed and cut where a rule says so, as its bytes pass, once.

A protocol makes a ``Meter`` when a transfer begins, gives it each piece that goes on (``take``), and has the desk record it when it is
over (``Desk.moved``). Nothing is kept but the first bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from hostagent.model.errors import RemoteWireError
from hostagent.model.transfer import Direction, Transfer, TransferLimit
from hostagent.wire.magic import LOOKED_AT, detected

NAME_KEPT: Final = 1024
"""Most characters of a name that a record keeps."""


_A: Final = {Direction.UPLOAD: "an upload", Direction.DOWNLOAD: "a download"}


class LimitPassedError(RemoteWireError):
    """A transfer whose size nobody declared is longer than a rule lets pass. ``rule`` is its id."""

    def __init__(self, limit: TransferLimit, direction: Direction) -> None:
        """Say which rule and how much it lets pass."""
        super().__init__(f"rule {limit.rule} lets no more than {limit.size} bytes of {_A[direction]} pass", "42501")
        self.rule = limit.rule


class Meter:
    """One transfer under way.

    ``statement`` is the id of the one it belongs to, empty until that was recorded. ``masked``: what passes is not what was sent.
    ``least``: with no more bytes than that it was no transfer after all. ``told``: it was recorded. ``rules`` and ``policy`` let it pass.
    """

    __slots__ = (
        *("coding", "least", "limit", "masked", "name", "part", "policy", "rules", "size", "statement", "told", "transfer"),
        *("_beginning", "_hash", "_update"),
    )

    def __init__(
        self, transfer: Transfer, *, rules: tuple[str, ...], policy: str, limit: TransferLimit | None = None, coding: str = "", part: str = "", least: int = -1
    ) -> None:
        """Begin with nothing passed. ``coding`` and ``part`` are Content-Encoding and Content-Range, or the like."""
        self.transfer = transfer
        self.rules = rules
        self.policy = policy
        self.limit = limit
        self.coding = coding
        self.part = part
        self.least = least
        self.size = 0
        self.statement = ""
        self.masked = False
        self.told = False
        self._beginning = b""
        self._hash = sha256()
        self._update: Callable[[bytes], object] = self._hash.update

    def take(self, content: bytes) -> None:
        """Count and hash what is about to pass.

        Raises:
            LimitPassedError: it would be more than a rule lets pass; nothing was counted.
        """
        size = self.size + len(content)
        if self.limit is not None and size > self.limit.size:
            raise LimitPassedError(self.limit, self.transfer.direction)
        if len(self._beginning) < LOOKED_AT:
            self._beginning += content[: LOOKED_AT - len(self._beginning)]
        self.size = size
        self._update(content)

    @property
    def counts(self) -> bool:
        """Whether it was a transfer, and was not recorded yet."""
        return not self.told and self.size > self.least

    def fields(self, outcome: str, reason: str, scrub: Callable[[str], str]) -> dict[str, object]:
        """Return what is recorded of it: see the ``transfer`` row of ``hostagent.model.event``."""
        transfer = self.transfer
        passed = outcome != "denied"
        return {
            "statement": self.statement,
            "direction": transfer.direction.value,
            "name": _kept(", ".join(transfer.names or ()), scrub),
            "media_type": _kept(", ".join(transfer.media_types or ()), scrub),
            "detected_type": detected(self._beginning),
            "coding": _kept(self.coding, scrub),
            "part": _kept(self.part, scrub),
            "size": self.size,
            "declared_size": transfer.size,
            "sha256": self._hash.hexdigest() if passed else "",
            "masked": self.masked,
            "outcome": outcome,
            "reason": scrub(reason)[:NAME_KEPT],
            "rules": list(self.rules),
            "policy": self.policy,
        }


def _kept(text: str, scrub: Callable[[str], str]) -> str:
    """Return ``text`` as a record keeps it; what is cut off is left out with what stands near the cut, which may be a secret's half."""
    shown = scrub(text[: 2 * NAME_KEPT])
    return shown if len(shown) <= NAME_KEPT else shown[: NAME_KEPT - 1] + "…"
