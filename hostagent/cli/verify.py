"""``hostagent verify``: attack the boundary from throw-away leaves."""

from __future__ import annotations

import contextlib
import json

import click


@click.command("verify")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def verify_command(config_path: str | None, as_json: bool) -> None:
    """Attack the boundary from throw-away leaves, in both placements, and compare the rules in force with those loaded.

    Takes a few seconds. Exits 0 when everything is refused as it must be, otherwise 1, naming what was not. Root only.
    """
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.daemon.configfile import load_config
    from hostagent.ipc import Verified, Verify

    connection = EnforcerConnection(load_config(config_path).enforcer_socket)
    with contextlib.closing(connection.socket):
        answer, _ = connection.ask(Verify(), Verified)
    if as_json:
        result = {
            "outcome": "failed" if answer.failed else "passed",
            "attempts": answer.attempts,
            "failed": answer.failed,
            "elapsed_us": answer.elapsed_us,
        }
        click.echo(json.dumps(result, indent=2))
    else:
        for name, outcome in answer.attempts.items():
            click.echo(f"{'FAILED' if name in answer.failed else 'ok    '}  {name}: {outcome}")
        verdict = f"{len(answer.failed)} FAILED" if answer.failed else "the boundary holds"
        click.echo(f"{verdict} ({len(answer.attempts)} attempts, {answer.elapsed_us / 1e6:.1f} s)")
    raise SystemExit(1 if answer.failed else 0)
