"""``hostagent sql``: one question to the evidence, in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hostagent.recording.query import Limits, Result


@click.command("sql")
@click.argument("statement")
@click.option("--json", "form", flag_value="json", type=str, help="Print a JSON array of objects.")
@click.option("--csv", "form", flag_value="csv", type=str, help="Print CSV with a header.")
@click.option("--database", type=click.Path(path_type=Path), help="Published database. [default: the configuration's]")
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds until the question is stopped.")
@click.option("--memory", default="512MB", show_default=True, help="Memory for the question.")
@click.pass_obj
def sql_command(
    config_path: str | None, statement: str, form: str | None, database: Path | None, timeout_s: float, memory: str
) -> None:
    """Ask the recorded sessions one question: exactly one SELECT.

    \b
    hostagent sql "from sessions"
    hostagent sql "select time, subject, text, decision, rules, approver from statements order by time desc limit 20"
    hostagent sql "describe statements"
    """
    from hostagent.recording.query import ask

    place, limits = resolve(config_path, database, timeout_s, memory)
    result = ask(place, statement, limits)
    # color=True: click leaves the text alone; what must not reach a terminal is escaped by us, and a file gets it exact.
    click.echo(_shown(result, form or "table"), color=True)
    if result.truncated:
        click.echo(f"Only the first {len(result.rows)} rows are shown: add a LIMIT or a WHERE.", err=True)


def resolve(
    config_path: str | None, database: Path | None, timeout_s: float = 30.0, memory: str = "512MB"
) -> tuple[Path, Limits]:
    """Return the published database's path and the limits, from the options and the configuration."""
    from hostagent.daemon.configfile import load_config
    from hostagent.recording.query import Limits
    from hostagent.recording.store import PUBLISHED

    config = load_config(config_path)
    return database or Path(config.evidence) / PUBLISHED, Limits(
        timeout_s=timeout_s, memory=memory, user=config.users.recorder
    )


def _shown(result: Result, form: str) -> str:
    if form == "json":
        import json

        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        return json.dumps(rows, indent=2)
    if form == "csv":
        return _csv(result)
    from hostagent.cli.terminal import table

    return table(result.columns, result.rows)


def _csv(result: Result) -> str:
    import csv
    import io
    import json
    import sys

    from hostagent.cli.terminal import printable

    def field(value: object) -> object:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
        # A file gets the bytes as they are; a terminal never gets a control sequence.
        return printable(text) if isinstance(text, str) and sys.stdout.isatty() else text

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows([[field(value) for value in row] for row in result.rows])
    return out.getvalue().rstrip("\n")
