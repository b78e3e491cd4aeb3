"""Retention: old segments go, and the chain stays provable.

Beside the segments that are kept lies ``pruned.json``: where the chain stood at their beginning, the SHA-256 of every segment that was
removed, signed with the journal's own key. Without that signature segments that are missing at the front are a fault, as ever.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from hostagent.journal import ChainState
from hostagent.journal.format import PAYLOAD_START, SegmentHeader
from hostagent.model.errors import HostagentError
from hostagent.recording.keys import signed_by

FILE = "pruned.json"
_FORMAT = 1


class PruningError(HostagentError):
    """Nothing was removed."""


class Removed(msgspec.Struct, frozen=True):
    """One segment that was removed: its number, the SHA-256 of its bytes, the number of its last event."""

    segment: int
    sha256: str
    last_seq: int


class Pruned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was removed: everything before ``segment``. ``seq`` and ``head`` are where the chain stood there; ``at`` is unix nanoseconds."""

    format: int
    writer: str
    segment: int
    seq: int
    head: str
    key: str
    at: int
    removed: list[Removed]
    signature: str = ""

    @property
    def state(self) -> ChainState:
        """Where the chain continues."""
        return ChainState(self.seq, bytes.fromhex(self.head))

    def text(self) -> bytes:
        """Return what the signature covers."""
        return b"hostagent journal pruned\n" + msgspec.json.encode(msgspec.structs.replace(self, signature=""))


def read(folder: Path, writer: str) -> tuple[Pruned | None, str]:
    """Return what was removed from a writer's ``folder`` (None: nothing), and what is wrong with that statement, empty if it holds."""
    try:
        found = msgspec.json.decode((folder / FILE).read_bytes(), type=Pruned)
        sound = found.format == _FORMAT and found.writer == writer and len(found.state.head) == 32
        good = sound and signed_by(bytes.fromhex(found.key), bytes.fromhex(found.signature), found.text())
    except FileNotFoundError:
        return None, ""
    except (ValueError, OSError) as error:
        return None, f"{folder / FILE}: cannot be read: {error}"
    return (found, "") if good else (None, f"{folder / FILE}: is not signed by the journal's key")


def removable(folder: Path, before: int, seen: int) -> list[int]:
    """Return the segments that hold nothing younger than ``before`` (unix nanoseconds), oldest first; never the one that is written.

    Args:
        folder: one writer's.
        before: when the next segment was begun, at the latest.
        seen: the segment that recorderd reads; it and later ones stay.
    """
    numbers = segments(folder)
    return [number for number, following in itertools.pairwise(numbers) if number < seen and header(folder, following).at <= before]


def prune(folder: Path, writer: str, numbers: list[int], *, at: int, sign: Callable[[bytes], bytes]) -> Pruned:
    """Remove the segments ``numbers`` (the oldest ones, verified by the caller) and return the signed statement about it.

    The statement is on disk before anything is removed; what a crash leaves over is removed by the next call.

    Raises:
        PruningError: the journal is not signed, or ``sign`` is not by its key.
    """
    kept = min(number for number in segments(folder) if number > max(numbers))
    first = header(folder, kept)
    earlier, problem = read(folder, writer)
    if problem:
        raise PruningError(problem)
    removed = list(earlier.removed) if earlier else []
    for number in numbers if earlier is None else [each for each in numbers if each >= earlier.segment]:
        with path_of(folder, number).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        following = min(each for each in segments(folder) if each > number)
        removed.append(Removed(number, digest, header(folder, following).seq))
    told = Pruned(_FORMAT, writer, kept, first.seq, first.previous, first.key, at, removed)
    told = msgspec.structs.replace(told, signature=sign(told.text()).hex())
    if not first.key or not signed_by(bytes.fromhex(first.key), bytes.fromhex(told.signature), told.text()):
        raise PruningError(f"{folder}: the key at hand is not the one that signs this journal; what is removed could not be proved")
    _write(folder, told)
    for number in numbers:
        path_of(folder, number).unlink()
    return told


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdecimal())


def header(folder: Path, number: int) -> SegmentHeader:
    """Return a segment's header.

    Raises:
        PruningError: it has none that can be read.
    """
    try:
        with path_of(folder, number).open("rb") as file:
            return msgspec.json.decode(file.readline()[PAYLOAD_START:], type=SegmentHeader)
    except (OSError, ValueError) as error:
        raise PruningError(f"{path_of(folder, number)}: {error}") from error


def path_of(folder: Path, number: int) -> Path:
    """Return a segment's path."""
    return folder / f"{number:08d}.journal"


def _write(folder: Path, told: Pruned) -> None:
    """Write the statement with the owner and mode of the segments beside it."""
    like = path_of(folder, told.segment).stat()
    fresh = folder / f".{FILE}.new"
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
        file.flush()
        os.fchown(file.fileno(), like.st_uid, like.st_gid)
        os.fchmod(file.fileno(), 0o640)
        os.fsync(file.fileno())
    fresh.rename(folder / FILE)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
