"""``proxyd``'s side of a reload: documents read again, what may change does, and who is told of what may not.

Sessions live on, except those of a target that is gone or whose document is another one: they were opened by what is no longer
in force. A new credential counts from the next login on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from hostagent.daemon.configfile import load_config, load_targets
from hostagent.daemon.credentials import unseal
from hostagent.documents import Config
from hostagent.documents.changes import TargetChanges, config_changes, target_changes, with_live
from hostagent.ipc.messages import Renewed
from hostagent.model.errors import DocumentError, HostagentError, JournalError
from hostagent.model.target import Target
from hostagent.proxy.secrets import Secrets

log = logging.getLogger(__name__)

_RELOAD = "hostagent reload"
_LOOKUP_S = 2.0
"""How long an answer waits for the names of new targets; they are looked up on all the same."""


class Affected(Protocol):
    """What a change reaches: the service and its sessions."""

    def configure(self, config: Config) -> None:
        """Count by ``config`` from now on."""

    def targets_ended(self, names: frozenset[str]) -> None:
        """End the sessions of these targets and forget what is known of them."""


class Names(Protocol):
    """The resolver."""

    async def refresh(self) -> None:
        """Look every target's names up."""

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Addresses by name."""


class Renewal:
    """Keeps the configuration, the targets and their secrets as they are in force; the two dictionaries are changed in place."""

    def __init__(self, config_path: str | None, config: Config, targets: dict[str, Target], secrets: Secrets) -> None:
        """``config_path`` is where the configuration is read again; None: the default."""
        self._path = config_path
        self._config = config
        self._targets = targets
        self._secrets = secrets
        self._lookups: set[asyncio.Task[None]] = set()

    def pending(self) -> list[str]:
        """Return one line for each key and target that is not in force as it stands on disk, and what makes it count."""
        try:
            changes = config_changes(self._config, load_config(self._path))
        except HostagentError as error:
            lines = [f"the configuration on disk cannot be used: {error}"]
        else:
            lines = [f"{change} ({_RELOAD if change.live else 'counts after a restart of the service'})" for change in changes]
        try:
            documents = load_targets(self._config)
        except HostagentError as error:
            return [*lines, f"the targets on disk cannot be used: {error}"]
        names = sorted(name for name in documents.keys() | self._targets.keys() if documents.get(name) != self._targets.get(name))
        return [*lines, *(f"target {name}: its document on disk is another one ({_RELOAD})" for name in names)]

    def unusable(self) -> list[str]:
        """Return one line for each target whose credential cannot be had: connections to it are refused."""
        return [f"target {name} is refused: {problem}" for name, problem in self._secrets.problems.items()]

    async def renew(self, descriptor: int, service: Affected, resolver: Names, record: Callable[[str], None]) -> Renewed:
        """Take what is on disk and the secrets of ``descriptor`` (closed here); ``record`` gets one line before anything changes."""
        try:
            secrets = unseal(descriptor)
            config, targets = await asyncio.to_thread(self._read)
            self._complete(targets, secrets)
        except (HostagentError, OSError, msgspec.MsgspecError) as error:
            log.error("a reload was refused, everything stays as it was: %s", error)
            return Renewed(problem=str(error))
        changes = target_changes(self._targets, targets, self._secrets, secrets)
        live = [f"{change}" for change in config_changes(self._config, config) if change.live]
        lines = [*changes.lines(), *live]
        try:
            record("; ".join(lines) or "nothing changed")
        except JournalError as error:
            return Renewed(problem=f"the reload could not be recorded, so nothing was changed: {error}")
        self._apply(config, targets, secrets, changes, service)
        later = [name for name in (*changes.added, *changes.changed) if targets[name].sockets]
        sockets = [f"target {name}: its unix sockets count for workloads that are started from now on" for name in later]
        pending = await asyncio.to_thread(self.pending)
        notes = [*pending, *self.unusable(), *sockets, *await self._look_up(changes, resolver)]
        return Renewed(lines, notes)

    def _complete(self, targets: Mapping[str, Target], secrets: Secrets) -> None:
        """Add to ``secrets`` what a unit was given at its start and nobody can read again.

        Raises:
            DocumentError: one could not be read that must be. One that was unusable before stays so, and keeps nothing else from
                being reloaded.
        """
        for name, target in targets.items():
            source = target.login.credential
            if source is None or name in secrets or name in self._secrets.problems:
                continue
            before = self._targets.get(name)
            if source.kind != "systemd" or before is None or before.login.credential != source or name not in self._secrets:
                raise DocumentError(f"target {name}: {secrets.problems.get(name, 'its credential was not read; reload again')}")
            secrets[name] = self._secrets[name]
            secrets.problems.pop(name, None)

    def _read(self) -> tuple[Config, dict[str, Target]]:
        # Where documents lie is one of the keys that need a restart.
        return load_config(self._path), load_targets(self._config)

    def _apply(
        self, config: Config, targets: dict[str, Target], secrets: Secrets, changes: TargetChanges, service: Affected
    ) -> None:
        self._config = with_live(self._config, config)
        # What did not change stays the same object: sessions and caches go by it.
        kept = {name: self._targets[name] if self._targets.get(name) == target else target for name, target in targets.items()}
        for held, new in ((self._targets, kept), (self._secrets, secrets)):
            held.clear()
            held.update(new)  # type: ignore[arg-type]
        self._secrets.problems = secrets.problems
        service.configure(self._config)
        service.targets_ended(changes.ended)

    async def _look_up(self, changes: TargetChanges, resolver: Names) -> list[str]:
        if not changes.added and not changes.changed:
            return []
        lookup = asyncio.create_task(resolver.refresh())
        self._lookups.add(lookup)
        lookup.add_done_callback(self._lookups.discard)
        await asyncio.wait({lookup}, timeout=_LOOKUP_S)
        new = {host for name in (*changes.added, *changes.changed) for host in self._targets[name].hosts}
        unknown = sorted(host for host, found in resolver.names.items() if host in new and not found)
        return [f"{host} does not resolve on this host (yet): nothing can be reached by that name" for host in unknown]
