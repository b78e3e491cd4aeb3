"""How long the fence is loaded anew while somebody changes it in between; fakes at the rim, a clock that is an argument."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hostagent.enforcer.fencewatch import CONTESTED_S, FenceWatch
from hostagent.model.errors import HostagentError


class Contested:
    """A fence that cannot be proved. ``others`` is who changes it while it is loaded."""

    current = removed = stale = False

    def __init__(self, others: list[str]) -> None:
        self.others = others

    def restore(self, _: object) -> float:
        raise HostagentError("the fence does not hold")

    def tampering(self) -> list[str]:
        return self.others


class Stage:
    """A watch, its clock, what it wrote and whom it ended."""

    def __init__(self, fence: Contested) -> None:
        self.now, self.rows, self.ended = 0.0, list[str](), list[str]()
        leaves = [SimpleNamespace(name=name, isolated=name == "isolated") for name in ("isolated", "shared")]
        given: list[Any] = [
            SimpleNamespace(table="hostagent"), SimpleNamespace(service=lambda _, detail: self.rows.append(detail)), fence,
            lambda: leaves, lambda leaf, _: self.ended.append(leaf.name),
        ]  # fmt: skip
        self.watch = FenceWatch(*given, clock=lambda: self.now)


def test_rules_that_others_change_while_they_are_loaded_are_tried_again_for_a_stated_time_then_shared_placement_ends() -> None:
    stage = Stage(Contested(["nft (pid 7)", "nft (pid 7)"]))
    for stage.now in (0.0, 0.5, CONTESTED_S - 0.5):
        stage.watch.look()
        assert stage.ended == []
    assert all("while it was loaded again it was changed by nft (pid 7), to be loaded again" in row for row in stage.rows)
    stage.now = CONTESTED_S
    stage.watch.look()
    assert stage.ended == ["shared"]
    assert "the rules cannot be loaded again: the fence does not hold" in stage.rows[-1]


@pytest.mark.parametrize("settled", [True, False])
def test_rules_that_fail_by_themselves_end_shared_placement_at_once(settled: bool) -> None:
    fence = Contested([])
    stage = Stage(fence)
    if not settled:
        fence.others = ["nft (pid 7)"]
        stage.watch.look()
        fence.others = []
    stage.watch.look()
    assert stage.ended == ["shared"]
