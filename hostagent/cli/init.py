"""``hostagent init``: the configuration folder of a new installation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from hostagent.cli.writing import next_steps

_FOLDERS = (("", 0o755), ("targets", 0o755), ("workloads", 0o755), ("policy", 0o755), ("secrets", 0o700))
_APPROVERS = "hostagent-approvers"
_NEXT = (
    ("hostagent doctor", "is this host ready?"),
    ('hostagent target add crm-db "postgresql://USER@HOST:5432/DATABASE" --secret ask', "what may be reached"),
    ("hostagent workload add my-bot", "what may be launched"),
    ("hostagent policy new my-bot --from-example starter --workload my-bot --target crm-db", "what it may do"),
    ("hostagent config check", "everything right?"),
    ("hostagent up", "run the service"),
)


@click.command("init")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Where. [default: the folder of --config, else /etc/hostagent]")
@click.option("--state", metavar="DIR", default="", help="Folder of journal, evidence and keys. [default: /var/lib/hostagent]")
@click.option("--runtime", metavar="DIR", default="", help="Folder of the sockets. [default: /run/hostagent]")
@click.option("--accounts", is_flag=True, help="Also make the unix users and the approvers' group that are missing.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@click.pass_obj
def init_command(
    config_path: str | None, folder: Path | None, state: str, runtime: str, accounts: bool, dry_run: bool
) -> None:
    """Make the configuration folder: a commented configuration, a policy that denies everything, folders for the rest.

    \b
    Safe to repeat: what exists is left as it is (folders get the modes they must have), and each thing done is said.
    Run it as root.

    \b
    Example:
      hostagent init --accounts
      hostagent target add crm-db "postgresql://crm_proxy@crm.internal/crm" --secret ask
    """
    from hostagent.cli.examples import POLICY
    from hostagent.documents import parse_config
    from hostagent.documents.config import DEFAULT_CONFIG_PATH
    from hostagent.documents.drafts import config_text

    file = Path(config_path or DEFAULT_CONFIG_PATH).absolute()
    folder = folder.absolute() if folder else file.parent
    file = folder / file.name
    wanted = {"config": str(folder), "state": state, "runtime": runtime}
    usual = parse_config("defaults", "").paths.model_dump()
    paths = {key: value for key, value in wanted.items() if value and value != usual[key]}
    text = config_text(parse_config("defaults", ""), paths)
    parse_config(str(file), text)
    for name, mode in _FOLDERS:
        _make_folder(folder / name, mode, dry_run)
    _write_once(file, text, dry_run)
    _write_once(folder / "policy" / "default.yaml", (POLICY / "default.yaml").read_text(encoding="utf-8"), dry_run)
    missing = missing_accounts(str(file) if file.exists() else None)
    if accounts:
        _make_accounts(missing, dry_run)
        missing = []
    next_steps([*((" ".join(command), "") for command in missing), *_NEXT], str(file))


def missing_accounts(config_path: str | None) -> list[list[str]]:
    """Return the commands that make the unix accounts and the group that are missing."""
    import grp
    import pwd

    from hostagent.daemon.configfile import load_config

    users = load_config(config_path).users
    commands = []
    for name in (users.proxy, users.recorder):
        try:
            pwd.getpwnam(name)
        except KeyError:
            commands.append(["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name])
    try:
        grp.getgrnam(_APPROVERS)
    except KeyError:
        commands.append(["groupadd", "--system", _APPROVERS])
    return commands


def _make_folder(folder: Path, mode: int, dry_run: bool) -> None:
    from hostagent.daemon.placing import make_folder

    if dry_run:
        click.echo(f"would {'keep' if folder.is_dir() else 'make'} {folder}/ (mode {mode:o})")
        return
    done = make_folder(folder, mode)
    click.echo(f"{'kept ' if not done else 'made ' if done == 'made' else 'mended'} {folder}/ ({done if '->' in done else f'mode {mode:o}'})")


def _write_once(path: Path, text: str, dry_run: bool) -> None:
    from hostagent.daemon.placing import AlreadyThereError, place

    if dry_run:
        click.echo(f"would {'keep' if path.exists() else 'write'} {path}")
        return
    try:
        place(path, text)
    except AlreadyThereError:
        click.echo(f"kept  {path}")
    else:
        click.echo(f"wrote {path}")


def _make_accounts(commands: list[list[str]], dry_run: bool) -> None:
    for command in commands:
        if dry_run:
            click.echo(f"would run {' '.join(command)}")
            continue
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"{' '.join(command)}: {done.stderr.strip()}")
        click.echo(f"made  {'group' if command[0] == 'groupadd' else 'user'} {command[-1]}")
