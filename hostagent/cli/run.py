"""``hostagent run``: start a program as a governed workload and be its terminal."""

from __future__ import annotations

import contextlib
import os
import signal

import click

from hostagent.cli.names import workload_names

_BY_SIGNAL = 128


@click.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, no_args_is_help=True
)
@click.option(
    "--workload", "-w", required=True, metavar="NAME", shell_complete=workload_names, help="The workload document to run it as."
)
@click.option("--tty/--no-tty", default=None, help="A terminal of its own, or pipes. [default: as standard input is]")
@click.option("--as-service", is_flag=True, help="As a unit's main process: tell systemd when it runs, end as it ended.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run_command(config_path: str | None, workload: str, tty: bool | None, as_service: bool, command: tuple[str, ...]) -> None:
    """Start COMMAND as a governed workload.

    \b
    Its identity is verified and its fence proved before its first instruction runs. Input, output, window size,
    signals and the exit code pass through; 128 + N when signal N ended it, 127 not found, 126 not executable,
    125 could not be set up, 77 not admitted.

    Example: hostagent run --workload bot -- psql -h db.example customers
    """
    from hostagent.cli.relay import relay
    from hostagent.daemon.configfile import load_config

    path = load_config(config_path).enforcer_socket
    if not as_service:
        raise SystemExit(relay(path, workload, command, tty=tty))
    from hostagent.daemon.notify import Notifier

    status = relay(path, workload, command, tty=False, launched=Notifier().ready)
    if status > _BY_SIGNAL:  # systemd tells ends by signal from ends by status
        number = status - _BY_SIGNAL
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    raise SystemExit(status)
