"""``hostagent config check``: everything that root wrote, looked at together, and every problem of it named with its place.

An *error* is what a start or a reload would refuse, or what would make every session of a target or launch of a workload fail; a
*warning* is what is probably not meant. Nothing is changed, nothing is sent anywhere, and no secret is in any text.
"""

from __future__ import annotations

import os
import pwd
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hostagent.daemon.accounts import account_of
from hostagent.daemon.configfile import check_together, load_config, read_document
from hostagent.daemon.credentials import read_secret
from hostagent.documents import Config, parse_target, parse_workload
from hostagent.documents.config import DEFAULT_CONFIG_PATH
from hostagent.documents.source import read
from hostagent.identity import KeySet
from hostagent.mask import DETECTORS
from hostagent.model.errors import DocumentError, HostagentError, IdentityError
from hostagent.model.target import Target, UpstreamTLS
from hostagent.model.workload import IdentityKind, Workload
from hostagent.policy import load
from hostagent.policy.glob import matcher
from hostagent.proxy.context import read_documents, unix_group_members
from hostagent.proxy.issuer import OWN_CLAIMS
from hostagent.proxy.keys import MAX_ANSWER
from hostagent.proxy.tls import upstream_context
from hostagent.proxy.trustedfile import read_token, read_trusted

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing found. ``line`` counts from 1."""

    file: str
    line: int
    severity: str
    message: str

    def __str__(self) -> str:
        """``file:line: severity: message``."""
        return f"{self.file}:{self.line}: {self.severity}: {self.message}"


class Survey:
    """One look at everything. ``problems`` holds what was found, ``counted`` how many documents of each kind there are."""

    def __init__(self, config_path: str | None) -> None:
        """Look; raises for nothing that is wrong in a document."""
        self.problems: list[Problem] = []
        self.counted: dict[str, int] = {}
        self._file = config_path or os.environ.get("HOSTAGENT_CONFIG") or DEFAULT_CONFIG_PATH
        try:
            config = load_config(config_path)
        except DocumentError as error:
            self._each(self._file, self._file, error)
            return
        self._accounts(config)
        targets = self._folder(Path(config.targets), parse_target)
        workloads = self._folder(Path(config.workloads), parse_workload)
        self._targets(config, targets)
        self._workloads(config, workloads, targets)
        self._policy(config, workloads, targets)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(problem.severity == "error" for problem in self.problems)

    def _add(self, file: str | Path, line: int, message: str, severity: str = "error") -> None:
        self.problems.append(Problem(str(file), line, severity, message))

    def _each(self, file: str | Path, name: str, error: DocumentError) -> None:
        """Note every problem of an error whose texts begin with ``name:line:``, ``file:`` or nothing."""
        for text in error.problems:
            rest = text.removeprefix(f"{name}:").removeprefix(f"{file}:")
            number, colon, message = rest.partition(":")
            if colon and number.strip().isdigit():
                self._add(file, int(number), message.strip())
            else:
                self._add(file, 1, rest.strip())

    def _folder(self, folder: Path, parse: Callable[[str, str], _T]) -> dict[str, _T]:
        found: dict[str, _T] = {}
        files = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
        self.counted[folder.name] = len(files)
        if not folder.is_dir():
            self._add(folder, 1, "there is no such folder: hostagent init makes it", "warning")
        for file in files:
            try:
                found[file.stem] = parse(file.stem, read_document(file))
            except DocumentError as error:
                self._each(file, file.stem, error)
        for stray in sorted(folder.glob("*.yml")) if folder.is_dir() else []:
            self._add(stray, 1, "is not read: its name must end in .yaml", "warning")
        return found

    def _line(self, file: Path, *path: str | int) -> int:
        try:
            return read(file.stem, file.read_text(encoding="utf-8")).line(path)
        except (OSError, UnicodeDecodeError, DocumentError):
            return 1

    # -- each kind -------------------------------------------------------------------------------------------------------

    def _accounts(self, config: Config) -> None:
        for user in (config.users.proxy, config.users.recorder):
            try:
                account_of(user)
            except DocumentError as error:
                self._add(self._file, 1, str(error))

    def _targets(self, config: Config, targets: Mapping[str, Target]) -> None:
        folder = Path(config.targets)
        try:
            check_together(targets)
        except DocumentError as error:
            self._each(folder, folder.name, error)
        for name, target in targets.items():
            file = folder / f"{name}.yaml"
            if target.tls is UpstreamTLS.VERIFY:
                self._try(file, ("ca_file",), lambda each=target: upstream_context(each))  # type: ignore[misc]
                if target.ca_file:
                    self._readable(file, ("ca_file",), target.ca_file, config.users.proxy)
            source = target.login.credential
            if source is None:
                self._add(file, self._line(file, "login"), "no credential: works only where the server asks for no password", "warning")
            elif source.kind == "systemd" and "CREDENTIALS_DIRECTORY" not in os.environ:
                self._add(file, self._line(file, "login", "credential"), "a systemd credential can be read by the unit only: not checked", "warning")
            else:
                self._try(file, ("login", "credential"), lambda each=source: read_secret(each, config))  # type: ignore[misc]

    def _workloads(self, config: Config, workloads: Mapping[str, Workload], targets: Mapping[str, Target]) -> None:
        taken = {each.port for each in targets.values() if each.loopback}
        for name, workload in workloads.items():
            file = Path(config.workloads) / f"{name}.yaml"
            for user in sorted(workload.launchers):
                if not _account(user):
                    self._add(file, self._line(file, "launchers"), f"launchers: there is no user {user}")
            if workload.user and (not _account(workload.user) or pwd.getpwnam(workload.user).pw_uid == 0):
                self._add(file, self._line(file, "user"), f"user: {workload.user} does not exist, or is root, which cannot be governed")
            for index, item in enumerate(workload.paths):
                if not Path(item.path).exists():
                    self._add(file, self._line(file, "paths", index), f"paths: {item.path} does not exist: a launch would fail")
            self._trust_files(file, workload, config)
            if workload.root and not Path(workload.root).is_dir():
                self._add(file, self._line(file, "root"), f"root: {workload.root} is no folder")
            for index, inbound in enumerate(workload.inbound):
                if inbound.port in taken:
                    self._add(file, self._line(file, "inbound", index), f"inbound: port {inbound.port} is that of a target on loopback")
            self._identity(file, workload)

    def _trust_files(self, file: Path, workload: Workload, config: Config) -> None:
        unseen = [Path(each) for each in (config.paths.config, config.paths.state, config.paths.runtime)]
        for index, path in enumerate(workload.trust_files):
            line = self._line(file, "trust_files", index)
            if not (Path(workload.root or "/") / path.lstrip("/")).is_file():
                self._add(file, line, f"trust_files: {path} is no file: a launch would fail")
            elif not workload.root and any(Path(path).resolve().is_relative_to(folder.resolve()) for folder in unseen):
                self._add(file, line, f"trust_files: {path} is in a folder that no workload can look into: put it into /etc/ssl/certs")

    def _identity(self, file: Path, workload: Workload) -> None:
        source = workload.identity
        if source.kind is not IdentityKind.TOKEN_FILE:
            if taken := sorted(OWN_CLAIMS & source.claims.keys()):
                text = f"identity: claims must not contain {', '.join(taken)}: a launch would be refused"
                self._add(file, self._line(file, "identity", "claims"), text)
            return
        try:
            read_token(workload)
        except IdentityError as error:
            missing = not Path(source.path).exists()
            text = f"identity: {error}{' (whoever renews it may not have run yet)' if missing else ''}"
            self._add(file, self._line(file, "identity", "path"), text, "warning" if missing else "error")
        issuer = urlsplit(source.issuer)
        local = issuer.hostname in ("localhost", "127.0.0.1", "::1")
        if source.issuer and not source.jwks and not (issuer.scheme == "https" or (issuer.scheme == "http" and local)):
            text = f"identity: keys of {source.issuer} cannot be found by discovery (https only): name them with jwks"
            self._add(file, self._line(file, "identity", "issuer"), text)
        if source.jwks.startswith("/"):
            self._try(file, ("identity", "jwks"), lambda: KeySet.parse(read_trusted(source.jwks, MAX_ANSWER, secret=False)))
        if source.ca_file and not Path(source.ca_file).is_file():
            self._add(file, self._line(file, "identity", "ca_file"), f"identity: ca_file {source.ca_file} is no file")

    def _policy(self, config: Config, workloads: Mapping[str, Workload], targets: Mapping[str, Target]) -> None:
        folder = Path(config.policy)
        try:
            documents = read_documents(folder)
        except DocumentError as error:
            self._each(folder, folder.name, error)
            return
        self.counted["policy"] = len(documents)
        try:
            load(documents, detectors=frozenset(DETECTORS), group_members=unix_group_members, zone=zoneinfo.ZoneInfo)
        except DocumentError as error:
            for text in error.problems:
                name, _, rest = text.partition(":")
                self._each(folder / name, name, DocumentError(rest))
        for name, text in documents.items():
            for line, what, pattern in _names_in(name, text):
                if not any(map(matcher([pattern]), workloads if what == "workload" else targets)):
                    self._add(folder / name, line, f"no {what} is called {pattern}: this rule applies to nothing", "warning")

    # -- parts -----------------------------------------------------------------------------------------------------------

    def _try(self, file: Path, path: tuple[str, ...], check: Callable[[], object]) -> None:
        try:
            check()
        except HostagentError as error:
            self._add(file, self._line(file, *path), f"{'.'.join(path)}: {error}")

    def _readable(self, file: Path, path: tuple[str, ...], named: str, user: str) -> None:
        """An unprivileged process reads it: only what everybody may read, or its own user, is of use."""
        try:
            account = pwd.getpwnam(user)
            status = Path(named).stat()
        except (KeyError, OSError):
            return
        if not status.st_mode & 0o004 and status.st_uid != account.pw_uid and status.st_gid != account.pw_gid:
            self._add(file, self._line(file, *path), f"{'.'.join(path)}: user {user} cannot read {named} (chmod o+r {named})")


def _account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _names_in(name: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, kind and pattern of every workload and target that a policy document names."""
    try:
        source = read(name, text)
    except DocumentError:
        return
    rules = source.value.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else []):
        for part, what in (("who", "workload"), ("where", "target")):
            section: Any = rule.get(part) if isinstance(rule, dict) else None
            named: Any = section.get(what) if isinstance(section, dict) else None
            for pattern in named if isinstance(named, list) else [named]:
                if isinstance(pattern, str):
                    yield source.line(("rules", index, part, what)), what, pattern
