"""Secrets: read as root from what the documents name, handed over sealed, never from a file others could read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostagent.daemon.credentials import gather, read_secret, seal, unseal
from hostagent.model.errors import DocumentError
from hostagent.model.target import CredentialSource, Login, Target


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_file_is_the_secret_without_its_last_newline(tmp_path: Path) -> None:
    file = private(tmp_path / "s", "pass word\n")
    assert read_secret(CredentialSource("file", str(file))) == "pass word"


def test_an_environment_file_gives_the_value_of_its_key(tmp_path: Path) -> None:
    file = private(tmp_path / "env", "# comment\nOTHER=1\nexport CRM='quo=ted'\nPLAIN=a b\n")
    assert read_secret(CredentialSource("env", f"{file}#CRM")) == "quo=ted"
    assert read_secret(CredentialSource("env", f"{file}#PLAIN")) == "a b"
    with pytest.raises(DocumentError, match="no line MISSING="):
        read_secret(CredentialSource("env", f"{file}#MISSING"))


def test_a_systemd_credential_is_read_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private(tmp_path / "crm", "secret", 0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret(CredentialSource("systemd", "crm")) == "secret"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(DocumentError, match="CREDENTIALS_DIRECTORY"):
        read_secret(CredentialSource("systemd", "crm"))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused_with_the_mending_command(tmp_path: Path, mode: int) -> None:
    file = private(tmp_path / "s", "hunter2", mode)
    with pytest.raises(DocumentError, match="chmod 600") as refused:
        read_secret(CredentialSource("file", str(file)))
    assert "hunter2" not in str(refused.value)


def test_links_folders_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    file = private(tmp_path / "s", "x")
    (tmp_path / "link").symlink_to(file)
    private(tmp_path / "large", "x" * 70_000)
    os.mkfifo(tmp_path / "pipe", 0o600)  # and nobody waits for who may write to it
    for name in ("link", "missing", "large", "pipe", ""):
        with pytest.raises(DocumentError):
            read_secret(CredentialSource("file", str(tmp_path / name)))


def test_sealed_secrets_cannot_be_changed_and_arrive_whole(tmp_path: Path) -> None:
    file = private(tmp_path / "s", "ünïcode")
    with_secret = Target("crm", "postgres", ("db",), 5432, Login("u", CredentialSource("file", str(file))))
    without = Target("other", "postgres", ("db2",), 5432, Login("u"))
    descriptor = seal(gather({"crm": with_secret, "other": without}))
    with pytest.raises(PermissionError):
        os.write(descriptor, b"{}")
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert unseal(descriptor) == {"crm": "ünïcode"}
