"""``hostagent approvals``: the held operations, for the people who may let them pass."""

from __future__ import annotations

import click

_TICKET = click.argument("ticket")
_REASON = click.option(
    "--reason", default="", metavar="TEXT", help="Why; it goes into the records and to the workload."
)
_DIGEST = click.option("--digest", default="", metavar="HEX", help="Answer only if the ticket's digest begins so.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON: exact texts, every odd character escaped.")


@click.group()
def approvals() -> None:
    """See and answer held operations.

    A policy rule with `decision: hold` stops an operation before it reaches its target, until someone in the unix group that the
    rule names approves it, denies it, or the time is over (which denies it). Who launched the workload cannot approve for it,
    and a governed process has no part in this.

    \b
      hostagent approvals list                 what is waiting
      hostagent approvals show 3f2a            all of it, exactly
      hostagent approvals approve 3f2a         let it run, once
      hostagent approvals deny 3f2a --reason "not on a Friday"
    """


@approvals.command("list")
@_JSON
@click.pass_obj
def list_command(config_path: str | None, as_json: bool) -> None:
    """List what is waiting for you: only what you may answer is shown."""
    tickets = _tickets(config_path)
    if as_json:
        _print_json(tickets)
        return
    if not tickets:
        click.echo("Nothing is waiting for your approval.")
        return
    for ticket in tickets:
        click.echo(_summary(ticket))
    click.echo("\nShow one:  hostagent approvals show TICKET   (the first characters of its id will do)")


@approvals.command("show")
@_TICKET
@_JSON
@click.pass_obj
def show_command(config_path: str | None, ticket: str, as_json: bool) -> None:
    """Show a held operation exactly: statement, values, who asks, what it may do, and why it is held."""
    found = _ticket(config_path, ticket)
    if as_json:
        _print_json(found)
        return
    click.echo(_rendered(found))
    name = found.get("ticket")
    click.echo(
        f"\nApprove it:  hostagent approvals approve {name}\nDeny it:     hostagent approvals deny {name} --reason TEXT"
    )


@approvals.command("approve")
@_TICKET
@_REASON
@_DIGEST
@click.option("--yes", is_flag=True, help="Do not ask again at a terminal.")
@click.pass_obj
def approve_command(config_path: str | None, ticket: str, reason: str, digest: str, yes: bool) -> None:
    """Let a held operation run, once, exactly as shown.

    At a terminal it is shown first, and you are asked; what you approve is what you were shown, or nothing. A script that has
    shown it elsewhere names what it showed with --digest.
    """
    import sys

    found = _ticket(config_path, ticket)
    if not yes and sys.stdin.isatty():
        click.echo(_rendered(found))
        if not click.confirm("\nApprove exactly this?", default=False):
            raise click.ClickException("nothing was answered; the operation still waits")
    _answer(config_path, found, granted=True, reason=reason, digest=digest or str(found.get("digest", "")))
    click.echo(f"Approved {found.get('ticket')}: it runs now, once.")


@approvals.command("deny")
@_TICKET
@_REASON
@_DIGEST
@click.pass_obj
def deny_command(config_path: str | None, ticket: str, reason: str, digest: str) -> None:
    """Refuse a held operation; the workload gets an error with your reason and keeps its session."""
    found = _ticket(config_path, ticket)
    _answer(config_path, found, granted=False, reason=reason, digest=digest)
    click.echo(f"Denied {found.get('ticket')}.")


@approvals.command("watch")
@click.option("--seconds", type=float, default=None, help="Stop after this long. [default: until Ctrl-C]")
@click.pass_obj
def watch_command(config_path: str | None, seconds: float | None) -> None:
    """Show every held operation as it comes up, until Ctrl-C."""
    import time

    until = float("inf") if seconds is None else time.monotonic() + seconds
    seen: set[object] = set()
    click.echo("Waiting for held operations; Ctrl-C ends this.")
    while True:
        for ticket in _tickets(config_path):
            if ticket.get("ticket") not in seen:
                seen.add(ticket.get("ticket"))
                click.echo("\n" + _rendered(ticket))
        if time.monotonic() >= until:
            return
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))


def _tickets(config_path: str | None) -> list[dict[str, object]]:
    from hostagent.cli.control import ask

    answer = ask(config_path, "approvals.list")
    return [item for item in answer if isinstance(item, dict)] if isinstance(answer, list) else []


def _ticket(config_path: str | None, ticket: str) -> dict[str, object]:
    from hostagent.cli.control import ControlError, ask

    answer = ask(config_path, "approvals.show", {"ticket": ticket})
    if not isinstance(answer, dict):
        raise ControlError("the service gave no ticket; see its log")
    return answer


def _answer(config_path: str | None, ticket: dict[str, object], *, granted: bool, reason: str, digest: str) -> None:
    from hostagent.cli.control import ask

    args = {"ticket": ticket.get("ticket"), "granted": granted, "reason": reason, "digest": digest}
    ask(config_path, "approvals.answer", args)


def _rendered(ticket: dict[str, object]) -> str:
    from hostagent.approval import render_description

    return render_description(ticket)


def _summary(ticket: dict[str, object]) -> str:
    """One line per ticket: the full statement is for ``show``, so the line says how much it leaves out."""
    from hostagent.approval import visible_text

    operations = ticket.get("operations")
    texts = (
        [str(item.get("text", "")) for item in operations if isinstance(item, dict)]
        if isinstance(operations, list)
        else []
    )
    text = visible_text(" ".join("; ".join(texts).split()))
    shown = text if len(text) <= 70 else text[:70] + f"… ({len(text) - 70} more characters)"
    words = [visible_text(str(ticket.get(key, ""))) for key in ("ticket", "workload", "target", "rule")]
    return f"{words[0]}  {ticket.get('remaining_s')} s left  {words[1]} → {words[2]}  [{words[3]}]\n    {shown}"


def _print_json(value: object) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=True))
