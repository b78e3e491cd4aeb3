"""``hostagent sessions``: who was connected, and what happened, readably."""

from __future__ import annotations

from pathlib import Path

import click

_LIST = """
select session, opened, workload, subject, target, "database", outcome, statements, denied, held, "rows", masked_values as masked
from sessions order by opened desc limit {limit}
"""
_COLOURS = {"deny": "31", "denied": "31", "error": "31", "hold": "33", "allow": "32", "ok": "32"}

_database = click.option(
    "--database", type=click.Path(path_type=Path), help="Published database. [default: the configuration's]"
)


@click.group()
def sessions() -> None:
    """List and show recorded sessions."""


@sessions.command("list")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Newest sessions to list."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_database
@click.pass_obj
def list_command(config_path: str | None, limit: int, as_json: bool, database: Path | None) -> None:
    """List the newest sessions: who, where to, what came of it."""
    from hostagent.cli.terminal import table

    columns, rows = _ask(config_path, database, _LIST.format(limit=limit))
    click.echo(_json([dict(zip(columns, row, strict=True)) for row in rows]) if as_json else table(columns, rows))


@sessions.command("show")
@click.argument("session")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_database
@click.pass_obj
def show_command(config_path: str | None, session: str, as_json: bool, database: Path | None) -> None:
    """Show one session from beginning to end. SESSION may be the beginning of its id, if that is unique."""
    prefix = session.replace("'", "''")
    columns, rows = _ask(
        config_path,
        database,
        f"select * from sessions where starts_with(session, '{prefix}') order by length(session), session limit 2",  # noqa: S608
    )
    if not rows:
        raise click.ClickException(f"no session {session}; `hostagent sessions list` names them")
    if len(rows) > 1 and rows[0][columns.index("session")] != session:
        raise click.ClickException(f"more than one session begins with {session}")
    head = dict(zip(columns, rows[0], strict=True))
    exact = str(head["session"]).replace("'", "''")
    columns, rows = _ask(
        config_path,
        database,
        f"select time, kind, fields from events where session = '{exact}' order by writer, seq",  # noqa: S608
    )
    events = [dict(zip(columns, row, strict=True)) for row in rows]
    click.echo(_json({"session": head, "events": _parsed(events)}) if as_json else _story(head, _parsed(events)))


def _ask(config_path: str | None, database: Path | None, statement: str) -> tuple[list[str], list[list[object]]]:
    from hostagent.cli.sql import resolve
    from hostagent.recording.query import ask

    place, limits = resolve(config_path, database)
    result = ask(place, statement, limits)
    return result.columns, result.rows


def _parsed(events: list[dict[str, object]]) -> list[dict[str, object]]:
    import json

    return [{**event, "fields": json.loads(str(event["fields"] or "{}"))} for event in events]


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2)


def _story(head: dict[str, object], events: list[dict[str, object]]) -> str:
    from hostagent.cli.terminal import cell

    facts = [
        ("session", head["session"]),
        ("workload", head["workload"]),
        ("identity", f"{head['subject'] or 'none'} ({head['issuer'] or 'no issuer'})"),
        ("groups", head["groups"]),
        ("purpose", head["purpose"]),
        *_process(head),
        ("target", f"{head['target'] or 'none'} at {head['destination']} as {head['upstream_user'] or 'nobody'}"),
        ("database", head["database"]),
        ("opened", head["opened"]),
        ("closed", head["closed"]),
        ("outcome", f"{head['outcome']} {head['reason'] or ''}".rstrip()),
    ]
    lines = [f"{name:>10}  {cell(value)}" for name, value in facts if value not in (None, "", [])]
    return "\n".join([*lines, "", *(_line(event) for event in events)])


def _process(head: dict[str, object]) -> list[tuple[str, str]]:
    """Return the program that dialled and those that led to it, a line each; one line where that is not certain."""
    lineage = head.get("lineage")
    if not isinstance(lineage, list) or not lineage:
        return [("process", f"{head['exe'] or 'unknown'} pid {head['pid'] or 'unknown'} ({head['attribution'] or 'leaf'})")]
    names = ["process", *["started by"] * (len(lineage) - 1)]
    return [
        (name, f"{link['exe']} pid {link['pid']} uid {link['uid']}: {' '.join(map(str, link['argv'] or []))}")
        for name, link in zip(names, lineage, strict=True)
    ]


def _line(event: dict[str, object]) -> str:
    from hostagent.cli.terminal import coloured, printable

    fields = event["fields"]
    assert isinstance(fields, dict)
    clock = printable(event["time"])[11:23]
    kind = str(event["kind"])
    word = str(fields.get("decision") or fields.get("outcome") or "")
    said = "  ".join(part for part in _said(kind, fields) if part)
    mark = coloured(f"{printable(word):<9}", _COLOURS.get(word, "0"))
    return f"{clock:<12}  {printable(kind):<10}  {mark}  {said}".rstrip()


def _said(kind: str, fields: dict[str, object]) -> list[str]:
    """Return what is worth reading of an event, already printable."""
    from hostagent.cli.terminal import cell, printable

    named = {
        "connection": ["target", "destination", "reason"],
        "login": ["database", "upstream_user", "reason"],
        "hold": ["ticket", "approvers", "reason"],
        "close": ["reason"],
    }
    if kind == "statement":
        rules = cell(fields.get("rules")) or "default"
        parameters = fields.get("parameters")
        return [
            printable(fields.get("text")),
            f"parameters: {cell(parameters)}" if parameters else "",
            f"[rules: {rules}]",
            printable(fields.get("reason")) if fields.get("decision") != "allow" else "",
        ]
    if kind == "result":
        masked = fields.get("masked_values")
        return [
            printable(fields.get("tag")),
            f"{fields.get('rows')} rows" if fields.get("rows") else "",
            f"{masked} values masked" if masked else "",
            printable(fields.get("sqlstate")),
            printable(fields.get("message")),
        ]
    if kind == "answer":
        by = printable(fields.get("by")) or "nobody"
        return [
            f"approved by {by}" if fields.get("granted") is True else f"not approved ({by})",
            printable(fields.get("reason")),
        ]
    return [cell(fields.get(name)) for name in named.get(kind, sorted(fields))]
