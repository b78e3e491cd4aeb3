"""The same source compiled: a copy of the package whose hot floors went through mypyc, unchanged.

Run: ``python -m bench.compiled FOLDER``; put FOLDER before this checkout on PYTHONPATH to use it. Needs a C compiler and
Python's headers (``apt-get install gcc python3-dev``) and takes about a minute of one core. Modules with dataclasses or
msgspec structures stay as they are: mypyc does not take those.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "hostagent"
MODULES = (
    "gate/desk.py",
    "gate/evidence.py",
    "gate/judgement.py",
    "inspectors/postgres/client.py",
    "inspectors/postgres/conversation.py",
    "inspectors/postgres/names.py",
    "inspectors/postgres/parameters.py",
    "inspectors/postgres/results.py",
    "inspectors/postgres/rounds.py",
    "inspectors/postgres/server.py",
    "inspectors/postgres/session.py",
    "inspectors/postgres/subjects.py",
    "journal/chain.py",
    "model/command.py",
    "model/event.py",
    "wire/buffer.py",
    "wire/postgres/backend.py",
    "wire/postgres/frontend.py",
    "wire/postgres/messages.py",
)


def can_build() -> bool:
    """Return whether a compiler and mypyc are at hand."""
    return shutil.which("gcc") is not None and (Path(sys.executable).parent / "mypyc").exists()


def build(folder: Path) -> Path:
    """Copy the package into ``folder``, compile there, and return ``folder``.

    Raises:
        RuntimeError: the compiler refused; the message holds what it said.
    """
    copy = folder / "hostagent"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    command = [str(Path(sys.executable).parent / "mypyc"), *(f"hostagent/{module}" for module in MODULES)]
    environment = {**os.environ, "MYPYC_DEBUG_LEVEL": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mypyc: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    shutil.rmtree(folder / "build", ignore_errors=True)
    return folder


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(build(target))
