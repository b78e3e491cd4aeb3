"""The whole service under load: each of its processes killed, and all of them replaced. Figures are printed (``pytest -s``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lifecycle.__main__ import faults, row
from tests.lifecycle.events import BOTH
from tests.lifecycle.whole import EVENTS, Whole, measure, whole

pytestmark = [pytest.mark.root, pytest.mark.e2e]


@pytest.fixture(scope="module")
def running() -> Iterator[Whole]:
    with whole() as built:
        yield built


@pytest.mark.parametrize("placement", BOTH)
@pytest.mark.parametrize("name", EVENTS)
def test_nothing_leaks_while_a_process_of_the_service_is_replaced(running: Whole, name: str, placement: str) -> None:
    figures = measure(running, name, placement, 1)
    print("\n" + row(figures))
    assert faults(None, figures) == []
