"""TLS towards targets: always verified, chain and name; there is no other kind."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
import stat
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from hostagent.inspectors.registry import PROTOCOLS
from hostagent.model.errors import DocumentError
from hostagent.model.target import Target


def upstream_context(target: Target, alpn: str = "", secret: str | None = None) -> ssl.SSLContext:
    """Return the context that verifies ``target`` against its ``ca_file``, or the system's store if it names none.

    ``alpn`` is offered (RFC 7301); if it is empty, what its protocol is called there.

    ``secret`` is the target's; if that is a certificate, it is shown. The same context is returned until the file changes.

    Raises:
        DocumentError: the ``ca_file`` cannot be read or holds no certificate.
    """
    try:
        status = Path(target.ca_file or ssl.get_default_verify_paths().openssl_cafile).stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if target.ca_file and stat.S_ISFIFO(status.st_mode):  # to read it would be to wait for whoever may write it
            raise DocumentError(f"target {target.name}: ca_file {target.ca_file}: is a pipe")
    except OSError:
        stamp = (0, 0)
    try:
        shown = (secret or "") if target.login.scheme == "certificate" else ""
        return _context(target.ca_file, alpn or PROTOCOLS[target.protocol].alpn, shown, stamp)
    except (OSError, ssl.SSLError) as error:
        raise DocumentError(f"target {target.name}: ca_file {target.ca_file}: {error}") from error
    except _CertificateError:
        raise DocumentError(f"target {target.name}: its credential is not a certificate with its key, in PEM") from None


class _CertificateError(Exception):
    """A secret that should be a certificate with its key is none."""


@lru_cache(maxsize=64)
def _context(ca_file: str, alpn: str, shown: str, _stamp: tuple[int, int]) -> ssl.SSLContext:
    """Return the context for one version of a trust file; reading the system's store takes many milliseconds."""
    # With a ca_file nothing but that file is trusted.
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([alpn])
    if shown:
        try:
            load_chain(context, shown.encode())
        except (ssl.SSLError, ValueError):
            raise _CertificateError from None  # whose text could hold a piece of the key
    return context


def load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Load certificate chain and key, which the ssl module takes from a file only: one in memory.

    Raises:
        ssl.SSLError: they are none, or not each other's.
    """
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=b"")


def upstream_name(target: Target, dialled: str, host: str = "") -> str:
    """Return the name (or address) that the target's certificate must be good for.

    Args:
        target: its ``server_name`` goes before everything else.
        dialled: the address we dial.
        host: the host name that ``dialled`` was resolved from, if it was.

    An address that the document lists itself is verified as an address; one that came from a name, as that name; any other
    as the document's first name.
    """
    if target.server_name:
        return target.server_name
    if dialled in target.hosts:
        return dialled
    if host:
        return host
    return next((name for name in target.hosts if not _is_address(name)), dialled)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def end_point_hash(certificate: bytes) -> bytes:
    """Return the tls-server-end-point channel binding of a DER certificate (RFC 5929 §4.1).

    The hash is the one of the certificate's signature, with SHA-256 in place of MD5 and SHA-1. Empty where the RFC defines
    none (Ed25519, or an algorithm unknown here): channel binding is then not possible.
    """
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return b""
    if algorithm is None:
        return b""
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    try:
        return hashlib.new(name, certificate).digest()
    except ValueError:
        return b""
