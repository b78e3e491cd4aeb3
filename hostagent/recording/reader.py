"""Follows one writer's journal folder: verified events and faults from where the last reading ended."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from hostagent.journal import ChainState, Fault, FaultKind, Verifier
from hostagent.journal.format import GENESIS, MAX_LINE
from hostagent.journal.verify import Accepted
from hostagent.recording.keys import signed_by

_CHUNK = 4 * 1024 * 1024
_BATCH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a writer's journal was read; stored beside the rows, in the same transaction.

    ``branch`` counts histories: it goes up each time the numbers went back (see ``Batch.events``).
    """

    writer: str
    branch: int = 0
    segment: int = 1
    position: int = 0
    seq: int = 0
    head: bytes = GENESIS
    key: bytes = b""
    host: str = ""


class Batch(NamedTuple):
    """Event lines in order, each with the branch it belongs to; the faults; and the reading after them.

    ``full``: it ended because it was large enough, not because there was nothing more.
    """

    events: list[tuple[int, Accepted]]
    faults: list[Fault]
    reading: Reading
    full: bool = False


@dataclass
class JournalReader:
    """Reads ``folder`` of one writer, from ``reading`` on.

    Guarantees: an event is returned once, in order, never before its line is whole; every break is a fault, and
    reading goes on behind it. Holds no descriptor between calls.
    """

    folder: Path
    reading: Reading
    _verifier: Verifier = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Set the verifier where the reading stands."""
        here = self.reading
        self._verifier = Verifier(
            here.writer, ChainState(here.seq, here.head), key=here.key, host=here.host, verify=signed_by
        )

    def pending(self) -> bool:
        """Answer whether ``read`` would find something, by one look at the file's size."""
        here = self.reading
        try:
            if self._path(here.segment).stat().st_size != here.position:
                return True
        except FileNotFoundError:
            pass
        return self._following() != 0

    def read(self, events: int) -> Batch:
        """Return up to about ``events`` lines of events (one chunk of the file at a time); an empty batch when there is nothing new.

        A batch ends early when its payloads reach ``_BATCH_BYTES``: few events can be as large as many.
        """
        found: list[tuple[int, Accepted]] = []
        faults: list[Fault] = []
        counted, size = 0, 0
        while self._read_chunk(found, faults, events - len(found)):
            size += sum([len(accepted.payload) for _, accepted in found[counted:]])
            counted = len(found)
            if counted >= events or size >= _BATCH_BYTES:
                return Batch(found, faults, self.reading, full=True)
        return Batch(found, faults, self.reading)

    def _read_chunk(self, found: list[tuple[int, Accepted]], faults: list[Fault], limit: int) -> bool:
        """Read one chunk; answers whether there may be more."""
        here = self.reading
        data = self._data(here, _CHUNK, faults)
        if data is None:
            return self._next_segment(b"", faults)
        if len(data) == _CHUNK and b"\n" not in data:
            data = self._data(here, MAX_LINE, faults) or b""
            limit = 1
        scan = self._verifier.scan(data, here.segment, self.reading.position, limit)
        faults += scan.faults
        branch, last = here.branch, here.seq
        if not scan.faults:  # then each number follows from the one before
            found += zip(repeat(branch), scan.events)
        else:
            for accepted in scan.events:
                if accepted.line.seq <= last:
                    branch += 1
                last = accepted.last
                found.append((branch, accepted))
        self._advance(branch, here.segment, self.reading.position + scan.consumed)
        if scan.consumed:
            return True
        return self._next_segment(data, faults)

    def _data(self, here: Reading, size: int, faults: list[Fault]) -> bytes | None:
        """Return what stands at the reading's position; None when the segment is not there."""
        try:
            with open(self._path(here.segment), "rb", buffering=0, opener=regular) as file:
                end = file.seek(0, 2)
                if end < here.position:
                    self._truncated(here, end, faults)
                file.seek(self.reading.position)
                return file.read(size)
        except FileNotFoundError:
            if here.position:
                self._truncated(here, 0, faults)
            return None

    def _truncated(self, here: Reading, end: int, faults: list[Fault]) -> None:
        detail = f"segment {here.segment} ends at byte {end}, but was already read to byte {here.position} (event {here.seq})"
        faults.append(Fault(FaultKind.TRUNCATED, here.segment, end, here.seq, detail))
        self._advance(here.branch, here.segment, end)

    def _next_segment(self, rest: bytes, faults: list[Fault]) -> bool:
        here = self.reading
        following = self._following()
        if not following:
            return False
        # The next segment exists, so this one is finished; what was written between the two looks is read first.
        data = self._data(here, _CHUNK, faults)
        if data is not None and len(data) > len(rest):
            return True
        torn = self._verifier.torn(rest, here.segment, here.position)
        if torn is not None:
            faults.append(torn)
        self._advance(here.branch, following, 0)
        return True

    def _following(self) -> int:
        later = [int(path.stem) for path in self.folder.glob("*.journal") if path.stem.isdecimal()]
        return min((number for number in later if number > self.reading.segment), default=0)

    def _advance(self, branch: int, segment: int, position: int) -> None:
        state = self._verifier.state
        self.reading = replace(
            self.reading,
            branch=branch,
            segment=segment,
            position=position,
            seq=state.seq,
            head=state.head,
            key=self._verifier.key,
            host=self._verifier.host,
        )

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:08d}.journal"


def regular(path: str, flags: int) -> int:
    """Open a segment: its writer owns the folder, and a pipe there would make whoever reads it wait for ever."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a segment of a journal is a regular file", str(path))
    return descriptor


def writers(journal: Path) -> list[str]:
    """Return the names of the writers under the journal's root: every sub-folder that holds a segment."""
    return sorted(folder.name for folder in journal.iterdir() if folder.is_dir() and any(folder.glob("*.journal")))
