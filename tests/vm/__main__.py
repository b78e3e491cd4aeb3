"""``make test-vm``: the boundary on Debian's own kernel. Exit status 1 when anything failed or the machine did not report.

    python -m tests.vm [--total SECONDS] [SUITE | TEST-PATH]...

Without arguments every suite runs. A path runs as a suite of its own, with pytest's usual syntax.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bypass import kernels, results
from tests.vm import machine, outcome, packages
from tests.vm.image import KERNELS, REPOSITORY, image
from tests.vm.progress import PhaseError, Progress

_OUTPUT = REPOSITORY / "build/vm"
# An emulated processor is some ten times slower: a test may take that much longer before it counts as hanging.
_PATIENCE = ["-o", "timeout=600"]
SUITES: dict[str, list[str]] = {
    "guest": ["tests/vm/guest/guest_systemd.py"],
    "bypass": ["tests/bypass"],
    "enforcer": ["tests/enforcer"],
    "netns": ["tests/netns"],
    "units": ["tests/vm/guest/guest_units.py"],
    "package": ["tests/vm/guest/guest_package.py"],
}
# What runs after the machine was started anew.
_REBOOTED = {"package": {machine.REBOOT: [], "rebooted": ["tests/vm/guest/guest_rebooted.py"]}}


def main(arguments: Sequence[str]) -> int:
    """Build or find the image, run the machine, judge what it handed over."""
    parser = argparse.ArgumentParser(prog="make test-vm", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE|PATH", help=f"default: {' '.join(SUITES)}")
    parser.add_argument("--total", type=int, default=1800, help="seconds from power-on to power-off (default 1800)")
    parser.add_argument("--kernel", choices=KERNELS, default="stock", help="Debian's own of the release, or its backports' newest")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="folder for what comes back (default build/vm)")
    parser.add_argument("--keep", action="store_true", help="keep what came of the attacks in tests/bypass, and write its table anew")
    given = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("make test-vm must be run as root: it builds a root file system.", file=sys.stderr)
        return 77
    plan: dict[str, list[str]] = {}
    for word in given.suites or SUITES:
        plan[_name(word)] = [*_PATIENCE, *SUITES.get(word, [word])]
        plan |= {name: [*_PATIENCE, *arguments] if arguments else [] for name, arguments in _REBOOTED.get(word, {}).items()}
    suites = [name for name in plan if name != machine.REBOOT]
    progress = Progress()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hostagent-vm-") as folder:
            files = packages.built(Path(folder), progress) if "package" in plan else {}
            machine.run(image(progress, given.kernel), plan, given.output, machine.Limits(given.total), progress, files)
        found = outcome.read(given.output, suites)
    except PhaseError as failure:
        print(f"{failure}\ntest-vm: FAILED", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("test-vm: interrupted; the machine is gone", file=sys.stderr)
        return 130
    outcome.write(found, given.output / "results.json")
    print(outcome.summary(found))
    _attacks(given.output, suites, found, keep=given.keep)
    print(f"test-vm: {time.monotonic() - started:.0f} s; logs and results.json are in {given.output}")
    return 1 if found.bad else 0


def _attacks(folder: Path, plan: Iterable[str], found: outcome.Outcome, *, keep: bool) -> None:
    """Say what came of the numbered attacks on this kernel, and keep it as ``make bypass`` keeps its own if asked to."""
    run = results.Run(outcome.cells(folder, plan))
    name = ".".join(found.kernel.split(".")[:2])
    run.write(folder / f"bypass-{name}.json")
    print(f"attacks on Linux {name}: {results.totals(run.cells)}")
    for problem in run.failed():
        print(f"not passed: {problem}")
    if keep:
        # What this run did not try stays as the last run found it.
        kept = results.kept().get(name, {})
        merged = {number: {**kept.get(number, {}), **run.cells.get(number, {})} for number in {**kept, **run.cells}}
        results.Run(merged).write(results.FOLDER / f"{name}.json")
        results.README.write_text(results.readme_with(results.README.read_text(encoding="utf-8"), results.kept()), encoding="utf-8")
        counts = {suite: Counter(test.outcome for test in tests) for suite, tests in found.suites.items()}
        kernels.keep_lanes(found.kernel, time.strftime("%Y-%m-%d", time.gmtime()), counts)
        kernels.write()


def _name(word: str) -> str:
    return word if word in SUITES else "".join(letter if letter.isalnum() else "-" for letter in Path(word).name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
