from __future__ import annotations

import datetime as dt
import hashlib
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from hostagent.model.errors import DocumentError
from hostagent.model.target import Login, Target
from hostagent.proxy.tls import end_point_hash, upstream_context, upstream_name


def target(*hosts: str, ca_file: str = "", server_name: str = "") -> Target:
    return Target("crm", "postgres", hosts, 5432, Login("app"), ca_file=ca_file, server_name=server_name)


Signed = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512


def certificate(algorithm: Signed | None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm else ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + dt.timedelta(days=1)).sign(key, algorithm)
    return made.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512"), (hashes.SHA224(), "sha224")],
)
def test_end_point_hash_is_that_of_the_signature(algorithm: Signed, name: str) -> None:
    der = certificate(algorithm)
    assert end_point_hash(der) == hashlib.new(name, der).digest()


# A throw-away self-signed certificate: openssl req -x509 -sha1 -newkey ec -pkeyopt ec_paramgen_curve:P-256 ...
SHA1_SIGNED = bytes.fromhex(
    "3082016b30820112a003020102021409c9b2a71070d6ee8cf73d911766c4"
    "057ea04c23300906072a8648ce3d0401300c310a300806035504030c0178"
    "301e170d3236313132313033353535385a170d3336313131383033353535"
    "385a300c310a300806035504030c01783059301306072a8648ce3d020106"
    "082a8648ce3d030107034200043ebbc6c20767b10732b1ad5128d623b903"
    "f1f79f124668252269dffae222fcc2a6ec6e730e3280c18346525015f3fc"
    "613e8d065830be3c1fdd4e2e0a363ddd5aa3533051301d0603551d0e0416"
    "041488dd3f7efa5ad5522319706754d75f18bb4ceaa2301f0603551d2304"
    "183016801488dd3f7efa5ad5522319706754d75f18bb4ceaa2300f060355"
    "1d130101ff040530030101ff300906072a8648ce3d040103480030450221"
    "00bf03857a0308b0bbe43b8dfdfcb787d0ebc5ae33b5e91d86eda43109b0"
    "b180ad022004fb972d3fe7d80982957aaf04bcc7697f34f34382042b1d8b"
    "43d240da85ac7c"
)


def test_end_point_hash_of_a_sha1_signature_is_sha256() -> None:
    assert end_point_hash(SHA1_SIGNED) == hashlib.sha256(SHA1_SIGNED).digest()


@pytest.mark.parametrize("der", [b"", b"nonsense"])
def test_what_is_no_certificate_binds_nothing(der: bytes) -> None:
    assert end_point_hash(der) == b""


def test_certificate_without_a_signature_hash_binds_nothing() -> None:
    assert end_point_hash(certificate(None)) == b""


def test_context_always_verifies_chain_and_name() -> None:
    context = upstream_context(target("db.internal"))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_ca_file_is_all_that_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(pem(certificate(hashes.SHA256())))
    context = upstream_context(target("db.internal", ca_file=str(path)))
    assert context.cert_store_stats()["x509"] == 1


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def test_context_is_kept_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(pem(certificate(hashes.SHA256())))
    wanted = target("db.internal", ca_file=str(path))
    first = upstream_context(wanted)
    assert upstream_context(wanted) is first
    path.write_bytes(pem(certificate(hashes.SHA256())))
    os.utime(path, ns=(1, 1))
    assert upstream_context(wanted) is not first


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_unusable_ca_file_is_an_error_of_the_document(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DocumentError, match="target crm: ca_file"):
        upstream_context(target("db.internal", ca_file=str(path)))


@pytest.mark.parametrize(
    ("wanted", "dialled", "host", "name"),
    [
        (target("db.internal", server_name="pg.example"), "10.0.0.2", "db.internal", "pg.example"),
        (target("db.internal", "10.0.0.2"), "10.0.0.2", "db.internal", "10.0.0.2"),
        (target("a.internal", "b.internal"), "10.0.0.2", "b.internal", "b.internal"),
        (target("a.internal", "b.internal"), "10.0.0.2", "", "a.internal"),
        (target("10.0.0.9"), "10.0.0.9", "", "10.0.0.9"),
        (target("10.0.0.8"), "10.0.0.9", "", "10.0.0.9"),
        (target("fd77::2", "x.internal"), "fd77::2", "", "fd77::2"),
    ],
)
def test_name_that_the_certificate_must_be_good_for(wanted: Target, dialled: str, host: str, name: str) -> None:
    assert upstream_name(wanted, dialled, host) == name


def test_a_ca_file_that_became_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ca.pem")
    with pytest.raises(DocumentError, match="is a pipe"):
        upstream_context(target("db.internal", ca_file=str(tmp_path / "ca.pem")))


def test_a_credential_that_is_no_certificate_is_refused_without_a_word_of_it() -> None:
    target = Target("api", "http", ("api.example",), 443, Login("", None, "certificate"))
    with pytest.raises(DocumentError) as refused:
        upstream_context(target, "h2", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    assert str(refused.value) == "target api: its credential is not a certificate with its key, in PEM"
