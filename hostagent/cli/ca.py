"""``hostagent ca``: exchange the host's own certificate authority without a session that notices."""

from __future__ import annotations

from typing import Any

import click


@click.group()
def ca() -> None:
    """Show and exchange this host's certificate authority. Root only.

    Workloads trust it in their own view alone; it signs what they see as the target's certificate. Three steps:

    \b
      hostagent ca rotate      a new CA is trusted beside the old one, also by programs that run already
      hostagent ca activate    the new one signs, the old key is destroyed; live connections stay
      hostagent ca retire      the old one is no longer trusted
    """


@ca.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show_command(config_path: str | None, as_json: bool) -> None:
    """Show the CA, or both while it is being exchanged, and the next step."""
    import json

    told = _step(config_path, "show")
    click.echo(json.dumps(told, indent=2) if as_json else _text(told))


@ca.command("rotate")
@click.pass_obj
def rotate_command(config_path: str | None) -> None:
    """Begin: make a new CA and let every workload trust it beside the old one, those that run included."""
    told = _step(config_path, "announce")
    click.echo(_text(told))
    running = [leaf["leaf"] for leaf in _enforcer(config_path)["leaves"]]
    if running:
        click.echo("A program that reads its trust store once must be started anew before `activate`; these run now:")
    for leaf in running:
        click.echo(f"  {leaf}")


@ca.command("activate")
@click.option("--force", is_flag=True, help="Also if a running workload does not trust the new CA: its next connections fail.")
@click.pass_obj
def activate_command(config_path: str | None, force: bool) -> None:
    """Go on: let the new CA sign. Refused while a running workload's trust bundle does not hold it."""
    missing = _behind(config_path, str(_step(config_path, "show").get("file")))
    if missing and not force:
        raise click.ClickException(f"not trusted yet by {', '.join(missing)}: wait a second, end them, or say --force")
    click.echo(_text(_step(config_path, "activate")))


@ca.command("retire")
@click.pass_obj
def retire_command(config_path: str | None) -> None:
    """End: trust the new CA alone."""
    click.echo(_text(_step(config_path, "retire")))


_NEXT = {
    "settled": "hostagent ca rotate, when you want another one",
    "announced": "hostagent ca activate, when long-lived programs have been started anew",
    "active": "hostagent ca retire, when nothing needs the old one",
}


def _text(told: dict[str, Any]) -> str:
    import datetime as dt

    lines = [f"{told['stage']}: {told['file']}"]
    for each in told["certificates"]:
        until = dt.datetime.fromtimestamp(each["expires_at"], dt.UTC).date().isoformat()
        lines.append(f"  {'signs  ' if each['signs'] else 'trusted'}  {each['name']}, until {until}, sha256 {each['sha256']}")
    return "\n".join([*lines, f"Next: {_NEXT[told['stage']]}."])


def _step(config_path: str | None, step: str) -> dict[str, Any]:
    from hostagent.cli.control import ControlError, ask

    told = ask(config_path, "ca", {"step": step})
    if not isinstance(told, dict):
        raise ControlError("the service gave no answer that can be understood; see its log")
    return told


def _enforcer(config_path: str | None) -> dict[str, Any]:
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Status, StatusReport

    return EnforcerConnection(load_config(config_path).enforcer_socket).ask(Status(), StatusReport)[0].report


def _behind(config_path: str | None, file: str) -> list[str]:
    """Return the running workloads whose trust bundles do not hold what is published at ``file``."""
    import hashlib
    from pathlib import Path

    published = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    report = _enforcer(config_path)
    if report["trust"]["ca"] != published:
        return [leaf["leaf"] for leaf in report["leaves"]]
    return sorted(report["trust"]["behind"])
