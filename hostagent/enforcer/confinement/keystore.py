"""Java's key stores (JKS, as ``sun.security.provider.JavaKeyStore`` writes them), and certificates of ours in them.

A store is a header, entries one after the other, and a digest over both and a password. Ours are entries whose alias begins with
``hostagent-``; every other entry stays as it is, byte for byte.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence

from hostagent.model.errors import HostagentError

SYSTEM = (
    "/etc/ssl/certs/java/cacerts",  # Debian, Ubuntu, and the packages of other vendors there
    "/etc/pki/ca-trust/extracted/java/cacerts",  # Fedora, RHEL
)
"""Where the certificates that Java trusts are."""

_HEADER = struct.Struct(">III")  # magic, version, number of entries
_MAGIC = 0xFEEDFEED
_DATED = struct.Struct(">Q")  # milliseconds
_KEY, _CERTIFICATE = 1, 2
_DIGEST_SIZE = 20
_PASSWORD = "changeit"  # noqa: S105 - everybody's: it proves nothing, and Java itself mostly does not look
_ALIAS = "hostagent-"
_MOST_ENTRIES = 10_000


def is_store(content: bytes) -> bool:
    """Whether a file begins as a JKS store does."""
    return content[:4] == _MAGIC.to_bytes(4, "big")


def trusting(store: bytes, certificates: Sequence[bytes]) -> bytes:
    """Return ``store`` with exactly ``certificates`` (DER) of ours in it, under the password that every such store has.

    Raises:
        HostagentError: it is no JKS store of that password.
    """
    if _digest(store[:-_DIGEST_SIZE]) != store[-_DIGEST_SIZE:]:
        raise HostagentError(f"not a Java key store (JKS) with the password {_PASSWORD!r}")
    version, entries = _entries(store)
    kept = [entry for alias, entry in entries if not alias.startswith(_ALIAS)]
    kept += [_entry(version, certificate) for certificate in certificates]
    body = _HEADER.pack(_MAGIC, version, len(kept)) + b"".join(kept)
    return body + _digest(body)


def _entries(store: bytes) -> tuple[int, list[tuple[str, bytes]]]:
    try:
        magic, version, count = _HEADER.unpack_from(store)
        if magic != _MAGIC or version not in (1, 2) or count > _MOST_ENTRIES:
            raise ValueError("its header")
        found = list(_walk(store[:-_DIGEST_SIZE], version, count))
    except (struct.error, ValueError) as error:
        raise HostagentError(f"not a Java key store (JKS): {error}") from error
    return version, found


def _walk(body: bytes, version: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield each entry with its alias. What does not fit is a ValueError or struct.error."""
    at = _HEADER.size
    for _ in range(count):
        start = at
        (tag,) = struct.unpack_from(">I", body, at)
        alias, at = _part(body, at + 4, ">H")
        at += _DATED.size
        certificates = 1
        if tag == _KEY:
            _, at = _part(body, at, ">I")
            (certificates,) = struct.unpack_from(">I", body, at)
            at += 4
        elif tag != _CERTIFICATE:
            raise ValueError(f"an entry of kind {tag}")
        for _ in range(certificates):
            if version == 2:
                _, at = _part(body, at, ">H")
            _, at = _part(body, at, ">I")
        yield alias.decode("utf-8", "replace"), body[start:at]
    if at != len(body):
        raise ValueError("more than its entries")


def _part(body: bytes, at: int, length: str) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(length, body, at)
    begin = at + struct.calcsize(length)
    if begin + size > len(body):
        raise ValueError("an entry that ends behind its end")
    return body[begin : begin + size], begin + size


def _entry(version: int, certificate: bytes) -> bytes:
    alias = f"{_ALIAS}{hashlib.sha256(certificate).hexdigest()[:16]}".encode()
    kind = struct.pack(">H", 5) + b"X.509" if version == 2 else b""
    return (
        struct.pack(">IH", _CERTIFICATE, len(alias)) + alias + _DATED.pack(0) + kind + struct.pack(">I", len(certificate)) + certificate
    )


def _digest(body: bytes) -> bytes:
    return hashlib.sha1(_PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False).digest()
