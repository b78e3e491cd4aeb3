"""Content of the files replaced in a workload's view: how it resolves names, who it is, and whom its TLS clients trust."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from hostagent.enforcer.confinement import keystore, trust
from hostagent.enforcer.confinement.rootfs import Files, HostFiles
from hostagent.model.errors import HostagentError

RESOLVER = "127.0.0.1"
"""Any address would do: port 53 is redirected to the leaf's own listener wherever it is sent."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
)


def system_bundle(source: Files) -> str:
    """Return the path of the CA bundle there, empty if there is none."""
    return next((path for path in _BUNDLES if source.exists(path)), "")


def replaced_files(
    ca_file: str, trust_files: Iterable[str], name: str, uid: int, gid: int, home: str, source: Files
) -> dict[str, bytes]:
    """Return the new content of each file by path.

    Args:
        ca_file: our CA certificate, PEM.
        trust_files: bundles (PEM, or Java's key stores) of the workload's own that get it added.
        name: the account's name inside; empty to leave the accounts alone (the workload runs as a login user).
        uid: the account's uid.
        gid: its gid.
        home: its home folder.
        source: where all but the CA certificate is read: the host's files, or those of an image.

    Raises:
        HostagentError: the CA is not there yet, or a trust file does not exist.
    """
    authority = _read(HostFiles(), ca_file, "the CA certificate; is the proxy running?")
    files: dict[str, bytes] = {}
    for path in keystore.SYSTEM:
        if source.exists(path):
            with contextlib.suppress(HostagentError):  # left as it is: `hostagent doctor` tells, and Java verifies nothing of ours
                files[path] = _trusting(source, path, authority)
    for path in (system_bundle(source), *trust_files):
        if path:
            files[path] = _trusting(source, path, authority)
    if source.exists("/etc/resolv.conf"):
        files["/etc/resolv.conf"] = f"nameserver {RESOLVER}\n".encode()
    if source.exists("/etc/nsswitch.conf"):
        files["/etc/nsswitch.conf"] = lookup_order(_read(source, "/etc/nsswitch.conf", "name look-up").decode()).encode()
    lines = {"/etc/passwd": f"{name}:x:{uid}:{gid}::{home}:/bin/sh", "/etc/group": f"{name}:x:{gid}:"} if name else {}
    for path, line in lines.items():
        if source.exists(path):
            # First, so that a look-up by name or number finds it before anything else.
            files[path] = f"{line}\n".encode() + _read(source, path, "an account file")
    return files


def _trusting(source: Files, path: str, authority: bytes) -> bytes:
    content = _read(source, path, "a trust file")
    try:
        return trust.trusting(content, authority)
    except HostagentError as error:
        raise HostagentError(f"{path}: {error}") from error


def lookup_order(text: str) -> str:
    """Return nsswitch.conf ``text`` with host names looked up in files and DNS only, and accounts in files only.

    Other modules (mdns, resolve, systemd, sss) ask daemons over sockets, which would answer past our DNS.
    """
    fixed = {"hosts": "files dns", "passwd": "files", "group": "files", "shadow": "files", "gshadow": "files"}
    lines = []
    for line in text.splitlines():
        key = line.partition(":")[0].strip()
        lines.append(f"{key}: {fixed.pop(key)}" if key in fixed and not line.startswith("#") else line)
    lines.extend(f"{key}: {order}" for key, order in fixed.items())
    return "\n".join(lines) + "\n"


def _read(source: Files, path: str, what: str) -> bytes:
    try:
        return source.read(path)
    except OSError as error:
        raise HostagentError(f"{path}: {error.strerror} ({what})") from error
