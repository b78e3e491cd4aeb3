"""The published table is what the registry and the kept runs say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bypass import kernels
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


def test_the_table_of_supported_kernels_is_what_was_run() -> None:
    text = kernels.README.read_text(encoding="utf-8")
    assert kernels.readme_with(text) == text, "python -m tests.bypass.kernels writes it anew"
    for name in kept():
        assert f"| {name.partition('-')[0]} |" in text


def test_a_kernel_that_was_never_run_is_not_said_to_be_supported(tmp_path: Path) -> None:
    shown = kernels.table({"6.12": {}}, {(6, 1): {"kernel": "6.1.0-1", "suites": {"guest": {"day": "2026-01-02", "passed": 3, "failed": 1}}}})
    rows = shown.splitlines()[2:]
    cells = sum(len(attack.placements) for attack in ATTACKS)
    assert rows[0].endswith(f"| 0 of {cells}, {cells} not run | not run | not run |")
    assert rows[1].endswith("| not run | not run | 6.1.0-1: guest: 3 passed, 1 failed (2026-01-02) |")
    assert rows[2] == "| others from 5.15 | as their version says | never run | never run | never run |"
    kernels.keep_lanes("6.1.0-1-amd64", "2026-01-02", {"guest": {"passed": 3}}, tmp_path)
    kernels.keep_lanes("6.1.0-2-amd64", "2026-01-03", {"enforcer": {"passed": 5}}, tmp_path)
    assert json.loads((tmp_path / "6.1.json").read_text()) == {
        "kernel": "6.1.0-2-amd64",
        "suites": {"enforcer": {"day": "2026-01-03", "passed": 5}, "guest": {"day": "2026-01-02", "passed": 3}},
    }
