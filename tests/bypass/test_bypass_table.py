"""The published table is what the registry and the kept runs say."""

from __future__ import annotations

from tests.bypass.attacks import ATTACKS
from tests.bypass.results import BEGIN, README, kept, readme_with


def test_every_attack_of_the_list_is_there_once() -> None:
    numbers = [attack.number for attack in ATTACKS]
    assert [number for number in numbers if not number.startswith("R")] == [str(number) for number in range(1, 53)]
    assert [number for number in numbers if number.startswith("R")] == [f"R{number}" for number in range(1, len(numbers) - 51)]
    assert len(numbers) >= 68  # rows are never deleted


def test_an_attack_without_a_row_says_why() -> None:
    assert [attack.label for attack in ATTACKS for place in attack.placements if not attack.rows_in(place) and not attack.why] == []


def test_the_readme_has_the_table_that_the_kept_runs_make() -> None:
    text = README.read_text(encoding="utf-8")
    assert BEGIN in text
    assert readme_with(text, kept()) == text
