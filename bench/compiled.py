"""The same source compiled: the package as a wheel whose hot floors went through mypyc, unpacked.

Run: ``python -m bench.compiled FOLDER``; put FOLDER before this checkout on PYTHONPATH to use it. ``python -m bench.compiled
--test [PYTEST ARGUMENTS]`` runs tests against such a build (default: the floors that are compiled, and those next to them).
Needs a C compiler and Python's headers (``apt-get install gcc python3-dev``) and takes about a minute of one core.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
_TESTS = (
    "tests/wire",
    "tests/journal",
    "tests/inspectors",
    "tests/gate",
    "tests/mask",
    "tests/proxy",
    "tests/recording",
)


def can_build() -> bool:
    """Return whether a compiler and mypyc are at hand."""
    return shutil.which("gcc") is not None and (Path(sys.executable).parent / "mypyc").exists()


def build(folder: Path) -> Path:
    """Build the wheel, compiled, unpack it into ``folder``, and return ``folder``.

    Raises:
        RuntimeError: the compiler refused, or left a module as it was; the message holds what was said.
    """
    with tempfile.TemporaryDirectory() as temporary:
        # A copy, so that no build leaves anything in the checkout.
        source = Path(temporary) / "source"
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / "hostagent", source / "hostagent", ignore=ignored)
        for name in _SOURCES:
            shutil.copy(ROOT / name, source / name)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-build-isolation",
            "--no-deps",
            "--no-index",
            "-w",
            temporary,
            str(source),
        ]
        done = subprocess.run(
            command, env={**os.environ, "HOSTAGENT_COMPILE": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"pip wheel: {done.stdout[-4000:]}{done.stderr[-2000:]}")
        wheel = next(Path(temporary).glob("hostagent-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    missing = [module for module in modules() if not list(folder.glob(module.removesuffix(".py") + ".*.so"))]
    if missing:
        raise RuntimeError(f"not compiled: {', '.join(missing)}")
    return folder


def modules() -> list[str]:
    """Return the modules that are compiled, as paths from the top of the checkout."""
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hostagent"][
        "compiled"
    ]
    return found


def test(arguments: list[str]) -> int:
    """Build, run pytest with ``arguments`` against the build, and return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # processes under other users import it, too
        build(Path(folder))
        print(f"{len(modules())} modules compiled", flush=True)
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}
        whence = "import sys, hostagent.gate.desk as desk; sys.exit(not desk.__file__.endswith('.so'))"
        subprocess.run([sys.executable, "-c", whence], cwd=folder, env=environment, check=True)
        command = [sys.executable, "-m", "pytest", "-o", f"pythonpath={folder} .", *(arguments or _TESTS)]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> None:
    """Build or test from the command line."""
    if sys.argv[1:2] == ["--test"]:
        sys.exit(test(sys.argv[2:]))
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    print(build(target))


if __name__ == "__main__":
    main()
