"""What came back from the machine, test by test, and whether it is a pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.bypass.results import Cells
from tests.vm.progress import PhaseError


@dataclass(frozen=True)
class Test:
    """One test: ``outcome`` is passed, failed, error or skipped; ``words`` the failure's text."""

    name: str
    outcome: str
    seconds: float
    words: str = ""


@dataclass(frozen=True)
class Outcome:
    """A whole run: the guest's kernel and its list of security modules, and the tests of each suite."""

    kernel: str
    lsm: str
    system: str
    suites: dict[str, list[Test]]

    @property
    def bad(self) -> list[Test]:
        """Everything that did not pass: a skipped test has shown nothing."""
        return [test for tests in self.suites.values() for test in tests if test.outcome != "passed"]


def read(folder: Path, suites: Iterable[str]) -> Outcome:
    """Return the outcome that the machine left in ``folder``.

    Raises:
        PhaseError: a suite of ``suites`` is missing, has no test, or the machine's own status does not fit what the tests say.
    """
    try:
        status = int((folder / "status").read_text(encoding="utf-8"))
        kernel, lsm, system = ((folder / name).read_text(encoding="utf-8").strip() for name in ("kernel", "lsm", "system"))
        found = {name: _tests(folder / f"{name}.xml") for name in suites}
    except (OSError, ValueError, ET.ParseError) as error:
        raise PhaseError(f"machine: incomplete results in {folder}: {error}") from error
    for name, tests in found.items():
        if not tests:
            raise PhaseError(f"machine: suite {name} ran no test")
    outcome = Outcome(kernel, lsm, system, found)
    if status and not outcome.bad:
        raise PhaseError(f"machine: status {status} although every test passed; see the logs in {folder}")
    return outcome


def _tests(path: Path) -> list[Test]:
    found = []
    for case in ET.parse(path).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}"
        outcome, words = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = {"failure": "failed"}.get(child.tag, child.tag)
                words = f"{child.get('message', '')}\n{child.text or ''}"
        found.append(Test(name, outcome, float(case.get("time", "0")), words))
    return found


def write(outcome: Outcome, path: Path) -> None:
    """Keep the outcome of every test by its name, for the table of attacks per kernel."""
    tests = {test.name: test.outcome for tests in outcome.suites.values() for test in tests}
    document = {"kernel": outcome.kernel, "lsm": outcome.lsm.split(","), "system": outcome.system, "tests": dict(sorted(tests.items()))}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def cells(folder: Path, suites: Iterable[str]) -> Cells:
    """Return what came of each numbered attack over all suites: the worst of each; a real daemon outdoes a stand-in."""
    merged: Cells = {}
    for name in suites:
        path = folder / f"{name}.cells.json"
        found: Cells = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for number, places in found.items():
            for place, state in places.items():
                before = merged.setdefault(number, {}).get(place, state)
                merged[number][place] = min(before, state, key=("failed", "open", "passed", "stand-in").index)
    return merged


def summary(outcome: Outcome) -> str:
    """Return what a person needs to know, the failures first."""
    lines = [f"{test.outcome.upper()} {test.name}\n{_indented(test.words)}" for test in outcome.bad]
    lines.append(f"Linux {outcome.kernel}, security modules {outcome.lsm}, systemd: {outcome.system.splitlines()[0]}")
    for name, tests in outcome.suites.items():
        counts = Counter(test.outcome for test in tests)
        seconds = sum(test.seconds for test in tests)
        lines.append(f"  {name}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))} in {seconds:.0f} s")
    everything = [test for tests in outcome.suites.values() for test in tests]
    lines.append(f"{len(everything) - len(outcome.bad)} passed, {len(outcome.bad)} failed")
    return "\n".join(lines)


def _indented(words: str) -> str:
    return "\n".join(f"    {line}" for line in words.strip().splitlines()[-25:])
