"""Exchanging the host CA while workloads run, in three steps that people take with time between them.

========= ========== ============================ ============================================================
stage     signs      trusted (published ca.pem)    on disk
========= ========== ============================ ============================================================
settled   one        that one                      ca.key
announced the old    both                          ca.key (old), ca-next.key (new)
active    the new    both                          ca.key (new): the old key no longer exists anywhere
========= ========== ============================ ============================================================

``announce`` and ``activate`` and ``retire`` go from one row to the next (and to the first). Every step is one rename at its end: after
a crash the files are at the row before or at the row after, and ``open_authority`` reads both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hostagent.durable import write_whole
from hostagent.proxy.authority import Authority, AuthorityError, new_authority

SETTLED, ANNOUNCED, ACTIVE = "settled", "announced", "active"


class Rotation:
    """The steps, for the authority that is in use."""

    def __init__(self, authority: Authority, folder: Path, certificate: Path, *, clock: Callable[[], float] = time.time) -> None:
        """``folder`` holds the keys, ``certificate`` is the published file."""
        self._authority = authority
        self._key = folder / "ca.key"
        self._next = folder / "ca-next.key"
        self._published = certificate
        self._clock = clock

    @property
    def stage(self) -> str:
        """Which row of the table above holds."""
        certificates = self._certificates()
        if self._following(certificates) is not None:
            return ANNOUNCED
        return ACTIVE if len(certificates) > 1 else SETTLED

    def describe(self) -> dict[str, object]:
        """Return the stage and every certificate: its name, SHA-256 fingerprint, when it ends (unix seconds) and what it is for."""
        signing = self._authority.certificate
        rows = []
        for certificate in self._certificates():
            ours = certificate.public_bytes(serialization.Encoding.PEM) == signing
            rows.append(
                {
                    "name": certificate.subject.rfc4514_string().removeprefix("CN="),
                    "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
                    "expires_at": int(certificate.not_valid_after_utc.timestamp()),
                    "signs": ours,
                }
            )
        return {"stage": self.stage, "file": str(self._published), "certificates": rows}

    def announce(self) -> None:
        """Make a new CA and publish it beside the old one, which goes on signing.

        Raises:
            AuthorityError: a rotation is under way.
        """
        self._expect(SETTLED, "a rotation is under way: take its next step first (hostagent ca show)")
        key, certificate = new_authority(self._clock())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_whole(self._next, pem)  # without its certificate in the published file it does not count
        self._publish([*self._certificates(), certificate])

    def activate(self) -> None:
        """Sign with the new CA from now on; the old key is gone with that, and every cached leaf.

        Raises:
            AuthorityError: none was announced.
        """
        self._expect(ANNOUNCED, "no new CA was announced: hostagent ca rotate")
        found = self._following(self._certificates())
        assert found is not None
        self._next.rename(self._key)
        folder = os.open(self._key.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._authority.take(*found)

    def retire(self) -> None:
        """Publish the signing CA alone: the old one is no longer trusted.

        Raises:
            AuthorityError: the new one does not sign yet, or there is no old one.
        """
        self._expect(ACTIVE, "there is no former CA to retire")
        signing = self._authority.certificate
        self._publish([each for each in self._certificates() if each.public_bytes(serialization.Encoding.PEM) == signing])

    def _expect(self, stage: str, otherwise: str) -> None:
        if self.stage != stage:
            raise AuthorityError(f"the CA is {self.stage}: {otherwise}")

    def _certificates(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self._published.read_bytes())

    def _following(self, certificates: list[x509.Certificate]) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        """Return the announced key and certificate, None if there is no pair of both."""
        try:
            key = serialization.load_pem_private_key(self._next.read_bytes(), None)
        except (OSError, ValueError):
            return None
        found = next((each for each in certificates if each.public_key() == key.public_key()), None)
        return (key, found) if found is not None and isinstance(key, ec.EllipticCurvePrivateKey) else None

    def _publish(self, certificates: list[x509.Certificate]) -> None:
        pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
        write_whole(self._published, pem, mode=0o644)
