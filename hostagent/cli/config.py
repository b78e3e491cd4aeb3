"""``hostagent config``: is everything that root wrote right, what counts, and what can be said at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from hostagent.cli.exits import WRONG_DOCUMENT

if TYPE_CHECKING:
    from hostagent.documents import Config

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def config() -> None:
    """Check the configuration, show what counts, and list the keys there are."""


@config.command("check")
@_JSON
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.pass_obj
def check_command(config_path: str | None, as_json: bool, strict: bool) -> None:
    """Check configuration, targets, workloads, policy, credentials and what they say of each other. Changes nothing.

    Every problem is listed as FILE:LINE: error or warning: what. An error is what a start or a reload would refuse, or what would make
    sessions or launches fail. Exits 78 if there is one, else 0. Run it as root: others cannot read the credentials.

    Example: hostagent config check && hostagent reload
    """
    from dataclasses import asdict

    from hostagent.daemon.survey import Survey

    found = Survey(config_path)
    failed = found.failed or (strict and bool(found.problems))
    if as_json:
        answer = {"good": not failed, "documents": found.counted, "problems": [asdict(problem) for problem in found.problems]}
        click.echo(json.dumps(answer, indent=2))
    else:
        for problem in found.problems:
            click.echo(str(problem))
        counted = ", ".join(f"{number} {kind}" for kind, number in found.counted.items())
        errors = sum(problem.severity == "error" for problem in found.problems)
        click.echo(f"{counted or 'nothing could be read'}: {errors} errors, {len(found.problems) - errors} warnings")
    raise SystemExit(WRONG_DOCUMENT if failed else 0)


@config.command("show")
@_JSON
@click.pass_obj
def show_command(config_path: str | None, as_json: bool) -> None:
    """Show every key with its value, and whether the file says so or it is the default.

    Shows what the file on disk comes to; `hostagent status` names the keys that a running service does not yet count by.
    """
    from hostagent.daemon.configfile import load_config
    from hostagent.documents import parse_config
    from hostagent.documents.drafts import toml_value

    found, usual = load_config(config_path), parse_config("defaults", "")
    if as_json:
        click.echo(json.dumps(_values(found), indent=2))
        return
    for section, values in _values(found).items():
        click.echo(f"[{section}]")
        for name, value in values.items():
            default = value == _values(usual)[section][name]
            click.echo(f"{name} = {toml_value(value)}{'   # default' if default else ''}")
        click.echo("")


@config.command("keys")
@click.option("--markdown", is_flag=True, help="Print the reference page (hostagent/documents/KEYS.md).")
@_JSON
def keys_command(markdown: bool, as_json: bool) -> None:
    """List every key of the configuration and of target and workload documents: default, unit, meaning, what makes it count.

    Example: hostagent config keys | grep limits
    """
    from hostagent.documents.reference import as_markdown, keys

    if markdown:
        click.echo(as_markdown(), nl=False)
        return
    if as_json:
        click.echo(json.dumps([row._asdict() for row in keys()], indent=2))
        return
    for row in keys():
        click.echo(f"{row.document}  {row.key} = {row.default}{f' ({row.unit})' if row.unit else ''}: {row.says} [{row.counts}]")


def _values(found: Config) -> dict[str, dict[str, object]]:
    return {name: getattr(found, name).model_dump() for name in type(found).__dataclass_fields__}
