"""``hostagent policy new``: a policy document from one of the examples, with your names in it."""

from __future__ import annotations

import re
from pathlib import Path

import click

from hostagent.cli.examples import POLICY, examples
from hostagent.cli.policy import policy
from hostagent.cli.writing import check_document, next_steps, write_document, writes

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@policy.command("new")
@click.argument("name", required=False)
@click.option("--from-example", "example", metavar="EXAMPLE", help="Which example to begin with; --list shows them.")
@click.option("--workload", default="", help="Put this workload's name where the example has its own.")
@click.option("--target", "target_name", default="", help="Put this target's name where the example has its own.")
@click.option("--list", "listing", is_flag=True, help="List the examples, a line each.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print JSON.")
@writes
@click.pass_context
def new_command(
    ctx: click.Context, /, name: str | None, example: str | None, listing: bool, as_json: bool, force: bool, dry_run: bool, **names: str
) -> None:
    """Write policy NAME.yaml, and NAME.expected.yaml beside it, from an example.

    Both are written to the policy folder as you would write them by hand, after the whole folder was checked with them in it. A running
    service judges by the new rules within a second.

    \b
    Examples:
      hostagent policy new --list
      hostagent policy new support --from-example starter --workload support-bot --target crm-db
      hostagent policy test        does it say what the table beside it expects?
    """
    known = examples()
    if listing:
        _list(known, as_json)
        return
    if not name or not _NAME.fullmatch(name):
        raise click.UsageError("give the new policy a NAME: small letters, digits, '.', '-' and '_' (--list shows the examples)")
    if example not in known:
        raise click.BadParameter(f"there are {', '.join(known)} (--list says what each does)", param_hint="--from-example")
    _write(ctx, name, example, names, force=force, dry_run=dry_run)


def _list(known: dict[str, str], as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps([{"name": name, "about": about} for name, about in known.items()], indent=2))
        return
    for name, about in known.items():
        click.echo(f"{name:<16} {about}")


def _write(ctx: click.Context, name: str, example: str, names: dict[str, str], *, force: bool, dry_run: bool) -> None:
    from hostagent.cli.policy import _load
    from hostagent.daemon.configfile import load_config
    from hostagent.proxy.context import read_documents

    folder = Path(load_config(ctx.obj).policy)
    text = (POLICY / "examples" / f"{example}.yaml").read_text(encoding="utf-8")
    table = (POLICY / "examples" / f"{example}.expected.yaml").read_text(encoding="utf-8")
    text, table = _renamed(text, table, example, name, names)
    documents = read_documents(folder, trusted=False) if folder.is_dir() else {}
    check_document(lambda: _load({**documents, f"{name}.yaml": text}, check_groups=True))
    write_document(folder / f"{name}.yaml", text, force=force, dry_run=dry_run)
    write_document(folder / f"{name}.expected.yaml", table, force=force, dry_run=dry_run)
    if not dry_run:
        steps = [("hostagent policy test", "its table of expected verdicts; extend it with yours"), ("hostagent config check", "do its names exist?")]
        next_steps(steps, ctx.obj)


def _renamed(text: str, table: str, example: str, name: str, names: dict[str, str]) -> tuple[str, str]:
    """Return document and table with the given names in place of the example's own, and rule ids that begin with the new name."""
    for key, option, new in (("workload", "--workload", names["workload"]), ("target", "--target", names["target_name"])):
        if not new:
            continue
        own = re.search(rf"^(?:who|where):.*\b{key}: ([\w-]+)", table, re.MULTILINE)
        if own is None or not re.search(rf"\b{key}: {re.escape(own[1])}\b", text):
            raise click.UsageError(f"the example {example} names no {key} of its own; leave {option} out and edit what it goes by")
        text, table = (re.sub(rf"\b{key}: {re.escape(own[1])}(?![\w-])", f"{key}: {new}", each) for each in (text, table))
    return re.sub(rf"\bid: {re.escape(example)}-", f"id: {name}-", text), re.sub(rf"\b{re.escape(example)}-(?=[\w-]+[,\]])", f"{name}-", table)
