from __future__ import annotations

import ctypes
import datetime as dt
import hashlib
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hostagent.proxy.authority import Authority, AuthorityError, open_authority
from hostagent.proxy.tls import end_point_hash

DAY = 86400.0
NOW = dt.datetime.now(dt.UTC).timestamp()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return (client, server) after a handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    waiting = [ours, theirs]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return ours, theirs
    raise AssertionError("no handshake")


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    return context


@pytest.mark.parametrize("name", ["db.internal", "127.0.0.1", "fd77::2", "a" * 63 + ".example"])
def test_leaf_satisfies_a_strict_client_for_every_name_it_is_for(tmp_path: Path, name: str) -> None:
    authority = open_authority(tmp_path)
    leaf = authority.leaf(["db.internal", "127.0.0.1", "fd77::2", "a" * 63 + ".example"])
    client, _ = handshake(leaf.context, trusting(authority), name)
    der = client.getpeercert(binary_form=True)
    assert der is not None
    assert (client.version(), end_point_hash(der)) == ("TLSv1.3", leaf.binding)
    assert hashlib.sha256(der).digest() == leaf.binding


def test_leaf_is_good_for_no_other_name(tmp_path: Path) -> None:
    authority = open_authority(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(authority.leaf(["db.internal"]).context, trusting(authority), "other.internal")


def test_leaf_is_good_for_no_other_authority(tmp_path: Path) -> None:
    first, second = open_authority(tmp_path / "a"), open_authority(tmp_path / "b")
    assert first.certificate != second.certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(first.leaf(["db.internal"]).context, trusting(second), "db.internal")


def test_alpn_is_agreed_on(tmp_path: Path) -> None:
    authority = open_authority(tmp_path)
    client = trusting(authority)
    client.set_alpn_protocols(["postgresql"])
    ours, theirs = handshake(authority.leaf(["x"]).context, client, "x")
    assert (ours.selected_alpn_protocol(), theirs.selected_alpn_protocol()) == ("postgresql", "postgresql")


def test_old_tls_is_refused(tmp_path: Path) -> None:
    assert open_authority(tmp_path).leaf(["x"]).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_authority_is_made_once_and_only_its_owner_can_read_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = open_authority(folder)
    again = open_authority(folder)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"state": 0o700, "ca.key": 0o600, "ca.pem": 0o644}
    assert first.certificate == again.certificate
    handshake(again.leaf(["x"]).context, trusting(first), "x")


def test_certificate_may_lie_where_everybody_can_read_it(tmp_path: Path) -> None:
    authority = open_authority(tmp_path / "private", tmp_path / "public.pem")
    assert (tmp_path / "public.pem").read_bytes() == authority.certificate
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["ca.key"]


def test_authority_is_an_authority_for_leaves_only(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(open_authority(tmp_path).certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc > dt.timedelta(days=3650)


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem"])
def test_half_an_authority_is_not_replaced_silently(tmp_path: Path, lost: str) -> None:
    open_authority(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(AuthorityError, match="missing"):
        open_authority(tmp_path)
    assert not (tmp_path / lost).exists()


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    open_authority(tmp_path)
    (tmp_path / "ca.key").chmod(0o640)
    with pytest.raises(AuthorityError, match="read by others"):
        open_authority(tmp_path)


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    open_authority(tmp_path / "a")
    open_authority(tmp_path / "b")
    (tmp_path / "a" / "ca.pem").write_bytes((tmp_path / "b" / "ca.pem").read_bytes())
    with pytest.raises(AuthorityError, match="not the key"):
        open_authority(tmp_path / "a")


def test_file_that_is_no_key_is_refused_clearly(tmp_path: Path) -> None:
    open_authority(tmp_path)
    (tmp_path / "ca.key").write_text("scrambled")
    with pytest.raises(AuthorityError, match="cannot be read"):
        open_authority(tmp_path)


def test_expired_authority_is_refused(tmp_path: Path) -> None:
    open_authority(tmp_path)
    with pytest.raises(AuthorityError, match="expired"):
        open_authority(tmp_path, clock=lambda: NOW + 3651 * DAY)


def test_leaf_is_kept_until_half_its_life_is_over(tmp_path: Path) -> None:
    now = [NOW]
    authority = open_authority(tmp_path, clock=lambda: now[0])
    first = authority.leaf(["x", "y", "x"])
    now[0] += 3.4 * DAY
    assert authority.leaf(("x", "y")) is first
    now[0] += 0.2 * DAY
    second = authority.leaf(["x", "y"])
    assert second.binding != first.binding
    assert second.expires_at == pytest.approx(now[0] + 7 * DAY, abs=2)


def test_leaf_never_outlives_its_authority(tmp_path: Path) -> None:
    open_authority(tmp_path, clock=lambda: NOW)
    authority = open_authority(tmp_path, clock=lambda: NOW + 3649 * DAY)
    assert authority.leaf(["x"]).expires_at == pytest.approx(NOW + 3650 * DAY, abs=2)


def test_forgotten_leaves_are_made_anew(tmp_path: Path) -> None:
    authority = open_authority(tmp_path)
    first = authority.leaf(["first"])
    for number in range(256):
        authority.leaf([f"host-{number}"])
    assert authority.leaf(["first"]) is not first


@pytest.mark.parametrize("names", [[], ["ü.example"]])
def test_name_that_cannot_be_certified_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(AuthorityError):
        open_authority(tmp_path).leaf(names)


def test_leaf_key_never_touches_a_file_system(tmp_path: Path) -> None:
    authority = open_authority(tmp_path)
    authority.leaf(["x"])
    key = serialization.load_pem_private_key(authority.leaf_key, None)
    assert key.key_size == 256  # type: ignore[union-attr]
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["ca.key", "ca.pem"]
    assert authority.leaf_key not in (tmp_path / "ca.key").read_bytes()


def test_leaf_is_loaded_in_a_process_that_cannot_be_inspected(tmp_path: Path) -> None:
    """The daemon is not dumpable, which hides its /proc folder from others; its own descriptors must stay usable."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            folder = Path("/tmp") / f"hostagent-authority-{os.getpid()}"
            open_authority(folder).leaf(["x"])
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
