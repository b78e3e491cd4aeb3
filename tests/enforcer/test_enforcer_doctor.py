"""Doctor's findings about the accounts and the firewall: are they there, and can they do what they are to?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hostagent.enforcer.doctor import Check, State, examine

pytestmark = pytest.mark.root


def _about(name: str) -> list[Check]:
    return [check for check in examine([name]) if check.id.endswith(f".{name}")]


def test_an_account_that_is_missing_has_the_command_that_makes_it() -> None:
    [check] = _about("no-such-account")
    assert (check.state, check.detail) == (State.FAIL, "missing")
    assert check.fix == "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin no-such-account"


def test_an_account_that_can_read_the_program_is_ready() -> None:
    assert [(check.id, check.state) for check in _about("nobody")] == [("user.nobody", State.OK), ("program.nobody", State.OK)]


def test_a_host_without_nftables_is_ready_for_isolated_placement_by_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nft").write_text("#!/bin/sh\necho 'Operation not supported' >&2\nexit 1\n")
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    checks = {check.id: check for check in examine([])}
    assert "nft.features" not in checks
    assert checks["iptables.instead"].state is State.OK
    assert checks["iptables.instead"].detail.startswith("works; shared placement needs nftables")


def test_a_checkout_that_the_account_cannot_enter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    python = closed / "python"
    python.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    check = _about("nobody")[1]
    assert (check.state, check.detail) == (State.FAIL, f"user nobody cannot read {python}")
    assert check.fix == "keep the checkout where every account can read it, say /opt/hostagent"
