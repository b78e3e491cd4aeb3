"""What the commands that write documents have in common: check first, put in place, say what was written and what comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from hostagent.cli.exits import EXISTS, WRONG_DOCUMENT, Stop
from hostagent.model.errors import DocumentError

_Function = TypeVar("_Function", bound=Callable[..., object])


def writes(function: _Function) -> _Function:
    """Add the options of a command that writes a document: --dry-run and --force."""
    force = click.option("--force", is_flag=True, help="Replace the document if there is one.")
    dry_run = click.option("--dry-run", is_flag=True, help="Print the document; write nothing.")
    return dry_run(force(function))


def check_document(check: Callable[[], object]) -> None:
    """Run ``check``; a document that is wrong ends the command with every problem.

    Raises:
        Stop: with the status for a wrong document.
    """
    try:
        check()
    except DocumentError as error:
        raise Stop("nothing was written, because it would not be loaded:\n  " + "\n  ".join(error.problems), WRONG_DOCUMENT) from error


def write_document(path: Path, text: str, *, force: bool, dry_run: bool, mode: int = 0o644) -> None:
    """Put a checked document in place, or only print it.

    Raises:
        Stop: it exists and is not to be replaced.
    """
    from hostagent.daemon.placing import AlreadyThereError, place

    if dry_run:
        click.echo(f"# {path}")
        click.echo(text, nl=False)
        return
    try:
        place(path, text, mode=mode, replace=force)
    except AlreadyThereError as error:
        raise Stop(str(error), EXISTS) from error
    click.echo(f"wrote {path}")


def next_steps(steps: Sequence[tuple[str, str]], config_path: str | None) -> None:
    """Print what to do next: (command, why). Commands of ours name the configuration if it is not the usual one."""
    from hostagent.documents.config import DEFAULT_CONFIG_PATH

    ours = "hostagent " if config_path in (None, DEFAULT_CONFIG_PATH) else f"hostagent --config {config_path} "
    commands = [command.replace("hostagent ", ours, 1) if command.startswith("hostagent ") else command for command, _ in steps]
    width = min(60, max(map(len, commands)))
    click.echo("next:")
    for command, (_, why) in zip(commands, steps, strict=True):
        click.echo(f"  {command.ljust(width)}  {why}".rstrip())


def pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Return KEY=VALUE words as a dictionary.

    Raises:
        click.BadParameter: a word without ``=``.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{word!r} is not KEY=VALUE", param_hint=option)
        found[key] = value
    return found
