"""Doctor's findings about the accounts: are they there, and can they read the program that they are to run?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hostagent.enforcer.doctor import Check, examine

pytestmark = pytest.mark.root


def _about(name: str) -> list[Check]:
    return [check for check in examine([name]) if name in check.name]


def test_an_account_that_is_missing_has_the_command_that_makes_it() -> None:
    fix = "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin no-such-account"
    assert _about("no-such-account") == [Check("user no-such-account", ok=False, detail="missing", fix=fix)]


def test_an_account_that_can_read_the_program_is_ready() -> None:
    assert [(check.name, check.ok) for check in _about("nobody")] == [("user nobody", True), ("program readable by nobody", True)]


def test_a_host_without_nftables_is_ready_for_isolated_placement_by_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def firewall() -> list[tuple[str, bool]]:
        return [(check.name, check.ok) for check in examine([]) if "nft" in check.name or "iptables" in check.name]

    assert firewall() == [("nft", True), ("nftables: socket cgroupv2, redirect, reject", True)]
    (tmp_path / "nft").write_text("#!/bin/sh\necho 'Operation not supported' >&2\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert firewall() == [("iptables instead of nftables", True)]
    detail = next(check.detail for check in examine([]) if "iptables" in check.name)
    assert detail.startswith("works; shared placement needs nftables")


def test_a_checkout_that_the_account_cannot_enter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    python = closed / "python"
    python.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert _about("nobody")[1] == Check(
        "program readable by nobody",
        ok=False,
        detail=f"user nobody cannot read {python}",
        fix="keep the checkout where every account can read it, say /opt/hostagent",
    )
