"""``hostagent credential``: the sealed store, and a new secret for a running service."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from hostagent.model.errors import NotPermittedError

if TYPE_CHECKING:
    from hostagent.daemon.sealedstore import SealedStore
    from hostagent.documents import Config


@click.group()
def credential() -> None:
    """Keep and rotate the targets' secrets, encrypted. Root only.

    A target document names its secret: `credential: {sealed: NAME}` is one that is kept here, encrypted. The key is the systemd
    credential hostagent-seal-key, or /etc/hostagent/seal.key (root, mode 0600), made with the first `set`. A new secret counts for
    every login from now on; live sessions go on.

    \b
      hostagent credential set crm < secret.txt      # or type it in
      hostagent credential rotate crm                # a new value, in force at once
      hostagent reload                               # secrets elsewhere (file, env) changed: the same for those
    """


@credential.command("set")
@click.argument("name")
@click.pass_obj
def set_command(config_path: str | None, name: str) -> None:
    """Keep a new secret NAME; its value comes from standard input or a prompt, never from the command line."""
    config, store = _store(config_path, make=True)
    version = store.put(name, _value(name), _now(), new=True)
    click.echo(f"Sealed {name} (version {version}) in {config.sealed_credentials}.")
    click.echo(f"A target uses it with: credential: {{sealed: {name}}}")
    _hand_over(config, name)


@credential.command("rotate")
@click.argument("name")
@click.pass_obj
def rotate_command(config_path: str | None, name: str) -> None:
    """Give secret NAME a new value, in force for the next login. Change it at the target first, or keep both valid for a moment."""
    config, store = _store(config_path)
    version = store.put(name, _value(name), _now(), new=False)
    click.echo(f"Sealed {name} (version {version}).")
    _hand_over(config, name)


@credential.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_command(config_path: str | None, as_json: bool) -> None:
    """List what is sealed: name, version, when it was set, which targets use it. Values are never shown."""
    import datetime as dt
    import json

    config, store = _store(config_path)
    users = _targets_by_name(config)
    rows: list[dict[str, object]] = []
    lines = []
    for entry in store.entries():
        at = dt.datetime.fromtimestamp(entry.set_at, dt.UTC).isoformat(timespec="seconds")
        used, problem = users.get(entry.name, []), _problem(store, entry.name)
        rows.append({"name": entry.name, "version": entry.version, "set_at": at, "targets": used, "problem": problem})
        lines.append(f"{entry.name}: version {entry.version}, set {at}, used by {', '.join(used) or 'no target'}")
        if problem:
            lines.append(f"    BAD {problem}")
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(lines or ["Nothing is sealed: hostagent credential set NAME"]))
    raise SystemExit(1 if any(row["problem"] for row in rows) else 0)


@credential.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while a target uses it: that target cannot be reached any more.")
@click.pass_obj
def remove_command(config_path: str | None, name: str, force: bool) -> None:
    """Forget secret NAME."""
    config, store = _store(config_path)
    users = _targets_by_name(config).get(name)
    if users and not force:
        raise click.ClickException(f"{name} is used by {', '.join(users)}: change those documents first, or say --force")
    store.remove(name)
    click.echo(f"Removed {name}. A running proxy that has it keeps it until it starts anew.")


@credential.command("rotate-key")
@click.pass_obj
def rotate_key_command(config_path: str | None) -> None:
    """Seal the whole store with a new key. Interrupted at any point, the store opens with one of the two key files.

    Where systemd passes the key, the unit gets the new file when it starts next; the running one has what it needs.
    """
    import os
    from pathlib import Path

    from hostagent.daemon.credentials import next_key_place
    from hostagent.daemon.sealedstore import new_key
    from hostagent.durable import write_whole

    config, store = _store(config_path)
    if not os.path.lexists(config.seal_key):
        raise click.ClickException(f"{config.seal_key} is not there: the key that systemd passes is made where it comes from")
    following, key = next_key_place(config), new_key()
    write_whole(following, key.hex().encode() + b"\n", 0o600)
    count = store.rekey(key)
    following.rename(Path(config.seal_key))
    click.echo(f"{count} credentials are sealed with a new key, {config.seal_key}. Back it up apart from {config.paths.state}.")


def _root(config_path: str | None) -> Config:
    import os

    from hostagent.daemon.configfile import load_config

    if os.geteuid() != 0:
        raise NotPermittedError("only root may do this: the store and its key are root's")
    return load_config(config_path)


def _store(config_path: str | None, *, make: bool = False) -> tuple[Config, SealedStore]:
    """Return the configuration and the opened store; with ``make``, the first time, a key for it."""
    from pathlib import Path

    from hostagent.daemon.accounts import account_of
    from hostagent.daemon.credentials import open_store
    from hostagent.daemon.sealedstore import new_key
    from hostagent.durable import write_whole

    config = _root(config_path)
    key, file = Path(config.seal_key), Path(config.sealed_credentials)
    if make and not key.exists() and not file.exists() and not _passed():
        with contextlib.suppress(FileExistsError):  # another first `set` at the same moment made one, and may have sealed with it
            write_whole(key, new_key().hex().encode() + b"\n", 0o600, new=True)
        click.echo(f"Made {key}: whoever has it and {file} has the secrets. Back it up apart.")
    if make:
        import os

        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        os.chown(file.parent, 0, account_of(config.users.proxy).pw_gid)
        file.parent.chmod(0o750)
    return config, open_store(config)


def _passed() -> bool:
    """Whether systemd has passed a key."""
    import os
    from pathlib import Path

    from hostagent.daemon.credentials import SEAL_KEY

    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and Path(folder or "", SEAL_KEY).exists()


def _value(name: str) -> str:
    """Return the secret from standard input (one trailing newline is not part of it), or from a prompt on a terminal."""
    import sys

    if sys.stdin.isatty():
        return str(click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.buffer.read(1_048_576).decode()
    except UnicodeDecodeError:
        raise click.ClickException("standard input is not UTF-8 text; nothing was kept (for binary secrets: base64)") from None
    return text.removesuffix("\n")


def _now() -> int:
    import time

    return int(time.time())


def _targets_by_name(config: Config) -> dict[str, list[str]]:
    """Return for every sealed name the targets that use it."""
    from hostagent.daemon.configfile import load_targets

    found: dict[str, list[str]] = {}
    for target in load_targets(config).values():
        source = target.login.credential
        if source is not None and source.kind == "sealed":
            found.setdefault(source.location, []).append(target.name)
    return found


def _problem(store: SealedStore, name: str) -> str:
    from hostagent.daemon.sealedstore import SealedStoreError

    try:
        store.get(name)
    except SealedStoreError as error:
        return str(error)
    return ""


def _hand_over(config: Config, name: str) -> None:
    """Have the service take the new value, if it runs and a target uses it."""
    from pathlib import Path

    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.ipc import Reload, Reloaded

    if not _targets_by_name(config).get(name):
        return
    if not Path(config.enforcer_socket).exists():
        click.echo("The service does not run; it takes the value when it starts.")
        return
    answer, _ = EnforcerConnection(config.enforcer_socket).ask(Reload(), Reloaded)
    for line in (*answer.changes, *(f"note: {note}" for note in answer.notes)):
        click.echo(line)
    if answer.problem:
        raise click.ClickException(f"sealed, but the proxy keeps what it had: {answer.problem}")
