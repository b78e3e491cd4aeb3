"""``hostagent up``: the three processes in the foreground."""

from __future__ import annotations

import click


@click.command("up")
@click.option("--ready-fd", type=int, default=None, help="Write one line to this descriptor when the service is ready.")
@click.pass_obj
def up_command(config_path: str | None, ready_fd: int | None) -> None:
    """Run the whole service in the foreground, under its separate users.

    Starts enforcerd (root), proxyd and recorderd (unprivileged), restarts one that dies, and stops all three on Ctrl-C or
    SIGTERM. The fence stays up until `hostagent uninstall`, which ends this command too.

    Policy, workloads and tokens are watched. After a change of the configuration, a target or a credential say `hostagent reload`
    (or send SIGHUP): if everything is right it counts at once and sessions go on, otherwise nothing changes.
    """
    from hostagent.daemon.configfile import load_config
    from hostagent.daemon.up import Supervisor

    raise SystemExit(Supervisor(load_config(config_path), config_path, ready_fd).run())
