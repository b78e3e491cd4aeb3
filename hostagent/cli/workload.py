"""``hostagent workload``: what may be launched, by whom, as whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostagent.cli.writing import check_document, next_steps, pairs, write_document, writes

if TYPE_CHECKING:
    from hostagent.documents.drafts import WorkloadDraft
    from hostagent.model.workload import Workload

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def workload() -> None:
    """Add and list workloads: what may be launched, by whom, and who it then is."""


@workload.command("add")
@click.argument("name")
@click.option("--launcher", "launchers", multiple=True, metavar="USER", help="Unix user who may launch it. [default: root]")
@click.option("--user", default="", help="Login user it runs as. [default: a uid of its own, which is stronger]")
@click.option("--placement", type=click.Choice(["isolated", "shared"]), default="isolated", show_default=True)
@click.option("--root", metavar="DIR", default="", help="Folder of a container image that it sees instead of the host's files.")
@click.option("--group", "groups", multiple=True, help="Group of its identity (for policy: who.groups).")
@click.option("--purpose", default="", help="What it is for (for policy and records).")
@click.option("--subject", default="", help="Subject of its identity. [default: NAME; of a token file: whatever it says]")
@click.option("--token-file", metavar="FILE", default="", help="Its identity comes from a provider's token in FILE.")
@click.option("--issuer", default="", help="Issuer of that token; its keys are found by OIDC discovery.")
@click.option("--audience", default="", help="Audience that token must be for. [default: hostagent]")
@click.option("--jwks", default="", help="File or https address of the issuer's keys, where there is no discovery.")
@click.option("--path", "paths", multiple=True, metavar="PATH[:rw]", help="Folder or file of the host that it sees; read-only without :rw.")
@click.option("--env", "environment", multiple=True, metavar="KEY=VALUE", help="Variable in its environment.")
@click.option("--trust-file", "trust_files", multiple=True, metavar="FILE", help="PEM bundle that its clients read: our CA is added to it.")
@writes
@click.pass_obj
def add_command(config_path: str | None, /, name: str, force: bool, dry_run: bool, **options: object) -> None:
    """Declare workload NAME: write workloads/NAME.yaml, the file that you would write by hand.

    Counts within seconds, without a reload.

    \b
    Examples:
      hostagent workload add support-bot --launcher ci --group support --purpose "answer tickets"
      hostagent workload add batch --token-file /run/tokens/batch --issuer https://id.example.com/realms/ops
    """
    from hostagent.daemon.configfile import load_config
    from hostagent.documents import parse_workload
    from hostagent.documents.drafts import workload_text

    text = workload_text(name, _draft(options))
    check_document(lambda: parse_workload(name, text))
    write_document(Path(load_config(config_path).workloads) / f"{name}.yaml", text, force=force, dry_run=dry_run)
    if not dry_run:
        next_steps(
            [
                (f"hostagent policy new {name} --from-example starter --workload {name} --target TARGET", "what it may do"),
                ("hostagent config check", "everything right?"),
                (f"hostagent run --workload {name} -- COMMAND", "start it"),
            ],
            config_path,
        )


@workload.command("list")
@_JSON
@click.pass_obj
def list_command(config_path: str | None, as_json: bool) -> None:
    """List the declared workloads: who may launch them, where they run, as whom."""
    from hostagent.daemon.configfile import load_config, load_workloads

    config = load_config(config_path)
    found = load_workloads(config)
    if as_json:
        click.echo(json.dumps([_row(item) for item in found.values()], indent=2))
        return
    if not found:
        click.echo(f"No workloads: {config.workloads} holds no document. Add one: hostagent workload add NAME")
    for item in found.values():
        identity = f"token of {item.identity.issuer or item.identity.jwks}" if item.identity.issuer or item.identity.jwks else "embedded issuer"
        runs_as = f"user {item.user}" if item.user else "a uid of its own"
        click.echo(f"{item.name}: launched by {', '.join(sorted(item.launchers))}; {item.placement.value}, as {runs_as}; identity: {identity}")


@workload.command("show")
@click.argument("name")
@_JSON
@click.pass_obj
def show_command(config_path: str | None, name: str, as_json: bool) -> None:
    """Print the document of workload NAME, or with --json what it comes to, defaults included."""
    from hostagent.daemon.configfile import load_config, load_workloads

    config = load_config(config_path)
    found = load_workloads(config)
    if name not in found:
        raise click.ClickException(f"no workload {name}; there are: {', '.join(found) or 'none'}")
    click.echo(json.dumps(_row(found[name]), indent=2) if as_json else (Path(config.workloads) / f"{name}.yaml").read_text(encoding="utf-8").rstrip())


def _draft(options: dict[str, object]) -> WorkloadDraft:
    from hostagent.documents.drafts import WorkloadDraft

    def words(key: str) -> list[str]:
        value = options[key]
        return [str(item) for item in value] if isinstance(value, tuple) else []

    def word(key: str) -> str:
        return str(options[key] or "")

    return WorkloadDraft(
        launchers=words("launchers") or ["root"],
        placement=word("placement"),
        user=word("user"),
        root=word("root"),
        groups=words("groups"),
        purpose=word("purpose"),
        subject=word("subject"),
        token_file=word("token_file"),
        issuer=word("issuer"),
        audience=word("audience") or ("hostagent" if word("token_file") else ""),
        jwks=word("jwks"),
        paths=[(path.removesuffix(":rw"), path.endswith(":rw")) for path in words("paths")],
        environment=pairs(words("environment"), "--env"),
        trust_files=words("trust_files"),
    )


def _row(item: Workload) -> dict[str, object]:
    identity = item.identity
    return {
        "name": item.name,
        "launchers": sorted(item.launchers),
        "placement": item.placement.value,
        "user": item.user,
        "root": item.root,
        "identity": {
            "kind": identity.kind.value,
            "issuer": identity.issuer,
            "subject": identity.subject,
            "groups": sorted(identity.groups),
            "purpose": identity.purpose,
            "path": identity.path,
            "audience": identity.audience,
            "jwks": identity.jwks,
        },
        "paths": [{"path": each.path, "writable": each.writable} for each in item.paths],
        "trust_files": list(item.trust_files),
        "unix_sockets": item.unix_sockets,
        "inbound": [{"port": each.port, "listen": each.listen} for each in item.inbound],
    }
