"""The cluster's own certificate authority."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Writes ``ca.crt``, and certificates with their keys, into ``folder``; all are valid for two days."""

    def __init__(self, folder: Path, name: str) -> None:
        """Make the authority."""
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = self._certificate(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.certificate.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self.certificate.chmod(0o644)

    def issue(self, file: str, name: str, *, organization: str = "", hosts: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Return the files of a certificate for ``name`` (a server under ``hosts``, or else a client) and its key, which root alone reads."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organization:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
        built = self._certificate(x509.Name(parts), key, x509.BasicConstraints(ca=False, path_length=None))
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        built = built.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            built = built.add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        certificate = self.folder / f"{file}.crt"
        certificate.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return certificate, self.private(file, key)

    def private(self, file: str, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
        """Return the file of a private key, a new one if none is given."""
        path = self.folder / f"{file}.key"
        path.touch(0o600)
        path.write_bytes(
            (key or ec.generate_private_key(ec.SECP256R1())).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
        )
        return path

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
