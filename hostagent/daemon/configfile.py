"""Reads the configuration and the folders of documents that root wrote."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from hostagent.documents import Config, parse_config, parse_target, parse_workload
from hostagent.documents.changes import with_live
from hostagent.documents.config import DEFAULT_CONFIG_PATH
from hostagent.ipc.codec import MAXIMUM_UNIX_SOCKETS
from hostagent.model.errors import DocumentError
from hostagent.model.flow import Endpoint
from hostagent.model.target import Target
from hostagent.model.workload import Workload

STARTED = "HOSTAGENT_STARTED_WITH"
"""Environment variable: a file of root's with the configuration that the supervisor was started with."""

log = logging.getLogger(__name__)

_T = TypeVar("_T")


def load_config(path: str | None = None) -> Config:
    """Return the configuration at ``path`` (default: ``$HOSTAGENT_CONFIG``, else /etc/hostagent/hostagent.toml).

    A missing default file means the defaults; a missing file that was *named* is an error.

    Raises:
        DocumentError: unreadable or wrong.
    """
    named = path or os.environ.get("HOSTAGENT_CONFIG")
    file = Path(named or DEFAULT_CONFIG_PATH)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise DocumentError(f"{file}: no such file") from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{file}: {error}") from error
    return parse_config(str(file), text)


def load_started(path: str | None) -> Config:
    """Return the configuration that this process counts by: what the service was started with, and the live keys of ``path`` now.

    A process that is started again after a crash must not count by keys that wait for a restart of the whole service, nor stay away
    because the file has become wrong since. Without a supervisor that says what it started with (``STARTED``) it is ``load_config``.

    Raises:
        DocumentError: as ``load_config``.
    """
    copy = os.environ.get(STARTED)
    if not copy:
        return load_config(path)
    started = parse_config(copy, read_document(Path(copy)))
    try:
        return with_live(started, load_config(path))
    except DocumentError as error:
        log.error("the configuration is wrong now; what the service was started with counts: %s", error)
        return started


def load_workloads(config: Config) -> dict[str, Workload]:
    """Return every declared workload by name.

    Raises:
        DocumentError: any document is wrong, or its file could be changed by someone other than root.
    """
    return _load_folder(Path(config.workloads), parse_workload)


def load_targets(config: Config) -> dict[str, Target]:
    """Return every declared target by name.

    Raises:
        DocumentError: any document is wrong, or two targets claim the same host and port, or the same unix socket.
    """
    targets = _load_folder(Path(config.targets), parse_target)
    check_together(targets)
    return targets


def check_together(targets: Mapping[str, Target]) -> None:
    """See whether all ``targets`` can be served at once.

    Raises:
        DocumentError: two of them claim the same host and port, or the same unix socket, or there are too many sockets.
    """
    claimed: dict[Endpoint, str] = {}
    for target in targets.values():
        for place in (*(Endpoint(host, target.port) for host in target.hosts), *(Endpoint(path, 0) for path in target.sockets)):
            other = claimed.setdefault(place, target.name)
            if other != target.name:
                raise DocumentError(f"targets {other} and {target.name} both claim {place}")
    if sum(len(target.sockets) for target in targets.values()) > MAXIMUM_UNIX_SOCKETS:
        raise DocumentError(f"all targets together may have at most {MAXIMUM_UNIX_SOCKETS} unix sockets")


def _load_folder(folder: Path, parse: Callable[[str, str], _T]) -> dict[str, _T]:
    if not folder.is_dir():
        return {}
    documents: dict[str, _T] = {}
    for file in sorted(folder.glob("*.yaml")):
        documents[file.stem] = parse(file.stem, read_document(file))
    return documents


def read_document(file: Path) -> str:
    """Return the text of a document that only root could have written.

    Raises:
        DocumentError: it cannot be read, or someone else could change it.
    """
    try:
        status = file.stat()
        if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DocumentError(f"{file}: must belong to root and be writable by root alone (chown root {file}; chmod go-w {file})")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{file}: {error}") from error
