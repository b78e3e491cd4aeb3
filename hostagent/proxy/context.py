"""The rim of policy: the folder of documents, watched, and the context providers, asked in the background.

``PolicyStore`` is what a session reads for every judgement: ``current`` (the rule set) and ``context`` (time and attributes), both
plain attribute reads. A set of documents takes effect whole or not at all; a wrong one leaves the last good one in force and
becomes a row. Files are polled, not watched by inotify, because documents also arrive by rename, symlink and bind mount.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import stat
import time
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hostagent.model.errors import DocumentError
from hostagent.model.event import Event, EventKind
from hostagent.model.ports import Journal
from hostagent.policy import Policy, PolicyContext, empty, load
from hostagent.proxy.providers import Providers

log = logging.getLogger(__name__)

POLL_S = 0.2
"""How often the folder is looked at. A change is taken when two looks agree, so well within a second."""

EXPECTED_SUFFIX = ".expected.yaml"
"""Tables of expected verdicts lie beside the documents and are not policy."""


class _Files(NamedTuple):
    """The folder as found: text by document name, or why it cannot be used; marks tell one writing from the next."""

    documents: dict[str, str]
    problem: str
    marks: tuple[tuple[int, int, int], ...] = ()

    def says_what(self, other: _Files | None) -> bool:
        """Return whether both say the same, whenever it was written."""
        return other is not None and (self.documents, self.problem) == (other.documents, other.problem)


def unix_group_members(name: str) -> frozenset[str]:
    """Return the users in unix group ``name``, by list or as primary group; none if there is no such group."""
    try:
        group = grp.getgrnam(name)
    except KeyError:
        return frozenset()
    primary = (user.pw_name for user in pwd.getpwall() if user.pw_gid == group.gr_gid)
    return frozenset([*group.gr_mem, *primary])


def read_documents(folder: Path, *, trusted: bool = True) -> dict[str, str]:
    """Return the text of every policy document in ``folder`` by file name: ``*.yaml`` and ``*.yml``, hidden files left out.

    Args:
        folder: not searched below.
        trusted: demand that the folder and its files belong to root or this user and nobody else may write them.

    Raises:
        DocumentError: the folder or a file cannot be read, or someone else could change it.
    """
    try:
        files = sorted(path for path in folder.iterdir() if _is_document(path))
        for path in (folder, *files) if trusted else ():
            status = path.stat()
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise DocumentError(f"{path}: must belong to root, and nobody else may write it (chmod go-w)")
        return {path.name: path.read_text(encoding="utf-8") for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{folder}: cannot be read: {error}") from error


def _is_document(path: Path) -> bool:
    name = path.name
    return name.endswith((".yaml", ".yml")) and not name.startswith(".") and not name.endswith(EXPECTED_SUFFIX)


def _look(folder: Path) -> _Files:
    try:
        documents = read_documents(folder)
        # Taken after the text: a file that changes in between looks different next time.
        states = [(folder / name).stat() for name in sorted(documents)]
        return _Files(documents, "", tuple((state.st_ino, state.st_mtime_ns, state.st_size) for state in states))
    except OSError as error:
        return _Files({}, f"{folder}: cannot be read: {error}")
    except DocumentError as error:
        return _Files({}, str(error))


class PolicyStore:
    """The rule set in force and the context it is judged in.

    Until a set was loaded, ``current`` is the empty one, which denies everything.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        journal: Journal,
        *,
        detectors: frozenset[str] | None = None,
        transforms: frozenset[str] | None = None,
        group_members: Callable[[str], frozenset[str]] = unix_group_members,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch nothing yet; see ``reload`` and ``run``.

        Args:
            folder: the folder of policy documents.
            journal: where every load and refusal becomes an event.
            detectors: names of the content detectors there are.
            transforms: names of the mask transforms there are.
            group_members: who may approve, by unix group.
            clock: wall-clock time in unix seconds.
        """
        self.folder = Path(folder)
        self.current: Policy = empty()
        self.problem = "no policy was loaded yet"
        self._journal = journal
        self._detectors = detectors
        self._transforms = transforms
        self._group_members = group_members
        self._clock = clock
        self._providers = Providers(clock)
        self._seen: _Files | None = None

    @property
    def context(self) -> PolicyContext:
        """The time now and what the context providers last said."""
        return PolicyContext(self._clock(), self._providers.values)

    def reload(self) -> bool:
        """Read the folder and judge by it from the next statement on; return whether it was taken.

        A refused set leaves ``current`` as it was and its problems in ``problem``. The same content is looked at again,
        because what surrounds it (a unix group) may have changed.

        Raises:
            JournalError: the change could not be recorded, and was not made.
        """
        found = _look(self.folder)
        return self._install(found, self._compile(found))

    async def run(self) -> None:
        """Watch the folder and ask the context providers until cancelled.

        Raises:
            JournalError: a change could not be recorded (in an exception group, as everything from a task group).
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._providers.run())
            tasks.create_task(self._watch())

    async def _watch(self) -> None:
        before = self._seen
        while True:
            found = await asyncio.to_thread(_look, self.folder)
            # A file that is being written may be valid and lack its last rules: only what two looks agree on is taken.
            seen = self._seen
            if found == before and not found.says_what(seen):
                outcome = await asyncio.to_thread(self._compile, found)
                if self._seen is seen:  # otherwise ``reload`` was quicker, with what was there later
                    self._install(found, outcome)
            before = found
            await asyncio.sleep(POLL_S)

    def _compile(self, found: _Files) -> Policy | str:
        """Return the rule set, or the problems as text."""
        if found.problem:
            return found.problem
        try:
            return load(
                found.documents,
                detectors=self._detectors,
                transforms=self._transforms,
                group_members=self._group_members,
                zone=zoneinfo.ZoneInfo,
            )
        except DocumentError as error:
            return str(error)

    def _install(self, found: _Files, outcome: Policy | str) -> bool:
        if isinstance(outcome, str):
            self._record("refused", self.current.hash, found, outcome)
            self._seen = found
            self.problem = outcome
            log.error("policy refused, the one before it stays in force (without one, everything is denied): %s", outcome)
            return False
        self._record("loaded", outcome.hash, found, "")
        self._seen = found
        self._providers.configure(outcome.providers)
        self.current = outcome
        self.problem = ""
        return True

    def _record(self, outcome: str, policy: str, found: _Files, reason: str) -> None:
        fields = {
            "outcome": outcome,
            "policy": policy,
            "documents": sorted(found.documents),
            "reason": reason,
        }
        self._journal.append([Event(EventKind.POLICY, int(self._clock() * 1e9), "", "", fields)])
