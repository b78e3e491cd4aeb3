"""The host CA in the trust bundles of workloads that run: their mounts are private, so a new CA has to be brought to them.

A bundle ends with a line of ours and, after it, our certificates (``lookups.replaced_files``). What is new is appended in one write,
what no longer counts is overwritten with empty lines of the same length: no certificate ever moves, so that a client that reads at
that moment sees the old bundle or the new one. Clients that keep a bundle in memory learn nothing of it. A Java key store
(``keystore``) is rewritten instead.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from hostagent.enforcer import kernel
from hostagent.enforcer.confinement import keystore
from hostagent.model.errors import HostagentError

MARK = b"# hostagent: this host's CA, in this workload's view alone\n"
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n")
_STAGE = "run/.hostagent"  # as in view.STAGE, below the workload's root
_MOST = 16 * 1024 * 1024
_MOST_CERTIFICATES = 8


class Change(NamedTuple):
    """What to do to a bundle: ``blank`` are (offset, length) of what no longer counts, ``more`` what is to be appended."""

    blank: tuple[tuple[int, int], ...]
    more: bytes


def certificates(authority: bytes) -> list[bytes]:
    """Return the certificates of the CA file ``authority`` (PEM), as PEM blocks.

    Raises:
        HostagentError: it holds none, or more than a rotation ever has.
    """
    found = _BLOCK.findall(authority)
    if not 1 <= len(found) <= _MOST_CERTIFICATES:
        raise HostagentError(f"the CA file holds {len(found)} certificates")
    return found


def trusting(content: bytes, authority: bytes) -> bytes:
    """Return a trust file, PEM or a Java key store, that trusts ``authority`` (PEM) too.

    Raises:
        HostagentError: ``authority`` is not what a CA file is, or it is a store that cannot be changed.
    """
    if keystore.is_store(content):
        return keystore.trusting(content, _der(authority))
    if b"\0" in content:
        raise HostagentError("neither PEM nor a Java key store of type JKS (`keytool -importkeystore -deststoretype JKS` makes one of PKCS #12)")
    return content.rstrip(b"\n") + b"\n" + MARK + authority


def _der(authority: bytes) -> list[bytes]:
    return [base64.b64decode(b"".join(block.splitlines()[1:-1])) for block in certificates(authority)]


def change_of(bundle: bytes, authority: bytes) -> Change:
    """Return what makes ``bundle`` trust the certificates of ``authority`` (PEM) and no others of ours; nothing for a file without our mark.

    Raises:
        HostagentError: ``authority`` holds no certificate, or more than a rotation ever has.
    """
    wanted = certificates(authority)
    place = bundle.rfind(MARK)
    if place < 0:
        return Change((), b"")
    present = list(_BLOCK.finditer(bundle, place))
    blank = tuple((found.start(), len(found[0])) for found in present if found[0] not in wanted)
    have = {found[0] for found in present}
    return Change(blank, b"".join(block for block in wanted if block not in have))


def renew(pid: int, authority: bytes) -> int:
    """Bring the bundles in the view of process ``pid`` up to ``authority``; return how many files were changed.

    Raises:
        HostagentError: ``authority`` is not what a CA file is.
        OSError: the process is gone, or its view has no such files.
    """
    changed = 0
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stage = kernel.open_inside(root, _STAGE)
    finally:
        os.close(root)
    try:
        for file in Path(f"/proc/self/fd/{stage}").iterdir():
            if file.name.isdecimal():
                changed += _renew_file(stage, file.name, authority)
    finally:
        os.close(stage)
    return changed


def _renew_file(stage: int, name: str, authority: bytes) -> bool:
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
            return False
        content = os.pread(descriptor, status.st_size, 0)
        if keystore.is_store(content):
            return _renew_store(descriptor, content, authority)
        change = change_of(content, authority)
        if change.more:  # first: a moment without any trusted certificate must not be
            os.pwrite(descriptor, change.more, status.st_size)
        for offset, length in change.blank:
            os.pwrite(descriptor, b"\n" * length, offset)
        return bool(change.more or change.blank)
    finally:
        os.close(descriptor)


def _renew_store(descriptor: int, store: bytes, authority: bytes) -> bool:
    """Its digest is at its end, so it is written whole: a JVM that reads it in that very moment may find it damaged."""
    following = keystore.trusting(store, _der(authority))
    if following == store:
        return False
    os.pwrite(descriptor, following, 0)
    os.ftruncate(descriptor, len(following))
    return True
