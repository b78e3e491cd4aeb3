"""``hostagent target``: what workloads may reach, how the proxy gets there, and what a client needs for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostagent.cli.exits import FAILED, WRONG_DOCUMENT, Stop
from hostagent.cli.writing import check_document, next_steps, pairs, write_document, writes
from hostagent.model.target import WEB

if TYPE_CHECKING:
    from hostagent.documents import Config
    from hostagent.documents.connection import Connection
    from hostagent.model.target import Target

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_LOGIN_S = 15.0


@click.group()
def target() -> None:
    """Add, try and list targets: what workloads may reach, and how the proxy logs in there."""


@target.command("add")
@click.argument("name")
@click.argument("url")
@click.option(
    "--secret",
    metavar="WHERE",
    default="",
    help="Where the proxy's password is: file:/path (root's, mode 0600), env:/path#KEY, systemd:NAME, sealed:NAME (see `hostagent credential`); or ask: it is asked for (or read "
    "from standard input) and kept in secrets/NAME.",
)
@click.option("--move-password", is_flag=True, help="Take the password that stands in URL and keep it in secrets/NAME.")
@click.option("--ca-file", metavar="FILE", default="", help="CA certificates that the server's is verified by. [default: sslrootcert, or the system's]")
@click.option("--server-name", default="", help="Name in the server's certificate, if it is none of its hosts.")
@click.option("--database", "databases", multiple=True, help="Database that clients may ask for. [default: the URL's]")
@click.option("--any-database", is_flag=True, help="Clients may ask for any database.")
@click.option("--client-user", "users", multiple=True, help="User name that clients may ask for. [default: any]")
@click.option("--scheme", default="", help="How a web server takes the secret: bearer (default), basic (the URL names the user), or header:NAME.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label for policy (where.labels).")
@writes
@click.pass_obj
def add_command(config_path: str | None, /, name: str, url: str, force: bool, dry_run: bool, **options: object) -> None:
    """Declare the server at URL as target NAME: write targets/NAME.yaml, the file that you would write by hand.

    URL is postgresql:// (and names the proxy's own account there), https://, or kubernetes:// for an API server. A password in it is refused: it would stay in the shell's history and in the process
    list. Keep it in a file of root's (--secret file:…), have it asked for (--secret ask), or say --move-password.

    \b
    Examples:
      hostagent target add crm-db "postgresql://crm_proxy@crm.internal:5432/crm?sslmode=verify-full" --secret ask
      hostagent target add crm-db "postgresql://crm_proxy@crm.internal/crm" --secret file:/etc/hostagent/secrets/crm \\
          --ca-file /etc/ssl/certs/company-ca.pem --client-user crm_app --label env=production
      hostagent target add api https://api.example.com --scheme header:X-Api-Key --secret sealed:api
      hostagent target add cluster kubernetes://k8s.internal:6443 --ca-file /etc/hostagent/k8s-ca.crt --secret ask
    """
    from hostagent.daemon.configfile import check_together, load_config, load_targets
    from hostagent.documents import parse_target
    from hostagent.documents.connection import parse_url
    from hostagent.documents.drafts import TargetDraft, target_text
    from hostagent.documents.workload import NAME
    from hostagent.model.errors import DocumentError

    if not NAME.fullmatch(name):
        raise click.BadParameter("a lower-case letter, then letters, digits or '-', at most 48", param_hint="NAME")
    config = load_config(config_path)
    try:
        connection = parse_url(url)
    except DocumentError as error:
        raise click.BadParameter(str(error), param_hint="URL") from error
    scheme, header = _scheme(connection, str(options["scheme"]))
    place, password = _secret(name, connection, config, str(options["secret"]), bool(options["move_password"]))
    databases = _words(options["databases"]) or ([] if options["any_database"] or not connection.database else [connection.database])
    draft = TargetDraft(
        credential=place,
        databases=databases,
        users=_words(options["users"]),
        labels=pairs(_words(options["labels"]), "--label"),
        ca_file=str(options["ca_file"]),
        server_name=str(options["server_name"]),
        scheme=scheme,
        header=header,
    )
    text = target_text(name, connection, draft)
    check_document(lambda: check_together({**load_targets(config), name: parse_target(name, text)}))
    for note in connection.notes:
        click.echo(f"note: {note}", err=True)
    file = Path(config.targets) / f"{name}.yaml"
    if password is not None and place is not None and (force or not file.exists()):
        write_secret(Path(place[1]), password, dry_run=dry_run)
    write_document(file, text, force=force, dry_run=dry_run)
    if not dry_run:
        steps = [(f"hostagent target test {name}", "does the login work?"), ("hostagent reload", "if the service runs already")]
        next_steps(steps, config_path)


def _words(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, tuple) else []


def _scheme(connection: Connection, given: str) -> tuple[str, str]:
    """Return login scheme and header field of a target."""
    if connection.protocol not in WEB:
        if given:
            raise click.UsageError("--scheme is for https:// and kubernetes:// targets")
        return "", ""
    scheme, _, header = (given or ("basic" if connection.user else "bearer")).partition(":")
    return scheme, header


def _secret(name: str, connection: Connection, config: Config, where: str, move: bool) -> tuple[tuple[str, str] | None, str | None]:
    """Return where the credential is, as (kind, location), and the password if it has yet to be written there."""
    own = ("file", f"{config.paths.config}/secrets/{name}")
    if connection.password and not move:
        raise Stop(
            "the URL holds a password, which is in this shell's history now. Nothing was written. Leave it out and say --secret ask, or "
            f"say --move-password to have it kept in {own[1]} (root, mode 0600); change it afterwards if others can read that history",
            2,
        )
    if connection.password:
        if where:
            raise click.UsageError("--move-password says where the password goes; leave --secret out")
        return own, connection.password
    if where == "ask":
        if sys.stdin.isatty():
            value = str(click.prompt("Password of the proxy's account", hide_input=True))
        else:
            value = sys.stdin.readline().rstrip("\n")
        if not value:
            raise click.UsageError("no password came on standard input")
        return own, value
    kind, colon, location = where.partition(":")
    if where and (not colon or kind not in ("file", "env", "systemd", "sealed")):
        raise click.BadParameter("say file:/path, env:/path#KEY, systemd:NAME, sealed:NAME or ask", param_hint="--secret")
    if not where and connection.protocol in WEB and not connection.user:
        return None, None
    if not where:
        raise click.UsageError("say where the proxy's password is: --secret file:/path | env:/path#KEY | systemd:NAME | sealed:NAME | ask")
    return (kind, location), None


def write_secret(path: Path, value: str, *, dry_run: bool) -> None:
    """Keep a secret in a file of root's; it is never printed."""
    from hostagent.daemon.placing import place

    if dry_run:
        click.echo(f"# the password would be kept in {path} (mode 600)")
        return
    place(path, value + "\n", mode=0o600, replace=True)
    click.echo(f"wrote {path} (mode 600)")


@target.command("test")
@click.argument("name")
@click.option("--database", default="", help="Database to log in to. [default: the document's first, else postgres]")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=_LOGIN_S, show_default=True, help="Seconds for each address.")
@_JSON
@click.pass_obj
def test_command(config_path: str | None, name: str, database: str, timeout: float, as_json: bool) -> None:
    """Log in at target NAME as the proxy would, and say of each step whether it works and what mends it.

    Reads the credential, resolves the names, connects to every address, verifies TLS and logs in. Needs no running service; run it
    as root. Exits 1 if a step fails, 78 if the document or the credential cannot be used. Secrets are never printed.

    Example: hostagent target test crm-db
    """
    import asyncio
    import logging
    from dataclasses import asdict

    from hostagent.daemon.configfile import load_config
    from hostagent.daemon.credentials import read_secret
    from hostagent.model.errors import DocumentError
    from hostagent.proxy.trial import Step, attempt

    try:
        found = _named(config_path, name)
        source = found.login.credential
        secret = read_secret(source, load_config(config_path)) if source is not None else None
    except DocumentError as error:
        if not as_json:
            raise Stop(str(error), WRONG_DOCUMENT) from error
        click.echo(json.dumps([asdict(Step("document", name, ok=False, detail=str(error)))], indent=2))
        raise SystemExit(WRONG_DOCUMENT) from error
    steps = [Step("document", name, ok=True, detail=f"login as {found.login.user or found.login.scheme or 'nobody'}")]
    if source is not None:
        steps.append(Step("credential", f"{source.kind}:{source.location}", ok=True, detail="read"))
    log = logging.getLogger("hostagent")
    before = log.level
    log.setLevel(logging.CRITICAL)  # each step says it better
    try:
        steps += asyncio.run(attempt(found, secret, database or min(found.databases, default="postgres"), timeout))
    finally:
        log.setLevel(before)
    if as_json:
        click.echo(json.dumps([asdict(step) for step in steps], indent=2))
    else:
        for step in steps:
            click.echo(f"{'ok    ' if step.ok else 'FAILED'}  {step.name:<10} {step.place}: {step.detail}")
            if step.fix:
                click.echo(f"        -> {step.fix}")
    raise SystemExit(0 if all(step.ok for step in steps) else FAILED)


@target.command("list")
@_JSON
@click.pass_obj
def list_command(config_path: str | None, as_json: bool) -> None:
    """List declared targets.

    A workload connects with the server's own name and port, any password or none. Only a client that itself demands SCRAM or
    channel binding needs the placeholder password shown here (with client_auth = "scram" in the configuration).
    """
    from hostagent.daemon.configfile import load_config, load_targets
    from hostagent.inspectors.registry import PROTOCOLS

    config = load_config(config_path)
    targets = load_targets(config)
    placeholder = config.postgres.placeholder_password
    if as_json:
        click.echo(json.dumps([_row(item, placeholder) for item in targets.values()], indent=2))
        return
    if not targets:
        click.echo(f"No targets: {config.targets} holds no document. Add one: hostagent target add NAME URL --secret ask")
    for item in targets.values():
        hosts = f"{', '.join(item.hosts)} port {item.port}" if item.hosts else ""
        places = ", ".join(filter(None, [hosts, *item.sockets]))
        databases = f"; databases: {', '.join(sorted(item.databases)) or 'any'}" if PROTOCOLS[item.protocol].has_catalogue else ""
        click.echo(f"{item.name}: {item.protocol} at {places}{databases}; TLS: {item.tls.value}")
    click.echo(f"Placeholder password for clients that demand SCRAM: {placeholder}")


@target.command("show")
@click.argument("name")
@_JSON
@click.pass_obj
def show_command(config_path: str | None, name: str, as_json: bool) -> None:
    """Print the document of target NAME, or with --json what it comes to, defaults included."""
    from hostagent.daemon.configfile import load_config

    config = load_config(config_path)
    found = _named(config_path, name)
    if as_json:
        click.echo(json.dumps(_row(found, config.postgres.placeholder_password), indent=2))
        return
    click.echo((Path(config.targets) / f"{name}.yaml").read_text(encoding="utf-8").rstrip())


def _named(config_path: str | None, name: str) -> Target:
    from hostagent.daemon.configfile import load_config, load_targets

    targets = load_targets(load_config(config_path))
    if name not in targets:
        raise click.ClickException(f"no target {name}; there are: {', '.join(targets) or 'none'}")
    return targets[name]


def _row(item: Target, placeholder: str) -> dict[str, object]:
    source = item.login.credential
    return {
        "name": item.name,
        "protocol": item.protocol,
        "hosts": list(item.hosts),
        "port": item.port,
        "sockets": list(item.sockets),
        "tls": item.tls.value,
        "ca_file": item.ca_file,
        "databases": sorted(item.databases),
        "users": sorted(item.users),
        "login_user": item.login.user,
        "credential": f"{source.kind}:{source.location}" if source is not None else "",
        "labels": dict(item.labels),
        "placeholder_password": placeholder,
    }
