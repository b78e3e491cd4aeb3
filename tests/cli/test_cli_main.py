"""What every command does alike: an expected failure is a sentence and a status, never a traceback."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostagent.cli.main import main


@pytest.mark.root
def test_who_may_not_read_the_evidence_is_told_so() -> None:
    with tempfile.TemporaryDirectory(prefix="hostagent-cli-") as name:  # pytest's own folders are closed to others
        Path(name).chmod(0o755)
        evidence = Path(name) / "state/evidence"
        evidence.mkdir(parents=True)
        evidence.chmod(0o700)
        toml = Path(name) / "hostagent.toml"
        toml.write_text(f'[paths]\nstate = "{name}/state"\n')
        command = [sys.executable, "-m", "hostagent", "--config", str(toml), "sql", "select 1"]
        result = subprocess.run(command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, text=True, check=False)
        assert result.returncode == 77
        assert result.stderr == (
            f"Error: {evidence}/sessions.duckdb: permission denied; run this as root, or as a member of the group that owns it\n"
        )


def test_what_the_system_refuses_and_what_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["--config", str(tmp_path / "file/x/hostagent.toml"), "init"])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    assert "Not a directory" in done.output


@pytest.mark.root
def test_exit_statuses_are_those_of_the_table(tmp_path: Path) -> None:
    toml = tmp_path / "hostagent.toml"
    assert CliRunner().invoke(main, ["--config", str(toml), "init", "--state", str(tmp_path / "s"), "--runtime", str(tmp_path / "r")]).exit_code == 0
    assert CliRunner().invoke(main, ["--config", str(toml), "reload"]).exit_code == 1
    toml.write_text(toml.read_text().replace("[users]", '[users]\nproxy = "nobody"\nrecorder = "daemon"'))
    secret = CliRunner().invoke(main, ["--config", str(toml), "credential", "set", "x"], input=b"hunter2\xff")
    assert secret.exit_code == 1
    assert "hunter2" not in secret.output
    (tmp_path / "targets/t.yaml").write_text("nonsense")
    assert CliRunner().invoke(main, ["--config", str(toml), "target", "list"]).exit_code == 78
    assert CliRunner().invoke(main, ["--config", str(tmp_path / "missing"), "status"]).exit_code == 78
    command = [sys.executable, "-m", "hostagent", "--config", "/dev/null", "credential", "list"]
    refused = subprocess.run(command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (77, "Error: only root may do this: the store and its key are root's\n")
