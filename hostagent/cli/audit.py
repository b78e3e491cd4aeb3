"""``hostagent audit``: prove the evidence, or make the databases anew from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostagent.model.errors import NotPermittedError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from hostagent.documents import Config
    from hostagent.recording.audit import AuditReport

_journal = click.option(
    "--journal", type=click.Path(path_type=Path), help="Journal folder. [default: the configuration's]"
)
_evidence = click.option(
    "--evidence", type=click.Path(path_type=Path), help="Evidence folder. [default: the configuration's]"
)


@click.group()
def audit() -> None:
    """Verify, rebuild, back up and restore the evidence."""


@audit.command("verify")
@_journal
@_evidence
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def verify_command(config_path: str | None, journal: Path | None, evidence: Path | None, as_json: bool) -> None:
    """Re-hash every journal, its signed checkpoints, what recorderd has seen of it, and the sealed files.

    Exit status 1 if anything does not hold; the first bad (writer, event) is named first.
    """
    from hostagent.recording.audit import verify

    journal, evidence = _places(config_path, journal, evidence)
    _become_owner(evidence)
    report = verify(journal, evidence if evidence.exists() else None)
    click.echo(_as_json(report) if as_json else _as_text(report))
    if not report.sound:
        raise SystemExit(1)


@audit.command("rebuild")
@_journal
@_evidence
@click.pass_obj
def rebuild_command(config_path: str | None, journal: Path | None, evidence: Path | None) -> None:
    """Make the databases and sealed files anew from the journals. Stop recorderd first; readers are not disturbed."""
    journal, evidence = _places(config_path, journal, evidence)
    _become_owner(evidence)
    click.echo(f"Reading {journal} …", err=True)
    _rebuild(journal, evidence)


@audit.command("backup")
@click.argument("place", type=click.Path(path_type=Path))
@_journal
@_evidence
@click.pass_obj
def backup_command(config_path: str | None, place: Path, journal: Path | None, evidence: Path | None) -> None:
    """Back the evidence up to PLACE: a new folder, or a new file that ends in .tar, .tar.gz or .tgz.

    The service may go on writing. Keep the hashes that are printed elsewhere: with them a shortened backup is found out, which
    no chain can do by itself. Signing keys, the CA's key and credentials are not in it.
    """
    import time

    from hostagent import __version__
    from hostagent.recording.backup import backup

    journal, evidence = _places(config_path, journal, evidence)
    manifest = backup(journal, evidence, place, now=int(time.time()), version=__version__)
    total = sum(int(entry["bytes"]) for entry in manifest["files"].values())
    click.echo(f"{place}: {len(manifest['files'])} files, {total:,} bytes.")
    for writer, head in manifest["journals"].items():
        click.echo(f"{writer}: {head['segments']} segments, last line {head['last']}")


@audit.command("restore")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@_journal
@_evidence
@click.option("--accept-breaks", is_flag=True, help="Also evidence that does not verify (it is as it was backed up).")
@click.pass_obj
def restore_command(config_path: str | None, source: Path, journal: Path | None, evidence: Path | None, accept_breaks: bool) -> None:
    """Put the backup SOURCE in the place of an empty journal and evidence, verified before. Stop the service first.

    The databases are then made anew from the journals. The next start continues the chains.
    """
    from hostagent.daemon.configfile import load_config
    from hostagent.recording.backup import restore

    config = load_config(config_path)
    named = journal is not None or evidence is not None
    journal, evidence = journal or Path(config.journal), evidence or Path(config.evidence)
    report = restore(source, journal, evidence, accept_breaks=accept_breaks, own=(lambda _: None) if named else lambda staged: _give_back(config, staged))
    click.echo(_as_text(report))
    if not report.sound and not accept_breaks:
        raise click.ClickException("nothing was restored; --accept-breaks restores it as it is")
    click.echo(f"Restored to {journal} and {evidence}. Making the databases anew …")
    _become_owner(evidence)
    _rebuild(journal, evidence)


@audit.command("prune")
@click.option("--before", type=click.DateTime(["%Y-%m-%d"]), required=True, help="Day (UTC); a segment goes if everything in it is older.")
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@click.pass_obj
def prune_command(config_path: str | None, before: dt.datetime, dry_run: bool) -> None:
    """Remove old journal segments so that what stays is still provable. Root only; the service may run. Back them up first.

    Each journal is verified before; one that does not hold keeps everything. What was removed (hashes, where the chain stood) is
    signed with the journal's key beside it, and `audit verify` starts there. Segments are 64 MiB, and the one that is being written
    stays. Their rows stay in the databases until `hostagent audit rebuild` (recorderd stopped).
    """
    import datetime as dt
    import os

    from hostagent.recording.audit import read_witness, verify_journal
    from hostagent.recording.pruning import prune, removable
    from hostagent.recording.reader import writers

    journal, evidence = _places(config_path, None, None)
    if os.geteuid() != 0:
        raise NotPermittedError("only root may do this: the journals and their keys are their writers'")
    witness = read_witness(evidence)
    until = int(before.replace(tzinfo=dt.UTC).timestamp() * 1e9)
    for writer in writers(journal):
        folder, seen = journal / writer, witness.get(writer)
        numbers = removable(folder, until, seen.segment if seen is not None else 0)
        faults = verify_journal(folder, writer, seen).faults if numbers else []
        if faults:
            raise click.ClickException(f"{writer} does not verify ({faults[0].detail}): nothing of it is removed")
        if numbers and not dry_run:
            prune(folder, writer, numbers, at=int(dt.datetime.now(dt.UTC).timestamp() * 1e9), sign=_signer(config_path, writer))
        click.echo(f"{writer}: {len(numbers)} segments {'would be' if dry_run else ''} removed".replace("  ", " "))


def _signer(config_path: str | None, writer: str) -> Callable[[bytes], bytes]:
    """Return what signs for ``writer``, with the key that it signs its checkpoints with."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from hostagent.daemon.configfile import load_config

    config = load_config(config_path)
    place = Path(config.paths.state, "enforcerd") if writer == "enforcerd" else Path(config.proxy_state)
    return Ed25519PrivateKey.from_private_bytes((place / "journal.key").read_bytes()).sign


def _give_back(config: Config, staged: Path) -> None:
    """Give the restored files in ``staged`` to those who write them, as if they had written them.

    While they lie where nobody but root can put anything: in its owner's folder a link could stand in a file's place.
    """
    import os

    from hostagent.daemon.up import prepare_folders

    prepare_folders(config)
    for name, top in (("journal", Path(config.journal)), ("evidence", Path(config.evidence))):
        for path in sorted((staged / name).rglob("*")):
            writer = top / path.relative_to(staged / name).parts[0]
            owner = (writer if name == "journal" and writer.is_dir() else top).lstat()
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
            path.chmod(0o750 if path.is_dir() else 0o640)


def _rebuild(journal: Path, evidence: Path) -> None:
    from hostagent.recording.audit import rebuild

    click.echo(f"{rebuild(journal, evidence)} events recorded anew in {evidence}")


def _places(config_path: str | None, journal: Path | None, evidence: Path | None) -> tuple[Path, Path]:
    from hostagent.daemon.configfile import load_config

    config = load_config(config_path)
    journal, evidence = journal or Path(config.journal), evidence or Path(config.evidence)
    if not journal.is_dir():
        raise click.ClickException(f"{journal} does not exist: nothing was ever recorded there")
    return journal, evidence


def _become_owner(evidence: Path) -> None:
    """As root: go on as the user who owns the evidence, so that no file of it changes hands."""
    import os

    if os.geteuid() != 0 or not evidence.exists():
        return
    owner = evidence.stat()
    if owner.st_uid:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def _as_json(report: AuditReport) -> str:
    import dataclasses
    import json

    found = dataclasses.asdict(report)
    for journal, entry in zip(report.journals, found["journals"], strict=True):
        entry["faults"] = [fault._asdict() for fault in journal.faults]
    return json.dumps({"sound": report.sound, **found}, indent=2)


def _as_text(report: AuditReport) -> str:
    from hostagent.cli.terminal import printable

    lines = []
    for journal in report.journals:
        signed = f"{journal.checkpoints} signed checkpoints" if journal.signed else "NOT SIGNED"
        signed += f", {journal.pruned} older segments removed" if journal.pruned else ""
        state = "sound" if not journal.faults else f"{len(journal.faults)} BREAKS"
        lines.append(
            f"{journal.writer}: {journal.events} events in {journal.segments} segments, {signed} (last at event {journal.last_checkpoint}): {state}"
        )
        lines += [
            f"  BAD ({journal.writer}, {fault.seq}) {fault.kind} in segment {fault.segment} at byte {fault.offset}: {printable(fault.detail)}"
            for fault in journal.faults[:100]
        ]
    lines.append(
        f"{report.sealed_files} sealed files: " + ("sound" if not report.files else f"{len(report.files)} problems")
    )
    lines += [f"  BAD {printable(problem)}" for problem in report.files]
    lines.append("The evidence holds." if report.sound else "The evidence does NOT hold.")
    return "\n".join(lines)
