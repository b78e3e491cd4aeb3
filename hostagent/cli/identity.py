"""``hostagent identity``: who each workload is now, and taking that away."""

from __future__ import annotations

import click

from hostagent.cli.names import workload_names


@click.group()
def identity() -> None:
    """See and revoke workload identities.

    A workload has a short-lived identity, proved by a token and renewed while it runs. Revoking it refuses every new connection
    at once and cuts the live ones within seconds; it lasts until `restore`, also over a restart.
    """


@identity.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_command(config_path: str | None, as_json: bool) -> None:
    """List workloads: state, subject, groups, and how long the present token lasts."""
    import json
    import time

    from hostagent.cli.control import ask

    answer = ask(config_path, "identity.list")
    rows = [row for row in answer if isinstance(row, dict)] if isinstance(answer, list) else []
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo("No workloads: the folder of workload documents is empty.")
    for row in rows:
        click.echo(_described(row, time.time()))


@identity.command("revoke")
@click.argument("workload", shell_complete=workload_names)
@click.option("--reason", default="", metavar="TEXT", help="Why; it goes into the records.")
@click.pass_obj
def revoke_command(config_path: str | None, workload: str, reason: str) -> None:
    """Take WORKLOAD's identity away: no new connection, live ones cut. (Its processes go on: see `hostagent kill`)."""
    from hostagent.cli.control import ask

    ask(config_path, "identity.revoke", {"workload": workload, "reason": reason})
    click.echo(f"Revoked: {workload} reaches nothing until `hostagent identity restore {workload}`.")


@identity.command("restore")
@click.argument("workload", shell_complete=workload_names)
@click.pass_obj
def restore_command(config_path: str | None, workload: str) -> None:
    """Give WORKLOAD its identity back."""
    from hostagent.cli.control import ask

    ask(config_path, "identity.restore", {"workload": workload})
    click.echo(f"Restored: {workload} may connect again as soon as its token is proved (within seconds).")


@identity.command("rotate-key")
@click.option("--withdraw", is_flag=True, help="The former key leaked: its tokens are refused at once, and live sessions are cut.")
@click.pass_obj
def rotate_key_command(config_path: str | None, withdraw: bool) -> None:
    """Let the embedded issuer sign with a new key. Tokens of the former one stay valid until they expire; no session notices."""
    from hostagent.cli.control import ask

    answer = ask(config_path, "identity.rotate_key", {"withdraw": withdraw})
    keys = answer.get("keys") if isinstance(answer, dict) else None
    count = len(keys) if isinstance(keys, list) else 0
    click.echo("Signing with a new key. " + ("Former tokens are refused." if withdraw else f"{count} keys are trusted until the former tokens expire."))


def _described(row: dict[str, object], now: float) -> str:
    from hostagent.approval import visible_text

    line = f"{row.get('workload')}: {row.get('state')}"
    if row.get("subject"):
        line += visible_text(f", subject {row['subject']} of {row.get('issuer')}")
    groups = row.get("groups")
    if isinstance(groups, list) and groups:
        line += visible_text(f", groups {', '.join(map(str, groups))}")
    expires_at = row.get("expires_at")
    if isinstance(expires_at, int | float):
        line += f", token lasts {max(0, round(expires_at - now))} s more ({row.get('source')})"
    if row.get("problem"):
        line += visible_text(f"\n    {row['problem']}")
    return line
