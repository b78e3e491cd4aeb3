"""What the processes of this host see, as far as it says what a name of theirs means here: roots, folders, mounts, networks."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field

from hostagent.enforcer.confinement import mounts

log = logging.getLogger(__name__)

_MOST_OF_ONE = 1_048_576
"""Bytes of one process's mounts that are read: some thousands. Whoever may make a user namespace can make them by the ten thousand."""
_MOST = 20_000
"""Mounts of all views, and names in them, that are looked at; it must not take longer than a look of the auditor's may."""
ANY = 0
"""Every network namespace."""


@dataclass(slots=True)
class Beholders:
    """All processes that were there.

    ``roots`` and ``folders`` (where they are) by the names they have here, ``networks`` the namespaces of each with a process in it.
    ``views`` tells what folders of those who see other mounts than we do are called here, by their network namespace; ``ANY`` is
    all of them. ``twice`` tells which of our own folders have other names besides.
    """

    roots: set[str] = field(default_factory=lambda: {"/"})
    folders: set[str] = field(default_factory=lambda: {"/"})
    networks: dict[int, int] = field(default_factory=dict)
    views: dict[int, dict[str, set[str]]] = field(default_factory=dict)
    twice: mounts.Aliases = field(default_factory=dict)

    def add(self, network: int, known: mounts.Aliases) -> None:
        """Note what somebody in ``network`` calls folders of ours."""
        for view in (self.views.setdefault(network, {}), self.views.setdefault(ANY, {})):
            for theirs, ours in known.items():
                view.setdefault(theirs, set()).update(ours)

    def renamed(self, names: Collection[str], network: int = ANY) -> dict[str, set[str]]:
        """Return what absolute ``names``, given by somebody in ``network``, may be called here, each with the names it stands for."""
        known = self.views.get(network, {})
        found: dict[str, set[str]] = {}
        for name in names if known else ():
            for path in mounts.elsewhere(os.path.normpath(name), known) if name.startswith("/") else ():
                found.setdefault(path, set()).add(name)
            if len(found) > _MOST:
                log.warning("sockets of this host have more than %d names in other views: some may not be found", _MOST)
                break
        return found


def look_around() -> Beholders:
    """Return what the processes see now. Of those who see the same, one is asked."""
    found = Beholders()
    ours = mounts.listed()
    left = _MOST
    alike: dict[tuple[str, str], mounts.Aliases] = {}
    told: set[tuple[int, str, str]] = set()
    for pid in _numbers():
        with contextlib.suppress(OSError):
            # Asked of every process of the host: pathlib would double what that costs.
            root, folder, view, network = (os.readlink(f"/proc/{pid}/{link}") for link in ("root", "cwd", "ns/mnt", "ns/net"))  # noqa: PTH115
            known = alike.get((view, root))
            if known is None:
                theirs = mounts.listed(pid, _MOST_OF_ONE) if left > 0 else []
                left -= len(theirs)
                known = alike[view, root] = mounts.aliases(ours, theirs)
            number = int(network[len("net:[") : -1])
            found.networks.setdefault(number, int(pid))
            found.roots.update((root, *mounts.elsewhere(root, known)))
            found.folders.update((folder, *mounts.elsewhere(folder, known)))
            if known and (number, view, root) not in told:
                told.add((number, view, root))
                found.add(number, known)
    if left <= 0:
        log.warning("processes of this host see more than %d mounts: sockets that some of them make may not be found", _MOST)
    found.twice = mounts.aliases(ours, ours)
    return found


def _numbers() -> list[str]:
    with os.scandir("/proc") as entries:
        return [entry.name for entry in entries if entry.name.isdigit()]
