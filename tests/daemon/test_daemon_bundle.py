"""What a support bundle strikes out, also where documents are wrong: that is when bundles are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostagent.daemon.bundle import known_secrets, strike
from hostagent.documents import parse_config


@pytest.mark.root
def test_one_wrong_document_hides_no_secret_of_the_others(tmp_path: Path) -> None:
    for name in ("targets", "workloads", "secrets"):
        (tmp_path / name).mkdir(mode=0o700)
    for name, secret in (("good", "first-of-all"), ("unused", "second-of-all")):
        (tmp_path / "secrets" / name).write_text(f"{secret}\n")
        (tmp_path / "secrets" / name).chmod(0o600)
    good = f"protocol: postgres\nhosts: [a]\nlogin: {{user: x, credential: {{file: {tmp_path}/secrets/good}}}}\n"
    (tmp_path / "targets/good.yaml").write_text(good)
    (tmp_path / "targets/wrong.yaml").write_text("protocol: postgres\nhosts: [b]\nlogin: {user: x, password: third-of-all}\n")
    (tmp_path / "workloads/w.yaml").write_text("environment: {API: fourth-of-all}\nunknown: 1\n")
    (tmp_path / "workloads/broken.yaml").write_text("{")
    config = parse_config("c", f'[paths]\nconfig = "{tmp_path}"\nstate = "{tmp_path}/state"\n')
    struck = strike("first-of-all second-of-all third-of-all fourth-of-all fifth", known_secrets(config))
    assert struck == "[struck out] [struck out] [struck out] [struck out] fifth"
