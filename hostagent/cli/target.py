"""``hostagent target``: what workloads may reach, and what a client needs for it."""

from __future__ import annotations

import click


@click.group()
def target() -> None:
    """List the targets and what a client needs to reach them."""


@target.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_command(config_path: str | None, as_json: bool) -> None:
    """List declared targets.

    A workload connects with the server's own name and port, any password or none. Only a client that itself demands SCRAM or
    channel binding needs the placeholder password shown here (with client_auth = "scram" in the configuration).
    """
    import json

    from hostagent.daemon.configfile import load_config, load_targets

    config = load_config(config_path)
    targets = load_targets(config)
    placeholder = config.postgres.placeholder_password
    if as_json:
        rows = [
            {
                "name": item.name,
                "protocol": item.protocol,
                "hosts": list(item.hosts),
                "port": item.port,
                "sockets": list(item.sockets),
                "tls": item.tls.value,
                "databases": sorted(item.databases),
                "users": sorted(item.users),
                "labels": dict(item.labels),
                "placeholder_password": placeholder,
            }
            for item in targets.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    if not targets:
        click.echo(f"No targets: {config.targets} holds no document.")
    for item in targets.values():
        hosts = f"{', '.join(item.hosts)} port {item.port}" if item.hosts else ""
        places = ", ".join(filter(None, [hosts, *item.sockets]))
        databases = ", ".join(sorted(item.databases)) or "any"
        click.echo(f"{item.name}: {item.protocol} at {places}; databases: {databases}; TLS: {item.tls.value}")
    click.echo(f"Placeholder password for clients that demand SCRAM: {placeholder}")
