"""``make test-kubernetes``: builds what is missing with the network, then runs ``kube_*.py`` without one. Words are pytest's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kubernetes.programs import built, kubernetes_version
from tests.vm.progress import PhaseError, Progress


def main(words: list[str]) -> int:
    """Return pytest's exit status, or 1 when something could not be built."""
    if os.geteuid() != 0:
        print("make test-kubernetes must be run as root: it builds network and mount namespaces of its own.", file=sys.stderr)
        return 77
    progress = Progress()
    try:
        built(progress)
    except PhaseError as failure:
        print(f"{failure}\ntest-kubernetes: FAILED", file=sys.stderr)
        return 1
    progress.say(f"tests: Kubernetes {kubernetes_version()}")
    tests = [] if any(word.startswith("tests/") for word in words) else sorted(map(str, Path(__file__).parent.glob("kube_*.py")))
    status = subprocess.run([sys.executable, "-m", "pytest", "-v", *tests, *words], check=False).returncode
    progress.say(f"test-kubernetes: {'passed' if status == 0 else 'FAILED'}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
