"""Back-up of the evidence while the service writes, and its restore.

What a backup holds::

    manifest.json                    what is here: SHA-256 and size of each file, and where each chain stands
    evidence/witness.json            how far recorderd had seen each journal
    evidence/sessions.duckdb         the published database
    evidence/sealed/<n>/…            Parquet files with their own manifests
    journal/<writer>/*.journal       whole lines only, with the signed checkpoints among them

The order makes it consistent: whatever speaks about the journals is copied before them, and they only grow; so no witness, database or
sealed file of a backup knows more than its journals. Databases can be made anew from the journals alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from hostagent.recording import pruning
from hostagent.recording.audit import AuditReport, verify
from hostagent.recording.reader import writers
from hostagent.recording.recorder import WITNESS
from hostagent.recording.store import PUBLISHED, SEALED, RecordingError

MANIFEST = "manifest.json"
_FORMAT = 1
_CHUNK = 4 * 1024 * 1024
_LAST_LINE = 16 * 1024 * 1024
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


class _Sink(Protocol):
    """Where files of a backup go."""

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        """Take ``size`` bytes of ``source`` under the relative path ``name``."""


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        path = self._folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            while size and (data := source.read(min(size, _CHUNK))):
                file.write(data)
                size -= len(data)
            file.flush()
            os.fsync(file.fileno())


class _Archive:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, name: str, source: IO[bytes], size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        self._archive.addfile(entry, source)


class _Hashing(io.RawIOBase):
    """Reads at most ``size`` bytes of a file and digests what passes; a file that got shorter is an error."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left, self.digest = file, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        if not data and self._left and size:
            raise RecordingError(f"{getattr(self._file, 'name', 'a file')} became shorter while it was copied")
        self._left -= len(data)
        self.digest.update(data)
        return data


def backup(journal: Path, evidence: Path, place: Path, *, now: int, version: str) -> dict[str, Any]:
    """Write a backup to ``place`` (a new folder, or a new file that ends in .tar, .tar.gz or .tgz) and return its manifest.

    Nothing is there under that name before it is whole. ``now`` is unix seconds.

    Raises:
        RecordingError: ``place`` exists, or a journal is damaged beyond finding its last line.
        OSError: reading or writing failed; nothing is left behind.
    """
    if os.path.lexists(place):
        raise RecordingError(f"{place} exists; a backup never writes over anything")
    draft = place.with_name(f".{place.name}.partial")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        shutil.rmtree(draft)
    draft.unlink(missing_ok=True)
    try:
        with _sink(draft, place.name) as sink:
            manifest = _copy_all(journal, evidence, sink, now, version)
        draft.rename(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    return manifest


@contextlib.contextmanager
def _sink(draft: Path, name: str) -> Iterator[_Sink]:
    if not name.endswith(_ARCHIVES):
        draft.mkdir(mode=0o700)
        yield _Folder(draft)
        return
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w|" if name.endswith(".tar") else "w|gz") as archive:
            yield _Archive(archive)
        file.flush()
        os.fsync(file.fileno())


def _copy_all(journal: Path, evidence: Path, sink: _Sink, now: int, version: str) -> dict[str, Any]:
    files: dict[str, dict[str, object]] = {}

    tops = {"journal": journal.resolve(), "evidence": evidence.resolve()}

    def copy(name: str, path: Path, size: int | None = None) -> None:
        top, _, below = name.partition("/")
        with _open_in_place(tops[top] / below, path) as file:
            length = os.fstat(file.fileno()).st_size if size is None else size
            source = _Hashing(file, length)
            sink.add(name, source, length)  # type: ignore[arg-type]  # a reader is all that is needed
            files[name] = {"sha256": source.digest.hexdigest(), "bytes": length}

    for name in (WITNESS, PUBLISHED):
        if (evidence / name).exists():
            copy(f"evidence/{name}", evidence / name)
    for manifest in sorted((evidence / SEALED).glob("*/manifest.json")):
        for path in sorted(manifest.parent.iterdir()):
            copy(f"evidence/{SEALED}/{manifest.parent.name}/{path.name}", path)
    heads = {}
    for writer in writers(journal):
        segments = sorted((journal / writer).glob("[0-9]*.journal"))
        if (journal / writer / pruning.FILE).exists():
            copy(f"journal/{writer}/{pruning.FILE}", journal / writer / pruning.FILE)
        last = ""
        for path in segments:
            with _open_in_place(tops["journal"] / writer / path.name, path) as file:
                size = _whole_lines(file, path)
                last = _last_line(file, size) or last
            copy(f"journal/{writer}/{path.name}", path, size)
        heads[writer] = {"segments": len(segments), "last": last}
    document = {"format": _FORMAT, "made_at": now, "version": version, "journals": heads, "files": files}
    text = json.dumps(document, indent=1).encode()
    sink.add(MANIFEST, io.BytesIO(text), len(text))
    return document


def _open_in_place(place: Path, path: Path) -> IO[bytes]:
    """Open ``path`` if it is the regular file at ``place`` itself: its writer owns the folder, and root's eyes are lent to nobody.

    Raises:
        RecordingError: it is a pipe, a device, or a link on the way leads elsewhere.
    """
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be copied: {error.strerror}") from error
    file = os.fdopen(descriptor, "rb")
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and Path(f"/proc/self/fd/{descriptor}").readlink() == place:
        return file
    file.close()
    raise RecordingError(f"{path}: is not a regular file in its own folder; nothing is copied through links")


def _whole_lines(file: IO[bytes], path: Path) -> int:
    """Return how many bytes of a segment are whole lines now; what is appended later belongs to the next backup."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _LAST_LINE)
    file.seek(start)
    end = file.read(size - start).rfind(b"\n") + 1
    if not end and start:
        raise RecordingError(f"{path}: has no line's end in its last {_LAST_LINE} bytes")
    return start + end


def _last_line(file: IO[bytes], size: int) -> str:
    """Return the hash of the last line before byte ``size``: where the chain stood, for whoever keeps it elsewhere."""
    file.seek(max(0, size - _LAST_LINE))
    lines = file.read(size - file.tell()).splitlines()
    return lines[-1][2:66].decode("ascii", "replace") if lines else ""


# -- restore ---------------------------------------------------------------------------------------------------------------


def unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Unpack a backup into the new ``folder``, compare every file with its manifest, and return the manifest.

    Raises:
        RecordingError: a file is missing, changed, or none of the backup's; or it is no backup.
    """
    folder.mkdir(mode=0o700)
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
    else:
        try:
            with tarfile.open(source) as archive:
                _extract(archive, folder)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise RecordingError(f"{source}: is no backup, or is damaged: {error}") from error
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        digests = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordingError(f"{source}: has no manifest that can be read: {error!r}") from error
    found = _plain_files(folder) - {MANIFEST}
    for name in sorted(found ^ set(digests)):
        raise RecordingError(f"{source}: {name} is {'missing' if name in digests else 'not in the manifest'}")
    for name, digest in digests.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise RecordingError(f"{source}: {name} is not what was backed up: its SHA-256 differs")
    return dict(manifest)


def _plain_files(folder: Path) -> set[str]:
    """Return the relative paths of the files below ``folder``.

    Raises:
        RecordingError: something there is neither a folder nor a regular file: a link would lead restoring astray.
    """
    found = set()
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            name = str(path.relative_to(folder))
            if not stat.S_ISREG(mode):
                raise RecordingError(f"{name}: no backup holds such an entry")
            found.add(name)
    return found


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack plain files alone, each below ``folder``; owners and modes of the archive do not count."""
    sink = _Folder(folder)
    for entry in archive:
        if not entry.isfile() or entry.name.startswith("/") or ".." in entry.name.split("/"):
            raise RecordingError(f"{entry.name}: no backup holds such an entry")
        content = archive.extractfile(entry)
        assert content is not None
        sink.add(entry.name, content, entry.size)


def restore(source: Path, journal: Path, evidence: Path, *, accept_breaks: bool, own: Callable[[Path], None]) -> AuditReport:
    """Put a backup in the place of an empty journal and evidence; return what verifying it found *before* it was put there.

    Args:
        source: a backup.
        journal: the journal folder; no writer may have a segment in it.
        evidence: the evidence folder; neither database nor sealed files may be in it.
        accept_breaks: whether evidence that does not verify is put in place too (it may have been so when it was backed up).
        own: called with the folder that holds both, before anything of it is in place: gives folders and files to their owners.

    Raises:
        RecordingError: the service runs, something is there already, or the backup does not hold.
    """
    _nothing_there(journal, evidence)
    staged = journal.parent / f".restore-{os.getpid()}"
    try:
        with _nobody_writes(journal, evidence):
            unpack(source, staged)
            for name in ("journal", "evidence"):
                (staged / name).mkdir(exist_ok=True)
            report = verify(staged / "journal", staged / "evidence")
            if report.sound or accept_breaks:
                own(staged)
                _move_into(staged / "journal", journal, deeper=True)
                _move_into(staged / "evidence", evidence, deeper=False)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return report


def _nothing_there(journal: Path, evidence: Path) -> None:
    present = [*journal.glob("*/*.journal"), *(evidence / SEALED).glob("*"), *evidence.glob(PUBLISHED)]
    if present:
        raise RecordingError(f"{present[0]} is there: evidence is never written over; move {journal} and {evidence} away first")


@contextlib.contextmanager
def _nobody_writes(journal: Path, evidence: Path) -> Iterator[None]:
    """Hold the locks of the writers and of recorderd."""
    with contextlib.ExitStack() as held:
        for path in (*journal.glob("*/lock"), *evidence.glob(".lock")):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RecordingError(f"the service runs ({path} is locked): stop it first") from None
        yield


def _move_into(staged: Path, place: Path, *, deeper: bool) -> None:
    """Move what is in ``staged`` to ``place`` by renames; ``deeper``: folders that are there stay, and get what is in theirs.

    No link is followed: a rename replaces one, or fails. ``place`` must lie in a folder of root's, and with ``deeper`` be one.
    """
    place.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in sorted(staged.iterdir()):
        target = place / path.name
        if deeper and path.is_dir() and target.is_dir() and not target.is_symlink():
            _move_into(path, target, deeper=False)
        else:
            path.rename(target)
