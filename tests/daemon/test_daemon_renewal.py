"""Whose credential a reload must have read again, and whose stays: a unit's own, and one that was unusable before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hostagent.daemon.credentials import seal
from hostagent.daemon.renewal import Renewal
from hostagent.documents import parse_config
from hostagent.model.target import Target
from hostagent.proxy.secrets import Secrets

pytestmark = pytest.mark.root

_TARGET = "protocol: postgres\nhosts: [{name}.internal]\nlogin: {{user: u, credential: {{{credential}}}}}\n"


class Nothing:
    """The service and the resolver, to which nothing happens."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...]] = {}

    def configure(self, _config: object) -> None:
        """Take it."""

    def targets_ended(self, names: frozenset[str]) -> None:
        assert not names

    async def refresh(self) -> None:
        """Look nothing up."""


async def _renewed(folder: Path, held: Secrets, read: Secrets, **credentials: str) -> tuple[Any, dict[str, Target]]:
    from hostagent.daemon.configfile import load_config, load_targets

    (folder / "etc/targets").mkdir(parents=True, exist_ok=True)
    for name, credential in credentials.items():
        (folder / f"etc/targets/{name}.yaml").write_text(_TARGET.format(name=name, credential=credential))
    (folder / "h.toml").write_text(f'[paths]\nconfig = "{folder}/etc"\n')
    assert parse_config("h", (folder / "h.toml").read_text())
    config = load_config(str(folder / "h.toml"))
    targets = load_targets(config)
    renewal = Renewal(str(folder / "h.toml"), config, targets, held)
    return await renewal.renew(seal(read), Nothing(), Nothing(), lambda _: None), targets


async def test_a_units_own_credential_stays_when_nobody_can_read_it_again(tmp_path: Path) -> None:
    held = Secrets({"unit": "given", "plain": "old"})
    answer, _ = await _renewed(tmp_path, held, Secrets({"plain": "new"}, {"unit": "not run by systemd"}), unit="systemd: crm", plain="file: /x")
    assert (answer.problem, dict(held), held.problems) == ("", {"unit": "given", "plain": "new"}, {})


async def test_any_other_that_cannot_be_read_refuses_the_reload_and_changes_nothing(tmp_path: Path) -> None:
    held = Secrets({"sealed": "old", "plain": "old"})
    answer, _ = await _renewed(tmp_path, held, Secrets({"plain": "new"}, {"sealed": "does not open"}), sealed="sealed: crm", plain="file: /x")
    assert (answer.problem, dict(held)) == ("target sealed: does not open", {"sealed": "old", "plain": "old"})


async def test_one_that_was_unusable_before_keeps_nothing_else_back_and_comes_back_when_it_can_be_read(tmp_path: Path) -> None:
    held = Secrets({"plain": "old"}, {"sealed": "does not open"})
    answer, _ = await _renewed(tmp_path, held, Secrets({"plain": "new"}, {"sealed": "still"}), sealed="sealed: crm", plain="file: /x")
    assert (answer.problem, dict(held), held.problems) == ("", {"plain": "new"}, {"sealed": "still"})
    answer, _ = await _renewed(tmp_path, held, Secrets({"plain": "new", "sealed": "mended"}), sealed="sealed: crm", plain="file: /x")
    assert (answer.problem, dict(held), held.problems) == ("", {"plain": "new", "sealed": "mended"}, {})
