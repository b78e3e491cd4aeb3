"""The Debian packages that the machine is given: this tree's, and the same with a lower version to upgrade from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.vm.image import REPOSITORY
from tests.vm.progress import PhaseError, Progress

OLD = "0.0.1"
_TIMEOUT_S = 1200


def built(folder: Path, progress: Progress) -> dict[str, Path]:
    """Return both by the names under which the machine finds them. Nothing is compiled: that is `make test-package`'s.

    Raises:
        PhaseError: one could not be built.
    """
    wheels = Path(os.environ.get("HOSTAGENT_PACKAGE_CACHE", "/var/cache/hostagent-package")) / "wheels"
    found = {}
    for name, version in (("old.deb", ["--version", OLD]), ("new.deb", [])):
        progress.say(f"package: building {name}")
        command = [sys.executable, str(REPOSITORY / "packaging/deb/build.py"), "--output", str(folder / name[:3]), "--wheels", str(wheels), *version]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, env={**os.environ, "HOSTAGENT_COMPILE": "0"}
        )
        if done.returncode:
            raise PhaseError(f"package: {done.stderr[-3000:]}")
        found[name] = Path(done.stdout.strip())
    return found
