"""The host's own certificate authority: made once, kept by the proxy alone, and a fresh leaf for whatever a client dials.

Workloads trust it inside their private mounts only, so that ``sslmode=verify-full`` works unchanged. It carries no name
constraints (the names are the operator's, and libraries differ in reading them); what protects it is that its key never leaves
a folder that only the proxy's user can enter.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import platform
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hostagent.durable import write_whole
from hostagent.model.errors import HostagentError
from hostagent.proxy.tls import load_chain

_CA_DAYS = 3650
_LEAF_DAYS = 7
_BACKDATED = dt.timedelta(hours=1)  # a workload's clock may be behind
_CACHED = 256
_MAX_COMMON_NAME = 64


class AuthorityError(HostagentError):
    """The authority's files are missing a half, belong to different keys, or are readable by others."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One server certificate, ready to be served.

    ``binding`` is its tls-server-end-point hash (RFC 5929). ``expires_at`` is unix seconds. ``context`` serves TLS 1.2 and newer.
    """

    context: ssl.SSLContext
    certificate: bytes
    binding: bytes
    expires_at: float


class Authority:
    """Mints leaves, one P-256 key for all of them, contexts cached by names."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use ``open_authority`` to get one from its folder."""
        self._key = key
        self._certificate = certificate
        self._clock = clock
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaves: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Leaf] = OrderedDict()

    @property
    def certificate(self) -> bytes:
        """The CA's certificate in PEM, as trust stores want it."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def take(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """Sign with another CA from now on. What it signed before is not served any more; connections that stand stay."""
        self._key, self._certificate = key, certificate
        self._leaves.clear()

    @property
    def leaf_key(self) -> bytes:
        """The key of every leaf in PEM, made at start and never stored."""
        return self._leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def leaf(self, names: Sequence[str], alpn: Sequence[str] = ("postgresql",)) -> Leaf:
        """Return a leaf good for every one of ``names`` (host names or addresses), cached while half its life is left.

        Raises:
            AuthorityError: no names, or one that cannot be in a certificate.
        """
        wanted = (tuple(dict.fromkeys(names)), tuple(alpn))
        found = self._leaves.get(wanted)
        if found is None or found.expires_at - self._clock() < _LEAF_DAYS * 86400 / 2:
            found = self._leaves[wanted] = self._mint(*wanted)
        self._leaves.move_to_end(wanted)
        if len(self._leaves) > _CACHED:
            self._leaves.popitem(last=False)
        return found

    def _mint(self, names: tuple[str, ...], alpn: tuple[str, ...]) -> Leaf:
        certificate = self._certificate_for(names)
        pem = certificate.public_bytes(serialization.Encoding.PEM) + self.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(list(alpn))
        load_chain(context, pem + self.leaf_key)
        der = certificate.public_bytes(serialization.Encoding.DER)
        return Leaf(context, pem, hashlib.sha256(der).digest(), certificate.not_valid_after_utc.timestamp())

    def _certificate_for(self, names: tuple[str, ...]) -> x509.Certificate:
        if not names:
            raise AuthorityError("a certificate needs at least one name")
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
        until = min(now + dt.timedelta(days=_LEAF_DAYS), self._certificate.not_valid_after_utc)
        builder = x509.CertificateBuilder(
            issuer_name=self._certificate.subject,
            subject_name=_subject(names[0]),
            public_key=self._leaf_key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _BACKDATED,
            not_valid_after=until,
        )
        own = x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (
            (x509.SubjectAlternativeName([_alternative(name) for name in names]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (own, False),
            (issuer, False),
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def open_authority(
    directory: Path, certificate_path: Path | None = None, *, clock: Callable[[], float] = time.time
) -> Authority:
    """Return the authority kept in ``directory``, made on first use.

    The folder gets mode 0700, ``ca.key`` 0600, and the certificate (``certificate_path``, default ``ca.pem`` beside the key)
    0644. A certificate that is lost is not made anew silently: clients would not trust it.

    Raises:
        AuthorityError: only one of the two files is there, one cannot be read, they do not fit together, or the CA has expired.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    key_path = directory / "ca.key"
    certificate_path = certificate_path or directory / "ca.pem"
    if not key_path.exists() and not certificate_path.exists():
        _create(key_path, certificate_path, clock())
    for path in (key_path, certificate_path):
        if not path.exists():
            raise AuthorityError(f"{path} is missing; restore it, or remove its counterpart to begin with a new CA")
    if key_path.stat().st_mode & 0o077:
        raise AuthorityError(f"{key_path} can be read by others (chmod 600), so its CA can no longer be trusted")
    try:
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        certificates = x509.load_pem_x509_certificates(certificate_path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise AuthorityError(f"{key_path} or {certificate_path} cannot be read: {error}") from error
    # While the CA is being exchanged (carotation) the file holds two; the key says which one signs.
    certificate = next((each for each in certificates if each.public_key() == key.public_key()), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate is None:
        raise AuthorityError(f"{key_path} is not the key of {certificate_path}")
    if certificate.not_valid_after_utc.timestamp() <= clock():
        raise AuthorityError(f"{certificate_path} has expired; remove both files to begin with a new CA")
    return Authority(key, certificate, clock=clock)


def _create(key_path: Path, certificate_path: Path, now: float) -> None:
    key, certificate = new_authority(now)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key last: a crash in between leaves a certificate without a key, which is reported, and no key without one.
    for place in (certificate_path, key_path):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644, new=True)
    write_whole(key_path, pem, new=True)


def new_authority(now: float) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the key and the certificate of a new CA, nowhere kept yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, _self_signed(key, dt.datetime.fromtimestamp(now, dt.UTC))


def _self_signed(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # The key's own digest in the name, so that two hosts (or two generations) are never mistaken for each other.
    title = f"hostagent CA {platform.node()[:32]} {identifier.digest.hex()[:8]}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    return (
        x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _BACKDATED,
            not_valid_after=now + dt.timedelta(days=_CA_DAYS),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    if len(name) > _MAX_COMMON_NAME:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise AuthorityError(f"{name!r} cannot be in a certificate") from error
