"""Gets the targets' secrets to ``proxyd`` without a file that it, or anyone else unprivileged, could read.

The supervisor (root) reads what the target documents name and hands the values over in a sealed memory file; under systemd
the unit's LoadCredential does the same. A secret is never logged and never leaves these two places.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hostagent.model.errors import DocumentError
from hostagent.model.target import CredentialSource, Target

_SECRET_LIMIT = 65_536


def read_secret(source: CredentialSource) -> str:
    """Return the secret that ``source`` names. Run as root; one trailing newline is not part of the secret.

    Raises:
        DocumentError: missing, unreadable, too large, or readable by others than root. Never quotes content.
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
            return _read_private(Path(folder) / source.location).rstrip("\n")
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


def _read_private(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise DocumentError(f"credential {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"credential {path}: not a regular file")
        if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
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


def seal(targets: Mapping[str, Target]) -> int:
    """Return the descriptor of a sealed memory file with every target's secret, positioned at its start.

    Raises:
        DocumentError: a secret cannot be had.
    """
    secrets = read_all(targets)
    descriptor = os.memfd_create("hostagent-credentials", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, msgspec.json.encode(secrets))
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def unseal(descriptor: int) -> dict[str, str]:
    """Return the secrets by target name and close ``descriptor``."""
    with os.fdopen(descriptor, "rb") as file:
        return msgspec.json.decode(file.read(), type=dict[str, str])


def read_all(targets: Mapping[str, Target]) -> dict[str, str]:
    """Return the secrets by target name. Called by the supervisor, or by a unit that has LoadCredential and no supervisor.

    Raises:
        DocumentError: a secret cannot be had.
    """
    return {
        name: read_secret(target.login.credential)
        for name, target in targets.items()
        if target.login.credential is not None
    }
