"""Gets the targets' secrets to ``proxyd`` without a file that it, or anyone else unprivileged, could read.

The supervisor (root) reads what the target documents name and hands the values over in a sealed memory file; under systemd
the unit's LoadCredential does the same, or passes the key that opens the sealed store. A reload hands the running proxy
another such file. A secret is never logged and never leaves these places.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hostagent.daemon.accounts import account_of
from hostagent.daemon.sealedstore import SealedStore, parse_key
from hostagent.documents import Config
from hostagent.model.errors import DocumentError, HostagentError
from hostagent.model.target import CredentialSource, Target
from hostagent.proxy.secrets import Secrets

SEAL_KEY = "hostagent-seal-key"
"""The name under which systemd passes the key of the sealed store (LoadCredential, LoadCredentialEncrypted)."""

_SECRET_LIMIT = 65_536
_ACL_MASK = 0o040
"""systemd lets a unit's user in by an ACL, whose mask shows as the group's bits; the folder is the unit's alone (0500)."""


def read_secret(source: CredentialSource, config: Config | None = None) -> str:
    """Return the secret that ``source`` names. Run as root; one trailing newline is not part of the secret.

    ``config`` says where the sealed store is.

    Raises:
        DocumentError: missing, unreadable, too large, or readable by others than root. Never quotes content.
        SealedStoreError: the sealed store cannot be used, or not for this one.
    """
    match source.kind:
        case "file":
            return _read_private(Path(source.location)).rstrip("\n")
        case "env":
            path, _, key = source.location.partition("#")
            return _environment_value(Path(path), key)
        case "systemd":
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if not folder:
                raise DocumentError(f"credential {source.location}: no CREDENTIALS_DIRECTORY (not run by systemd?)")
            return _read_private(Path(folder) / source.location, _ACL_MASK).rstrip("\n")
        case "sealed" if config is not None:
            return open_store(config).get(source.location)
        case _:
            raise DocumentError(f"unknown kind of credential: {source.kind}")


def _environment_value(path: Path, key: str) -> str:
    for line in _read_private(path).splitlines():
        name, found, value = line.strip().removeprefix("export ").partition("=")
        if found and name.strip() == key:
            value = value.strip()
            quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
            return value[1:-1] if quoted else value
    raise DocumentError(f"{path}: no line {key}=…")


def open_store(config: Config) -> SealedStore:
    """Return the sealed store, with the key that systemd passed or, for root, the one in the key file.

    A change of the key that a crash interrupted is completed: the store says with which key it is sealed.

    Raises:
        DocumentError: there is no key, or others could read it.
        SealedStoreError: the key file holds no key.
    """
    path = Path(config.sealed_credentials)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    passed = Path(folder) / SEAL_KEY if folder else None
    place = passed if passed is not None and passed.exists() else Path(config.seal_key)
    key = parse_key(_read_private(place, _ACL_MASK if place == passed else 0), str(place))
    store = SealedStore(path, key, gid=account_of(config.users.proxy).pw_gid)
    following = next_key_place(config)
    if place != passed and following.exists():
        later = parse_key(_read_private(following), str(following))
        if store.sealed_with(later):
            following.rename(place)
            return SealedStore(path, later, gid=account_of(config.users.proxy).pw_gid)
    return store


def next_key_place(config: Config) -> Path:
    """Return where a new seal key waits while the store is being sealed with it."""
    return Path(f"{config.seal_key}.next")


def _read_private(path: Path, besides: int = 0) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise DocumentError(f"credential {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"credential {path}: not a regular file")
        if status.st_mode & 0o077 & ~besides or status.st_uid not in (0, os.geteuid()):
            raise DocumentError(f"credential {path}: must belong to root with mode 0600 (chmod 600 {path})")
        data = os.read(descriptor, _SECRET_LIMIT + 1)
    finally:
        os.close(descriptor)
    if len(data) > _SECRET_LIMIT:
        raise DocumentError(f"credential {path}: larger than {_SECRET_LIMIT} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DocumentError(f"credential {path}: not UTF-8 text") from None


def seal(secrets: Secrets) -> int:
    """Return the descriptor of a sealed memory file with the secrets, positioned at its start."""
    descriptor = os.memfd_create("hostagent-credentials", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(msgspec.json.encode({"secrets": dict(secrets), "problems": secrets.problems}))
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def unseal(descriptor: int) -> Secrets:
    """Return what was sealed and close ``descriptor``."""
    with os.fdopen(descriptor, "rb") as file:
        passed = msgspec.json.decode(file.read(), type=dict[str, dict[str, str]])
    return Secrets(passed["secrets"], passed["problems"])


def gather(targets: Mapping[str, Target], config: Config | None = None) -> Secrets:
    """Return the secrets by target name; one that cannot be had is a problem of its target alone.

    Called by the supervisor, or by a unit that has LoadCredential and no supervisor.
    """
    values: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name, target in targets.items():
        if target.login.credential is None:
            continue
        try:
            values[name] = read_secret(target.login.credential, config)
        except HostagentError as error:
            problems[name] = str(error)
    return Secrets(values, problems)
