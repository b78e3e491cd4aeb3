"""``enforcerd``: the root process that fences, launches and ends workloads. Run by ``hostagent up`` or a unit."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from hostagent.daemon import UNINSTALLED, logs
from hostagent.daemon.accounts import account_of
from hostagent.daemon.configfile import load_config, load_started, load_targets, load_workloads
from hostagent.daemon.credentials import gather, seal
from hostagent.daemon.hardening import harden
from hostagent.daemon.journalfile import JournalFile
from hostagent.daemon.notify import Notifier
from hostagent.documents import Config
from hostagent.enforcer import Server, Settings
from hostagent.enforcer.settings import Reread
from hostagent.model.errors import HostagentError
from hostagent.model.ports import Journal

log = logging.getLogger("hostagent.enforcerd")

WRITER = "enforcerd"


@click.command("enforcerd")
@click.option("--config", "config_path", default=None, help="Configuration file.")
@click.option("--ready-fd", type=int, default=None, help="Gets one line when requests can be served.")
@click.option("--systemd", is_flag=True, help="Leaves are scopes made by systemd, as the unit wants them.")
def main(config_path: str | None, ready_fd: int | None, systemd: bool) -> None:
    """Fence and launch governed workloads. Not meant to be started by hand: see `hostagent up`."""
    logs.configure("enforcerd")
    if os.geteuid() != 0:
        raise click.ClickException("enforcerd must run as root")
    harden()
    try:
        if serve(config_path, ready_fd, systemd=systemd):
            sys.exit(UNINSTALLED)
    except HostagentError as error:
        log.critical("%s", error)
        sys.exit(1)


def serve(config_path: str | None, ready_fd: int | None, *, systemd: bool = False) -> bool:
    """Run in the foreground until SIGTERM, SIGINT or an uninstall; return whether it was an uninstall.

    Raises:
        HostagentError: the configuration is wrong, the journal cannot be written, or the host cannot be fenced.
    """
    config = load_started(config_path)
    notifier = Notifier()
    _folder(config.paths.runtime, 0o755)
    _folder(f"{config.paths.state}/enforcerd", 0o700)

    def ready() -> None:
        log.info("fence up, ready")
        notifier.ready()
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")

    journal = JournalFile(
        f"{config.journal}/{WRITER}", WRITER, key_file=Path(config.paths.state) / "enforcerd" / "journal.key"
    )
    with journal:
        settings = replace(settings_from(config, journal, config_path), systemd=systemd, store=notifier if notifier.listening else None)
        return Server(settings).run(ready, notifier.alive)


def settings_from(config: Config, journal: Journal, config_path: str | None = None) -> Settings:
    """Return the enforcer's settings from the service's configuration; a reload reads ``config_path`` again.

    Raises:
        DocumentError: the proxy's account does not exist.
    """
    proxy = account_of(config.users.proxy)
    recorder = account_of(config.users.recorder)

    def reread() -> Reread:
        found = load_config(config_path)
        load_workloads(config)
        return Reread(seal(gather(load_targets(config), config)), found.verify.every_s, found.verify.freeze)

    return Settings(
        runtime=config.paths.runtime,
        proxy_uid=proxy.pw_uid,
        proxy_gid=proxy.pw_gid,
        journal=journal,
        workloads=lambda: load_workloads(config),
        loopback_ports=lambda: frozenset(each.port for each in load_targets(config).values() if each.loopback),
        unix_targets=lambda: tuple(path for each in load_targets(config).values() for path in each.sockets),
        ca_file=config.ca_certificate,
        hidden=(config.paths.config, config.paths.state),
        slice_name=config.enforcement.slice,
        table=config.enforcement.table,
        uid_first=config.enforcement.uid_first,
        uid_count=config.enforcement.uid_count,
        quarantine_file=f"{config.paths.state}/enforcerd/quarantine.json",
        firewall=config.enforcement.firewall,
        bpf=config.enforcement.bpf,
        reserved_uids=frozenset({proxy.pw_uid, recorder.pw_uid}),
        verify_every_s=config.verify.every_s,
        verify_freeze=config.verify.freeze,
        target_names=lambda: tuple(name for each in load_targets(config).values() for name in each.hosts if _is_name(name)),
        reread=reread,
    )


def _is_name(host: str) -> bool:
    """Whether ``host`` is looked up by DNS."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost"
    return False


def _folder(path: str, mode: int) -> None:
    Path(path).mkdir(mode=mode, parents=True, exist_ok=True)


if __name__ == "__main__":
    main()
