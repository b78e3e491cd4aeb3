"""``make bypass``: runs the suite alone, keeps the result by kernel (and firewall), writes the README's table, prints it. Exit 1 unless all passed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bypass import kernels
from tests.bypass.attacks import ATTACKS
from tests.bypass.results import FOLDER, README, Run, kept, readme_with, run_name, totals


def main() -> int:
    """Run pytest over this folder in a process of its own, then make the table."""
    if os.geteuid() != 0:
        print("make bypass must be run as root: it builds network and mount namespaces of its own.", file=sys.stderr)
        return 77
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder, "cells.json")
        environment = {**os.environ, "HOSTAGENT_BYPASS_RESULTS": str(cells)}
        words = [sys.executable, "-m", "pytest", str(Path(__file__).parent), *sys.argv[1:]]
        status = subprocess.run(words, env=environment, check=False).returncode
        run = Run(json.loads(cells.read_text(encoding="utf-8")) if cells.exists() else {})
    if sys.argv[1:]:
        print("a partial run: nothing is kept")
        return status
    run.write(FOLDER / f"{run_name()}.json")
    README.write_text(readme_with(README.read_text(encoding="utf-8"), kept()), encoding="utf-8")
    kernels.write()
    for attack in ATTACKS:
        states = ", ".join(f"{place} {run.cells.get(attack.number, {}).get(place, 'NOT RUN')}" for place in attack.placements)
        print(f"{attack.number:>4}  {attack.name:<26} {attack.layer[:60]:<60}  {states}")
    print(f"\n{run_name()}: {totals(run.cells)}")
    for problem in (*run.missing(), *run.failed()):
        print(f"not passed: {problem}")
    return 1 if status or run.missing() or run.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
