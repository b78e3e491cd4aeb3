"""``hostagent reload``: what changed on disk counts, without a restart."""

from __future__ import annotations

import contextlib
import json

import click


@click.command("reload")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def reload_command(config_path: str | None, as_json: bool) -> None:
    """Take changed configuration, targets and credentials, without a restart. Root only.

    \b
    Everything is read and checked first: if anything is wrong nothing changes, and what is wrong is said (exit 1, or 78 for the configuration itself).
    Sessions go on. Those of a target that is gone or is declared otherwise end; a new credential counts from the
    next login on. Keys that count only after a restart are named, here and in `hostagent status`.
    Policy and workload documents need no reload: they are watched.

    Example: hostagent config check && hostagent reload
    """
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Reload, Reloaded

    connection = EnforcerConnection(load_config(config_path).enforcer_socket)
    with contextlib.closing(connection.socket):
        answer, _ = connection.ask(Reload(), Reloaded)
    if as_json:
        click.echo(json.dumps({"changes": answer.changes, "notes": answer.notes, "problem": answer.problem}, indent=2))
    else:
        for line in answer.changes or ["nothing changed"] if not answer.problem else []:
            click.echo(line)
        for line in answer.notes:
            click.echo(f"note: {line}")
    if answer.problem:
        raise click.ClickException(f"the proxy keeps what it had: {answer.problem}")
