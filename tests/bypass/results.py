"""What came of each attack where it was run, kept by kernel in ``results/``, and the table of the README made from it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bypass.attacks import ATTACKS, BOTH, HERE, Attack
from tests.stage.service import FIREWALL

FOLDER = Path(__file__).with_name("results")
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table: written by make bypass -->\n", "<!-- end of table -->\n"

Cells = dict[str, dict[str, str]]
"""By attack's number and placement: ``passed``, ``failed``, or ``stand-in`` (passed, but only a whole machine shows the real one),
``open`` (nothing stops it on that kernel, and the service says so), or ``refused`` (nothing is launched in that placement)."""


def run_name() -> str:
    """Return the name of this run: the kernel's version to its second number, whether BPF was off or iptables the firewall."""
    version = re.match(r"\d+\.\d+", os.uname().release)
    assert version is not None
    without = "-without-bpf" if os.environ.get("HOSTAGENT_BYPASS_BPF") == "off" else ""
    return version.group() + without + ("-iptables" if FIREWALL == "iptables" else "")


@dataclass
class Run:
    """One run's cells. Every test of an attack must pass for its cell to."""

    cells: Cells

    def note(self, number: str, placement: str, *, passed: bool, real: bool, known_open: bool = False) -> None:
        """Add one test's result."""
        placements = self.cells.setdefault(number, {})
        attack = next(each for each in ATTACKS if each.number == number)
        state = "passed" if real or not attack.machine else "stand-in"
        before = placements.get(placement)
        if not passed or before == "failed":
            state = "failed"
        elif known_open or before == "open":
            state = "open"
        elif before == "passed":
            state = before
        placements[placement] = state

    def refuse(self) -> None:
        """Note that nothing is launched in the placements that this run's firewall cannot hold."""
        for attack in ATTACKS:
            for placement in attack.placements:
                if placement not in HERE:
                    self.cells.setdefault(attack.number, {})[placement] = "refused"

    def missing(self) -> list[str]:
        """Return the cells of the registry that no test filled."""
        return [
            f"{attack.label} {placement}"
            for attack in ATTACKS
            for placement in attack.placements
            if placement not in self.cells.get(attack.number, {})
        ]

    def failed(self) -> list[str]:
        """Return the cells that failed."""
        return [f"{number} {place}" for number, places in self.cells.items() for place, state in places.items() if state == "failed"]

    def write(self, path: Path) -> None:
        """Keep it, in the registry's order."""
        ordered = {attack.number: self.cells[attack.number] for attack in ATTACKS if attack.number in self.cells}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(ordered, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def kept() -> dict[str, Cells]:
    """Return the kept runs by name, the newest kernel first."""

    def order(path: Path) -> tuple[list[int], str]:
        return [-int(number) for number in path.stem.partition("-")[0].split(".")], path.stem

    paths = sorted((path for path in FOLDER.glob("*.json")), key=order)
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def table(runs: Mapping[str, Cells]) -> str:
    """Return the README's table."""
    names = list(runs)
    head = ["#", "attack", "layer", "row by", *(name.replace("-without-bpf", ", no BPF").replace("-iptables", ", iptables") for name in names)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for attack in ATTACKS:
        cells = [attack.number, f"**{attack.name}**: {attack.tried}", attack.layer, _rows(attack)]
        cells += [_cell(attack, runs[name].get(attack.number, {})) for name in names]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def totals(cells: Cells) -> str:
    """Return one line: how many cells passed, and so on."""
    states = [cells.get(attack.number, {}).get(placement, "not run") for attack in ATTACKS for placement in attack.placements]
    counts = {state: states.count(state) for state in ("passed", "stand-in", "open", "refused", "failed", "not run")}
    return f"{len(ATTACKS)} attacks, {len(states)} with placements: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count or state != "refused")


def readme_with(text: str, runs: Mapping[str, Cells]) -> str:
    """Return the README's ``text`` with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    summary = "".join(f"- {name}: {totals(cells)}\n" for name, cells in runs.items())
    return f"{before}{BEGIN}\n{summary}\n{table(runs)}{END}{after}"


def _rows(attack: Attack) -> str:
    if attack.shared_rows is not None and attack.shared_rows != attack.rows:
        return f"{', '.join(attack.rows) or '–'}; shared: {', '.join(attack.shared_rows) or '–'}"
    return ", ".join(attack.rows) or f"– ({attack.why})"


def _cell(attack: Attack, found: Mapping[str, str]) -> str:
    states = {placement: found.get(placement, "not run") for placement in attack.placements}
    if not found:
        return "not run"
    if attack.placements == BOTH and states["shared"] == "refused":
        return _cell(replace(attack, placements=("isolated",)), found)
    if len(set(states.values())) == 1:
        state = next(iter(states.values()))
        words = {"open": "**open**, and said so", "refused": "refused at launch", "stand-in": f"stand-in passed; {attack.machine}: only on a whole machine", "failed": "**FAILED**"}
        only = "" if attack.placements == BOTH else f" ({attack.placements[0]})"
        return words.get(state, state) + only
    shown = {"failed": "**FAILED**", "open": "**open**, and said so"}
    return "; ".join(f"{placement}: {shown.get(state, state)}" for placement, state in states.items())
