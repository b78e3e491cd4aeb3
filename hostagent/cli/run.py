"""``hostagent run``: start a program as a governed workload and be its terminal."""

from __future__ import annotations

import click


@click.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, no_args_is_help=True
)
@click.option("--workload", "-w", required=True, metavar="NAME", help="The workload document to run it as.")
@click.option("--tty/--no-tty", default=None, help="A terminal of its own, or pipes. [default: as standard input is]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run_command(config_path: str | None, workload: str, tty: bool | None, command: tuple[str, ...]) -> None:
    """Start COMMAND as a governed workload.

    \b
    Its identity is verified and its fence proved before its first instruction runs. Input, output, window size,
    signals and the exit code pass through; 128 + N when signal N ended it, 127 not found, 126 not executable,
    125 could not be set up, 77 not admitted.

    Example: hostagent run --workload bot -- psql -h db.example customers
    """
    from hostagent.cli.relay import relay
    from hostagent.daemon.configfile import load_config

    raise SystemExit(relay(load_config(config_path).enforcer_socket, workload, command, tty=tty))
