"""No byte gets out, whatever happens to the service and its rules while a workload connects a thousand times a second.

The fast numbers; `make lifecycle` makes the full ones. Figures are printed (``pytest -s``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lifecycle.__main__ import faults, measure, row
from tests.lifecycle.events import EVENTS, Event

pytestmark = pytest.mark.root

_CASES = [pytest.param(event, placement, id=f"{event.name} {placement}") for event in EVENTS for placement in event.placements]


@pytest.mark.parametrize(("event", "placement"), _CASES)
def test_nothing_leaks_and_nobody_else_is_disturbed(event: Event, placement: str, place: Path) -> None:
    figures = measure(event, placement, event.fast, place)
    print("\n" + row(figures))
    assert faults(event, figures) == []
