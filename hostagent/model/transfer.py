"""A file transfer: what of an operation, or of the answer to it, is a file on its way."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Direction(enum.StrEnum):
    """Which way a file goes, as the workload sees it."""

    UPLOAD = "upload"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Transfer:
    """What is known of a transfer before its first byte. None stands for what cannot be known yet.

    ``names`` are file names or object paths, ``media_types`` what the sender declares (small letters, without parameters); there are
    several where one body carries several files. ``size`` is in bytes, as declared. ``certain``: it is one; otherwise only its
    ``direction`` is set, and what comes will be judged once more when it is seen.
    """

    direction: Direction
    names: tuple[str, ...] | None = None
    media_types: tuple[str, ...] | None = None
    size: int | None = None
    certain: bool = True


MAYBE_DOWNLOAD = Transfer(Direction.DOWNLOAD, certain=False)
"""Of an operation whose answer may turn out to be a file."""


@dataclass(frozen=True, slots=True)
class TransferLimit:
    """No more than ``size`` bytes of a transfer pass whose size nobody declared, because of ``rule``."""

    rule: str
    size: int


def strictest(limits: list[TransferLimit]) -> TransferLimit | None:
    """Return the smallest of ``limits``, None if there are none."""
    return min(limits, key=lambda each: (each.size, each.rule), default=None)
