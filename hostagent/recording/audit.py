"""Proof: re-hash the journals, the checkpoints, the witness and the sealed files; and make DuckDB anew from the journals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hostagent.journal import ChainState, Fault, FaultKind, Verifier, counted
from hostagent.recording import pruning
from hostagent.recording.keys import signed_by
from hostagent.recording.reader import regular, writers
from hostagent.recording.recorder import WITNESS, Recorder
from hostagent.recording.store import SEALED, Store, file_digest

_CHUNK = 8 * 1024 * 1024


class Witness(msgspec.Struct, frozen=True):
    """How far recorderd (another user than the writer) has seen a journal."""

    segment: int
    position: int
    seq: int
    head: str
    key: str
    host: str


@dataclass
class JournalReport:
    """What verifying one writer's journal found. ``pruned``: how many segments were removed, signed for."""

    writer: str
    segments: int = 0
    pruned: int = 0
    events: int = 0
    checkpoints: int = 0
    signed: bool = False
    last_checkpoint: int = 0
    faults: list[Fault] = field(default_factory=list)


@dataclass
class AuditReport:
    """Everything that was verified. ``files`` are problems of sealed files, one sentence each."""

    journals: list[JournalReport] = field(default_factory=list)
    sealed_files: int = 0
    files: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing at all was found."""
        return not self.files and not any(report.faults for report in self.journals)


def verify(journal: Path, evidence: Path | None) -> AuditReport:
    """Re-hash every journal under ``journal`` and, with ``evidence``, compare with the witness and check the sealed files."""
    witnesses = read_witness(evidence) if evidence is not None else {}
    report = AuditReport()
    for writer in sorted({*writers(journal), *witnesses}):
        report.journals.append(verify_journal(journal / writer, writer, witnesses.get(writer)))
    if evidence is not None:
        _verify_sealed(evidence, report)
    return report


def verify_journal(folder: Path, writer: str, witness: Witness | None = None) -> JournalReport:
    """Re-hash one writer's journal from its first line to its last."""
    report = JournalReport(writer)
    pruned, problem = pruning.read(folder, writer)
    if problem:
        report.faults.append(Fault(FaultKind.SIGNATURE, 0, 0, 0, problem))
    if pruned is not None and witness is not None and witness.key not in ("", pruned.key):
        report.faults.append(Fault(FaultKind.KEY, pruned.segment, 0, pruned.seq, "older segments were removed in the name of another key"))
    key = bytes.fromhex(witness.key) if witness is not None else bytes.fromhex(pruned.key) if pruned is not None else b""
    verifier = Verifier(writer, pruned.state if pruned is not None else None, key=key, verify=signed_by)
    report.pruned = len(pruned.removed) if pruned is not None else 0
    numbers = [number for number in pruning.segments(folder) if pruned is None or number >= pruned.segment]
    met = witness is None or not witness.position
    for number in numbers:
        report.segments += 1
        stop = witness.position if witness is not None and witness.segment == number else 0
        met = (
            _verify_segment(folder, number, verifier, report, witness if stop else None, last=number == numbers[-1])
            or met
        )
    if not met and witness is not None:
        report.faults.append(_rewound(witness, verifier.state))
    report.signed = bool(verifier.key)
    return report


def _verify_segment(
    folder: Path, number: int, verifier: Verifier, report: JournalReport, witness: Witness | None, *, last: bool
) -> bool:
    """Verify one segment; answers whether the witness's point was met in it, exactly as it was seen."""
    met = False
    offset = 0
    rest = b""
    for data in _pieces(folder / f"{number:08d}.journal", witness.position if witness is not None else 0):
        rest += data
        scan = verifier.scan(rest, number, offset, limit=len(rest) + 1)
        report.events += counted(scan.events)
        report.checkpoints += len(scan.checkpoints)
        report.faults += scan.faults
        if scan.checkpoints:
            report.last_checkpoint = scan.checkpoints[-1].count
        offset += scan.consumed
        rest = rest[scan.consumed :]
        if witness is not None and offset == witness.position:
            met = verifier.state == ChainState(witness.seq, bytes.fromhex(witness.head))
    torn = verifier.torn(rest, number, offset)
    if torn is not None and not last:
        report.faults.append(torn)
    return met


def _pieces(path: Path, stop: int) -> Iterator[bytes]:
    """Yield the file in pieces, one of which ends at byte ``stop``."""
    with open(path, "rb", opener=regular) as file:
        while file.tell() < stop and (data := file.read(min(_CHUNK, stop - file.tell()))):
            yield data
        while data := file.read(_CHUNK):
            yield data


def _rewound(witness: Witness, state: ChainState) -> Fault:
    detail = (
        f"recorderd has seen event {witness.seq} with hash {witness.head[:16]}… at this place; "
        f"the journal ends at event {state.seq} or tells another history"
    )
    return Fault(FaultKind.TRUNCATED, witness.segment, witness.position, witness.seq, detail)


def read_witness(evidence: Path) -> dict[str, Witness]:
    """Return what recorderd remembers of each writer; empty when it never ran."""
    try:
        text = (evidence / WITNESS).read_bytes()
    except FileNotFoundError:
        return {}
    return msgspec.json.decode(text, type=dict[str, Witness])


def _verify_sealed(evidence: Path, report: AuditReport) -> None:
    folder = evidence / SEALED
    for manifest in sorted(folder.glob("*/manifest.json")):
        entries = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        for entry in entries:
            path = manifest.parent / Path(str(entry["path"])).name
            report.sealed_files += 1
            if not path.exists():
                report.files.append(f"{path} is missing")
            elif file_digest(path) != entry["sha256"]:
                report.files.append(f"{path} was changed: its SHA-256 is not the one in its manifest")
    listed = {str(manifest.parent) for manifest in folder.glob("*/manifest.json")}
    report.files += [f"{place} has no manifest" for place in sorted(map(str, folder.glob("*"))) if place not in listed]


def rebuild(journal: Path, evidence: Path) -> int:
    """Make the databases and sealed files anew from the journals, publish them, remove the old ones. Returns the rows.

    Readers of the published database keep working throughout. What only the witness knows (a journal that was cut) is
    written down as tampering again.

    Raises:
        RecordingError: recorderd is running on this folder.
    """
    witnesses = read_witness(evidence)
    with Store(evidence, rebuilding=True) as store:
        rows = Recorder(journal, store).drain()
        for writer, witness in witnesses.items():
            found = [
                fault
                for fault in verify_journal(journal / writer, writer, witness).faults
                if fault.kind is FaultKind.TRUNCATED
            ]
            store.note_faults(writer, found)
        store.take_over()
    return rows
