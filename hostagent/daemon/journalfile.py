"""The journal's files: one writer's append-only segments, and what happens when the disk says no.

Durability, stated: when ``append`` returns, the bytes are the kernel's and survive the death of this process at any
instant (``kill -9`` included). They are forced to the disk by a background thread within 50 ms and the time of one
``fdatasync``; a power loss may lose that much.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hostagent.journal import FORMAT_VERSION, Chain, ChainState, Verifier, events_in
from hostagent.journal.format import HASH_END
from hostagent.model.errors import JournalError
from hostagent.model.event import Event, EventKind

log = logging.getLogger(__name__)

_SYNC_S = 0.04
_IDLE_S = 1.0
_FULL_RETRY_S = 1.0
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# What may still be written into the reserved space of a full disk: how things ended, never that something begins.
_CLOSING = frozenset({EventKind.CLOSE, EventKind.EXIT, EventKind.GAP, EventKind.SERVICE})
_RESERVE = "reserve"


class JournalFile:
    """One writer's journal: implements ``hostagent.model.ports.Journal``. Thread-safe, synchronous, no event loop.

    ``written`` are the bytes that this process has appended.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        writer: str,
        *,
        key_file: str | os.PathLike[str] | None = None,
        host: str = "",
        clock: Callable[[], int] = time.time_ns,
        segment_bytes: int = 64 * 1024 * 1024,
        reserve_bytes: int = 256 * 1024,
        checkpoint_events: int = 1000,
        checkpoint_s: float = 10.0,
    ) -> None:
        """Open ``directory`` (made if missing) as the one writer named ``writer``, and continue its chain.

        ``key_file`` holds the raw Ed25519 private key, made (mode 0600) if missing; without it checkpoints are
        unsigned. ``clock`` returns unix nanoseconds.

        Raises:
            JournalError: another process writes here, or the folder cannot be used.
        """
        self._folder = Path(directory)
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._checkpoint_events = checkpoint_events
        self._checkpoint_s = checkpoint_s
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._broken = ""
        self._full_since = 0.0
        self._refused = 0
        self.written = 0
        self._fd = self._guard = -1
        try:
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._guard = self._only_writer()
            self._key = _load_key(Path(key_file)) if key_file is not None else None
            self._chain = Chain(writer, host or host_id())
            self._open()
            self._make_reserve()
        except (OSError, JournalError) as error:
            for descriptor in (self._fd, self._guard):
                if descriptor >= 0:
                    os.close(descriptor)
            raise JournalError(f"the journal at {self._folder} cannot be opened: {error}") from error
        self._keeper = threading.Thread(target=self._keep, name=f"journal-{writer}", daemon=True)
        self._keeper.start()

    @property
    def state(self) -> ChainState:
        """Where the chain stands."""
        return self._chain.state

    @property
    def free(self) -> int:
        """How many bytes of the disk are free for it; 0 if nobody can say."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def append(self, events: Sequence[Event]) -> None:
        """Append ``events`` with one write; see the module for what a return guarantees.

        When it raises, nothing may be forwarded. Whole lines that reached the file before the disk ended stay there
        (a reader may have seen them already): the journal may then name an operation that did not run, never the
        reverse.

        Raises:
            JournalError: not written, or not wholly; on a full disk every further call fails too, except for events
                that say how something ended, until there is space again.
        """
        with self._lock:
            if self._broken or self._full_since:
                self._admit(events)
            before = self._chain.state
            self._write(self._chain.frame(events), before)
            self._uncheckpointed += len(events)
            if self._uncheckpointed >= self._checkpoint_events:
                self._checkpoint()
            if self._size >= self._segment_bytes:
                self._rotate()
        if not self._dirty.is_set():
            self._dirty.set()

    def close(self) -> None:
        """Write a closing checkpoint, force everything to disk, and let go. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._dirty.set()
        self._keeper.join()
        with self._lock, self._sync_lock:
            try:
                if not self._broken:
                    self._checkpoint(closed=True)
                os.fdatasync(self._fd)
            except (JournalError, OSError) as error:
                log.warning("journal %s was closed without its last checkpoint: %s", self._folder, error)
            os.close(self._fd)
            os.close(self._guard)
            self._broken = "it is closed"

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def _admit(self, events: Sequence[Event]) -> None:
        if self._broken:
            raise JournalError(f"the journal at {self._folder} takes no more events: {self._broken}")
        if not self._full_since:
            return
        if time.monotonic() - self._full_since >= _FULL_RETRY_S and self._recovered():
            return
        if not all(event.kind in _CLOSING for event in events):
            self._refused += len(events)
            raise JournalError(
                f"the disk of {self._folder} is full: free space, or no governed operation can be recorded"
            )

    def _write(self, data: bytes, before: ChainState) -> None:
        """Append ``data`` whole, or put chain and file back to the last whole line and raise."""
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._chain.back_to(before)
            self._fail(error)
            raise JournalError(f"the journal at {self._folder} cannot be written: {error}") from error
        if written == len(data):
            self._size += written
            self.written += written
            return
        self._keep_whole_lines(data[:written], before)
        self._fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        raise JournalError(f"the journal at {self._folder} took {written} of {len(data)} bytes")

    def _keep_whole_lines(self, written: bytes, before: ChainState) -> None:
        end = written.rfind(b"\n") + 1
        state = before
        if end:
            lines = written[:end].splitlines()
            head = bytes.fromhex(lines[-1][2:HASH_END].decode("ascii"))
            state = ChainState(before.seq + sum(events_in(line) for line in lines), head)
        try:
            os.ftruncate(self._fd, self._size + end)
        except OSError as error:
            self._broken = f"a torn line could not be cut: {error}"
        self._size += end
        self._chain.back_to(state)

    def _fail(self, error: OSError) -> None:
        """Remember what kind of failure this was: a full disk may end, anything else does not."""
        if error.errno in _NO_SPACE:
            if not self._full_since:
                log.critical("the disk of %s is full: governed sessions end", self._folder)
                (self._folder / _RESERVE).unlink(missing_ok=True)
            self._full_since = time.monotonic()
        else:
            log.critical("the journal at %s failed: %s", self._folder, error)
            self._broken = str(error)

    def _recovered(self) -> bool:
        """Take the reserve back; if there is space for it, write down what was refused and go on."""
        try:
            self._make_reserve()
        except OSError:
            self._full_since = time.monotonic()
            return False
        refused, self._refused, self._full_since = self._refused, 0, 0.0
        log.warning("the disk of %s has space again; %d events were refused", self._folder, refused)
        self._event(
            Event(EventKind.GAP, self._clock(), "", "", {"reason": "disk full: events refused", "count": refused})
        )
        return True

    def _event(self, event: Event) -> None:
        before = self._chain.state
        self._write(self._chain.frame([event]), before)
        self._uncheckpointed += 1

    def _checkpoint(self, *, closed: bool = False) -> None:
        before = self._chain.state
        sign = self._key.sign if self._key is not None else None
        self._write(self._chain.checkpoint(self._clock(), sign, closed=closed), before)
        self._uncheckpointed = 0
        self._checkpointed_at = time.monotonic()

    # -- segments -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Verify the last segment, cut a torn line, and continue there; or start the next one."""
        self._uncheckpointed = 0
        self._checkpointed_at = time.monotonic()
        numbers = segment_numbers(self._folder)
        while numbers and not _has_line(self._path(numbers[-1])):
            # Killed while a segment was being started: it holds no whole line, so nothing in it was acknowledged.
            self._path(numbers.pop()).unlink()
        if not numbers:
            self._start_segment(1)
            return
        self._segment = numbers[-1]
        data = self._path(self._segment).read_bytes()
        verifier = Verifier(self._chain.writer, _state_before(data))
        scan = verifier.scan(data, self._segment, 0, limit=len(data))
        self._chain.state = verifier.state
        torn = len(data) - scan.consumed
        if scan.faults:
            fault = scan.faults[0]
            log.critical("journal %s segment %d: %s", self._folder, self._segment, fault.detail)
            self._start_segment(self._segment + 1)
            self._gap(
                f"segment {fault.segment} does not verify at byte {fault.offset}: {fault.detail}", len(scan.faults)
            )
            return
        self._fd = self._descriptor(self._segment)
        self._size = scan.consumed
        if torn:
            os.ftruncate(self._fd, scan.consumed)
            self._gap(
                f"a torn last line of {torn} bytes was cut after event {verifier.state.seq}; it was never acknowledged",
                0,
            )
        if self._size >= self._segment_bytes or verifier.format != FORMAT_VERSION:
            self._rotate()

    def _gap(self, reason: str, count: int) -> None:
        self._event(Event(EventKind.GAP, self._clock(), "", "", {"reason": reason, "count": count}))

    def _start_segment(self, number: int) -> None:
        fd = self._descriptor(number, os.O_EXCL)
        before = self._chain.state
        previous, self._fd, size, self._size = self._fd, fd, getattr(self, "_size", 0), 0
        try:
            key = self._key.public_key().public_bytes_raw() if self._key is not None else b""
            self._write(self._chain.header(number, self._clock(), key), before)
        except JournalError:
            self._fd, self._size = previous, size
            os.close(fd)
            self._path(number).unlink(missing_ok=True)
            raise
        self._segment = number
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rotate(self) -> None:
        """Close this segment with a checkpoint and start the next. A full disk postpones it."""
        try:
            self._checkpoint()
            finished = self._fd
            self._start_segment(self._segment + 1)
        except JournalError as error:
            log.warning("journal %s: the next segment cannot be started yet: %s", self._folder, error)
            return
        with self._sync_lock:
            try:
                os.fdatasync(finished)
            except OSError as error:
                self._fail(OSError(errno.EIO, f"fdatasync: {error}"))
                raise JournalError(f"the journal at {self._folder} could not be forced to disk: {error}") from error
            finally:
                os.close(finished)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.journal"

    def _descriptor(self, number: int, extra: int = 0) -> int:
        fd = os.open(self._path(number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | extra, 0o640)
        os.fchmod(fd, 0o640)
        return fd

    def _only_writer(self) -> int:
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise JournalError(f"another process writes the journal at {self._folder}") from None
        return fd

    def _make_reserve(self) -> None:
        path = self._folder / _RESERVE
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._reserve_bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    # -- the background thread ----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Force to disk what was written, at most 40 ms after it was; sign a checkpoint when one is due."""
        while not self._closing.is_set():
            if self._dirty.wait(_IDLE_S):
                self._closing.wait(_SYNC_S)
                self._dirty.clear()
                self._sync()
            self._checkpoint_if_due()

    def _sync(self) -> None:
        with self._sync_lock:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                # The kernel reports a lost write once only: what was acknowledged can no longer be relied on.
                self._broken = f"fdatasync: {error}"
                log.critical("the journal at %s failed: %s", self._folder, error)

    def _checkpoint_if_due(self) -> None:
        with self._lock:
            due = self._uncheckpointed and time.monotonic() - self._checkpointed_at >= self._checkpoint_s
            if not due or self._broken or self._full_since:
                return
            try:
                self._checkpoint()
            except JournalError as error:
                log.warning("no checkpoint: %s", error)


def segment_numbers(folder: Path) -> list[int]:
    """Return the numbers of the segments in ``folder``, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdecimal())


def host_id() -> str:
    """Return a stable name for this host: a hash of the machine id (which itself is not for publishing), or its name."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    if not machine:
        return socket.gethostname()
    return hashlib.sha256(b"hostagent journal host " + machine.encode()).hexdigest()[:32]


def _has_line(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _state_before(data: bytes) -> ChainState:
    """Return the chain's state before a segment, as its header states it (the readers verify that it is true)."""
    import msgspec

    from hostagent.journal.format import PAYLOAD_START, SegmentHeader

    try:
        header = msgspec.json.decode(data[PAYLOAD_START : data.index(b"\n")], type=SegmentHeader)
        return ChainState(header.seq, bytes.fromhex(header.previous))
    except ValueError:
        return ChainState()


def _load_key(path: Path) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise JournalError(f"{path} is not a journal key: {error}") from error
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(key.private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return key
