"""``hostagent support-bundle``: what somebody who helps needs to see, and nothing secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostagent.model.errors import NotPermittedError

if TYPE_CHECKING:
    from hostagent.documents import Config


@click.command("support-bundle")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write. [default: ./hostagent-support-HOST-TIME.tar.gz]")
@click.option("--log", "logs", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True, help="A file that `hostagent up` writes its messages to.")
@click.pass_obj
def support_bundle_command(config_path: str | None, output: Path | None, logs: tuple[Path, ...]) -> None:
    """Gather versions, doctor, status, documents, rules, unit states and the last messages in one file. Root only.

    It holds no credential, key, token, statement, result or journal, and no value of an environment or a claim; what this host knows to
    be secret is searched for and struck out. It does hold names (hosts, targets, workloads, users): read it before you give it away.
    """
    import os
    import platform
    import time
    from dataclasses import asdict

    from hostagent.daemon.bundle import collect, write
    from hostagent.daemon.checkup import examine_all
    from hostagent.daemon.configfile import load_config

    if os.geteuid() != 0:
        raise NotPermittedError("only root may do this: it must know the secrets that it strikes out")
    config = load_config(config_path)
    now = int(time.time())
    top = f"hostagent-support-{platform.node()}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    place = output or Path(f"{top}.tar.gz")
    reports = {"doctor.json": [asdict(check) for check in examine_all(config_path)], "status.json": _status(config, config_path)}
    files = collect(config, reports, logs)
    try:
        write(place, top, files, now)
    except FileExistsError:
        raise click.ClickException(f"{place} exists; name another file with -o") from None
    click.echo(files["MANIFEST.txt"], nl=False)
    click.echo(f"\nWrote {place}. Look at it first: tar -xzf {place}")


def _status(config: Config, config_path: str | None) -> dict[str, object]:
    from hostagent.cli.control import ask
    from hostagent.cli.enforcerlink import EnforcerConnection
    from hostagent.ipc import Status, StatusReport
    from hostagent.model.errors import HostagentError

    told: dict[str, object] = {}
    try:
        told["enforcer"] = EnforcerConnection(config.enforcer_socket).ask(Status(), StatusReport)[0].report
    except HostagentError as error:
        told["enforcer"] = str(error)
    try:
        told["service"] = ask(config_path, "status")
        told["identities"] = ask(config_path, "identity.list")
    except HostagentError as error:
        told["service"] = str(error)
    return told
