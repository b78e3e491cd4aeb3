"""One turn of ``recorderd``: read what is new, insert it, seal and publish when it is time. The caller owns the clock."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hostagent.recording import pruning
from hostagent.recording.ledger import Ledger
from hostagent.recording.metrics import Tally
from hostagent.recording.reader import Batch, JournalReader, Reading, writers
from hostagent.recording.store import Store

log = logging.getLogger(__name__)

WITNESS = "witness.json"
_BATCH = 25_000
_ROUNDS = 5
# So many events in a turn make the next one come later: under such a load (it takes most of what the sessions need) publishing less
# often is worth more than being a little less behind.
_MANY = 20_000
_LONGER = 1.5
# Long statements fill the live tables sooner than many.
_SEAL_BYTES = 48 * 1024 * 1024


class Turn(NamedTuple):
    """What one turn did. ``more``: there was more to read than one turn takes."""

    rows: int
    published: bool
    more: bool


class Recorder:
    """Reads all journals under ``journal`` into ``store``.

    ``interval`` seconds lie between two ingests (and publications) while events keep coming, half as many again while
    they come by tens of thousands; an event after a quiet time is taken at once. ``seal_rows`` (and a size) bounds the live tables, and with them the cost of publishing.
    """

    def __init__(
        self,
        journal: Path,
        store: Store,
        *,
        interval: float = 1.25,
        seal_rows: int = 100_000,
        wall_ns: Callable[[], int] = time.time_ns,
        tally: Tally | None = None,
    ) -> None:
        """Continue where the store's readings stand; ``tally`` counts what is read."""
        self._tally = tally
        if tally is not None and (last := store.last_verification()) is not None:
            tally.verified(last[0], passed=last[1])
        self.ledger = Ledger(store)
        self._wall_ns = wall_ns
        self._read_ns = 0
        self._journal = journal
        self._store = store
        self._interval = self._pause = interval
        self._seal_rows = seal_rows
        self._readers: dict[str, JournalReader] = {}
        self._known = store.readings()
        self._last = float("-inf")
        # Always once at the start: whoever ran before may have been killed between inserting and publishing.
        self._unpublished = True

    def turn(self, now: float) -> Turn:
        """Do what is due at ``now`` (monotonic seconds)."""
        self._find_writers()
        if now - self._last < self._pause:
            return Turn(0, published=False, more=False)
        rows, more, began = 0, False, self._wall_ns()
        if self._unpublished or self._pending():
            self._last = now
            rows, more = self._read()
            self._pause = self._interval * (_LONGER if rows >= _MANY else 1.0)
            if more:
                self._last = float("-inf")
        else:
            self._read_ns = began
        if not more and self.ledger.check(now, self._read_ns):
            self._unpublished = True
        if self._tally is not None:
            self._tally.stand(self._read_ns, self.ledger.unmatched)
        if self._unpublished:
            self._store.publish()
            self._unpublished = False
            return Turn(rows, published=True, more=more)
        return Turn(rows, published=False, more=more)

    def drain(self, enough: Callable[[], bool] = lambda: False) -> int:
        """Read and judge everything there is, or until it is ``enough``, without publishing; returns the rows."""
        self._find_writers()
        total = 0
        while True:
            rows, more = self._read()
            total += rows
            if not more:
                self.ledger.settle(self._read_ns)
                return total
            if enough():
                return total

    def _find_writers(self) -> None:
        for writer in writers(self._journal):
            if writer not in self._readers:
                reading = self._known.get(writer) or _beginning(self._journal / writer, writer)
                self._readers[writer] = JournalReader(self._journal / writer, reading)

    def _pending(self) -> bool:
        return any(reader.pending() for reader in self._readers.values())

    def _read(self) -> tuple[int, bool]:
        total = 0
        for _ in range(_ROUNDS):
            began = self._wall_ns()
            batches = [batch for writer in list(self._readers) if (batch := self._read_one(writer)) is not None]
            changed = [
                batch
                for batch in batches
                if batch.events or batch.faults or batch.reading != self._known.get(batch.reading.writer)
            ]
            if not changed:
                self._read_ns = began
                return total, False
            total += self._store.ingest(changed)
            if self._tally is not None:
                self._tally.count(changed)
            self._known |= {batch.reading.writer: batch.reading for batch in changed}
            self._witness()
            self._unpublished = True
            if self._store.live_rows >= self._seal_rows or self._store.live_bytes >= _SEAL_BYTES:
                self._store.seal()
            # What was appended while this ran can wait for the next turn: each insert has its fixed price.
            if not any(batch.full for batch in changed):
                self._read_ns = began
                return total, False
        return total, True

    def _read_one(self, writer: str) -> Batch | None:
        """One writer's folder that cannot be read must not keep the others from being recorded."""
        try:
            return self._readers[writer].read(_BATCH)
        except OSError as error:
            log.critical("the journal of %s cannot be read: %s", writer, error)
            # It may have gone on past events that nobody was given: the next turn begins where the last one was recorded.
            del self._readers[writer]
            return None

    def _witness(self) -> None:
        """Remember, outside the journal and outside DuckDB, how far each chain was seen; ``audit`` compares."""
        seen = {
            writer: {
                "segment": here.segment,
                "position": here.position,
                "seq": here.seq,
                "head": here.head.hex(),
                "key": here.key.hex(),
                "host": here.host,
            }
            for writer, here in self._known.items()
        }
        path = self._store.folder / WITNESS
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(json.dumps(seen, indent=1), encoding="utf-8")
        temporary.chmod(0o640)
        temporary.rename(path)


def _beginning(folder: Path, writer: str) -> Reading:
    """Return where a journal begins: at its first line, or where older segments were removed and that was signed."""
    pruned, _ = pruning.read(folder, writer)
    if pruned is None:
        return Reading(writer)
    return Reading(writer, segment=pruned.segment, seq=pruned.seq, head=pruned.state.head, key=bytes.fromhex(pruned.key))
