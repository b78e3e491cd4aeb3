"""What every command does alike: an expected failure is a sentence and a status, never a traceback."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


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
        assert result.returncode == 1
        assert result.stderr == (
            f"Error: {evidence}/sessions.duckdb: permission denied; run this as root, or as a member of the group that owns it\n"
        )
