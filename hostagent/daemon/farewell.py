"""The end of ``hostagent uninstall``: the units go, what is left in the kernel is looked for, and what stays on disk is said."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

from hostagent.daemon import adoption
from hostagent.documents import Config
from hostagent.enforcer.removal import residue
from hostagent.enforcer.scopes import ANCHOR, UNIT

_BOOTED = Path("/run/systemd/system")
_APPROVERS = "hostagent-approvers"


def stop_adopted(config: Config) -> None:
    """Stop every adopted service: one that systemd starts again would bring enforcerd back.

    Raises:
        HostagentError: systemd refused.
    """
    if _by_units(config) and (names := adoption.adopted()):
        adoption.call("systemctl", "stop", *names)


def end_units(config: Config) -> list[str]:
    """Stop and disable our units if they are what ran this service, the slice and its anchor too; return what was done.

    Raises:
        HostagentError: systemd refused.
    """
    if not _by_units(config):
        return []
    adoption.call("systemctl", "disable", "--quiet", "hostagent.target")
    adoption.call("systemctl", "start", "hostagent-uninstall.target")
    return ["units hostagent.target (stopped, disabled), governed.slice"]


def _by_units(config: Config) -> bool:
    """Whether this service is the one that our units run, not one in the foreground beside it."""
    if not _BOOTED.is_dir() or config.enforcement.slice != UNIT:
        return False
    return "loaded" in adoption.call("systemctl", "show", "--property=LoadState", ANCHOR)


def left_in_kernel(config: Config) -> list[str]:
    """Return what of ours is still in the kernel; empty after a good uninstall."""
    return residue(config.enforcement.slice, config.enforcement.table, config.paths.runtime)


def left_on_disk(config: Config) -> list[str]:
    """Return what stays on purpose, and what takes it away: the package's purge, or a person."""
    accounts = [name for name in (config.users.proxy, config.users.recorder) if _known(name)]
    places = [path for path in (config.paths.config, config.paths.state) if Path(path).exists()]
    left = [f"accounts {', '.join(accounts)}"] if accounts else []
    left += [f"group {_APPROVERS}"] if any(each.gr_name == _APPROVERS for each in grp.getgrall()) else []
    left += [f"{place} ({'configuration' if place == config.paths.config else 'evidence, keys and the host CA'})" for place in places]
    if _BOOTED.is_dir():
        left += [f"{name}: still adopted, its next start brings hostagent back: hostagent unadopt {name}" for name in adoption.adopted()]
    return left


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


