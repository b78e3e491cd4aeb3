"""Writes the manual pages and the shells' completions from the commands themselves: what --help says is what the pages say."""

from __future__ import annotations

import gzip
import inspect
import re
import time
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from hostagent.cli import main

SECTION = 8
_COMPLETIONS = {
    "usr/share/bash-completion/completions/hostagent": BashComplete,
    "usr/share/zsh/vendor-completions/_hostagent": ZshComplete,
    "usr/share/fish/vendor_completions.d/hostagent.fish": FishComplete,
}


def write_manual(root: Path, version: str, epoch: int) -> None:
    """Write hostagent(8) and a page for every command, compressed, below ``root``."""
    folder = root / f"usr/share/man/man{SECTION}"
    folder.mkdir(parents=True)
    for context in _commands(main, click.Context(main, info_name="hostagent")):
        name = context.command_path.replace(" ", "-")
        page = _page(name, context, version, epoch)
        (folder / f"{name}.{SECTION}.gz").write_bytes(gzip.compress(page.encode(), 9, mtime=0))


def write_completions(root: Path) -> None:
    """Write click's own completion script for each shell below ``root``."""
    for place, kind in _COMPLETIONS.items():
        path = root / place
        path.parent.mkdir(parents=True)
        path.write_text(kind(main, {}, "hostagent", "_HOSTAGENT_COMPLETE").source(), encoding="utf-8")


def _commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _commands(found, click.Context(found, info_name=name, parent=context))


def _page(name: str, context: click.Context, version: str, epoch: int) -> str:
    command = context.command
    date = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    title = name.upper().replace("-", "\\-")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.TH {title} {SECTION} {date} "hostagent {version}" "System Administration"', ".SH NAME"]
    lines.append(f"{_escaped(name)} \\- {_escaped(command.get_short_help_str(limit=200).rstrip('.'))}")
    lines += [".SH SYNOPSIS", f"\\fB{_escaped(context.command_path)}\\fR {_escaped(usage)}", ".SH DESCRIPTION", *_text(command.help or "")]
    options = [record for each in command.get_params(context) if isinstance(each, click.Option) and (record := each.get_help_record(context))]
    if options:
        lines.append(".SH OPTIONS")
        for option, explained in options:
            lines += [".TP", f"\\fB{_escaped(option)}\\fR", _escaped(explained) or "."]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None and not found.hidden:
                lines += [".TP", f"\\fB{_escaped(f'{name}-{each}')}\\fR({SECTION})", _escaped(found.get_short_help_str(limit=200))]
    lines += _files(context)
    return "\n".join(lines) + "\n"


def _files(context: click.Context) -> list[str]:
    if context.parent is not None:
        above = context.parent.command_path.replace(" ", "-")
        return [".SH SEE ALSO", f"\\fB{_escaped(above)}\\fR({SECTION})"]
    places = {
        "/etc/hostagent/hostagent.toml": "The configuration.",
        "/etc/hostagent/targets, workloads, policy": "What may be reached, who may be started, what is allowed: YAML documents.",
        "/var/lib/hostagent": "Journals, evidence, keys.",
        "/usr/share/doc/hostagent": "README.md and examples of policy.",
    }
    return [".SH FILES", *(line for place, what in places.items() for line in (".TP", f"\\fI{_escaped(place)}\\fR", _escaped(what)))]


def _text(help_text: str) -> list[str]:
    """Return click's help as roff: a paragraph that begins with \\b keeps its lines."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text)):
        if paragraph.startswith("\b"):
            lines += [".PP", ".nf", *map(_escaped, paragraph.splitlines()[1:]), ".fi"]
        else:
            lines += [".PP", _escaped(" ".join(paragraph.split()))]
    return lines[1:] if lines and lines[0] == ".PP" else lines


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("…", "...")
    return re.sub(r"(?m)^\.", "\\\\&.", escaped)
