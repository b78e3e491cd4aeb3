"""The table of supported kernels in ``hostagent/enforcer/README.md``, made from what was run: the kept attacks and the kept VM lanes.

``python -m tests.bypass.kernels`` writes it anew; so do ``make bypass`` and ``make test-vm`` when they keep their results. What a kernel
can do comes from its version and from nothing else; whether it was ever run is what the columns on the right say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bypass.attacks import ATTACKS
from tests.bypass.results import Cells, kept

README = Path(__file__).resolve().parents[2] / "hostagent/enforcer/README.md"
LANES = Path(__file__).resolve().parents[1] / "vm/results"
BEGIN, END = "<!-- kernels: written by python -m tests.bypass.kernels -->\n", "<!-- end of kernels -->\n"
MINIMUM = (5, 15)

_GAINS = (
    ((5, 19), "Landlock closes FIFOs of the host"),
    ((6, 7), "BPF hooks for unix sockets (`unix_sockets: false`)"),
    ((6, 9), "the nft table is owned: nobody else can change it"),
    ((6, 12), "Landlock closes abstract unix sockets in shared placement"),
)

Version = tuple[int, int]


def lanes() -> dict[Version, dict[str, Any]]:
    """Return the kept results of the virtual machine's suites, by kernel."""
    return {_version(path.stem): json.loads(path.read_text(encoding="utf-8")) for path in LANES.glob("*.json")}


def keep_lanes(kernel: str, day: str, suites: Mapping[str, Mapping[str, int]], folder: Path = LANES) -> None:
    """Keep how many tests of each suite ended how on ``kernel``; a suite that was not run this time stays as it was kept."""
    path = folder / f"{'.'.join(kernel.split('.')[:2])}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["suites"] if path.exists() else {}
    document = {"kernel": kernel, "suites": dict(sorted({**before, **{name: {"day": day, **counts} for name, counts in suites.items()}}.items()))}
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def table(runs: Mapping[str, Cells], machine: Mapping[Version, Mapping[str, Any]]) -> str:
    """Return the table: one row for every kernel that was run, newest first, between what has and what has not been tried."""
    head = "| kernel | what it has beyond 5.15 | attacks passed, with eBPF | attacks passed, without | suites in a virtual machine |\n|---|---|---|---|---|\n"
    versions = sorted({_version(name) for name in runs} | set(machine), reverse=True)
    rows = [_row(version, runs, machine.get(version, {})) for version in versions]
    rows.append(f"| others from {_name(MINIMUM)} | as their version says | never run | never run | never run |\n")
    rows.append(f"| before {_name(MINIMUM)} | | not supported | not supported | not supported |\n")
    return head + "".join(rows)


def _row(version: Version, runs: Mapping[str, Cells], machine: Mapping[str, Any]) -> str:
    has = "; ".join(what for since, what in _GAINS if version >= since) or "nothing"
    name = _name(version)
    suites = ", ".join(f"{suite}: {_outcome(counts)}" for suite, counts in machine.get("suites", {}).items())
    exact = f"{machine['kernel']}: " if machine else ""
    return f"| {name} | {has} | {_attacks(runs.get(name))} | {_attacks(runs.get(f'{name}-without-bpf'))} | {exact}{suites or 'not run'} |\n"


def _attacks(cells: Cells | None) -> str:
    """Return how many of the numbered attacks, each in its placements, ended how; what is not said did not occur."""
    if cells is None:
        return "not run"
    states = Counter(cells.get(attack.number, {}).get(place, "not run") for attack in ATTACKS for place in attack.placements)
    others = [f"{states[state]} {word}" for state, word in (("stand-in", "by a stand-in"), ("open", "**open**"), ("failed", "**FAILED**"), ("not run", "not run")) if states[state]]
    return ", ".join([f"{states['passed']} of {states.total()}", *others])


def _outcome(counts: Mapping[str, Any]) -> str:
    told = [f"{number} {what}" for what, number in counts.items() if what != "day"]
    return f"{', '.join(told)} ({counts['day']})"


def readme_with(text: str) -> str:
    """Return the README's ``text`` with the table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(kept(), lanes())}\n{END}{after}"


def write() -> None:
    """Write the table anew."""
    README.write_text(readme_with(README.read_text(encoding="utf-8")), encoding="utf-8")


def _version(name: str) -> Version:
    major, minor = name.partition("-")[0].split(".")[:2]
    return int(major), int(minor)


def _name(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


if __name__ == "__main__":
    write()
