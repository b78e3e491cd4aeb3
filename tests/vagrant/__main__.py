"""``make test-vagrant``: the story of vagrant/README.md, run as written, in a clean copy of what is committed.

Two machines through libvirt and (where nothing lends virtualization) emulation, in network, mount and process namespaces of their
own, so that nothing of it outlives the run. Exit status 1 when a step failed; its words are above that line.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.vagrant.box import box
from tests.vagrant.virtualization import Virtualization, reap
from tests.vm import machine
from tests.vm.image import REPOSITORY, cache, image
from tests.vm.progress import PhaseError, Progress

_NAME = "hostagent/debian12"
_PACKAGES = REPOSITORY / "build/deb"
_README = REPOSITORY / "vagrant/README.md"
_CHECKS = "tests/vagrant/checks.sh"
"""What must be true once both machines are up, beside the commands of the README; a program for the agent host."""


def main(arguments: Sequence[str]) -> int:
    """Build what is missing, enter the namespaces, and run the story."""
    parser = argparse.ArgumentParser(prog="make test-vagrant", description=__doc__)
    parser.add_argument("--package", type=Path, help="a .deb to install (default: the newest in build/deb, built by make deb)")
    parser.add_argument("--inside", nargs=2, metavar=("BOX", "DRIVER"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("make test-vagrant must be run as root: it builds a root file system.", file=sys.stderr)
        return 77
    try:
        if given.inside:
            reap()
            _story(Path(given.inside[0]), given.inside[1], given.package, Progress())
            return 0
        return _enter(given.package or _newest())
    except PhaseError as failure:
        print(f"{failure}\ntest-vagrant: FAILED", file=sys.stderr)
        return 1


def _enter(package: Path) -> int:
    """Make what needs a network, then go on in namespaces that have none."""
    started, progress = time.monotonic(), Progress()
    made, accelerator = box(progress), machine.accelerator(image(progress))
    namespaces = ["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    driver = "qemu" if accelerator == "tcg" else "kvm"
    story = [sys.executable, "-m", "tests.vagrant", "--package", str(package), "--inside", str(made), driver]
    code = subprocess.call([*namespaces, *story], cwd=REPOSITORY)
    print(f"test-vagrant: {time.monotonic() - started:.0f} s")
    return code


def commands() -> list[str]:
    """Return the commands of the README's story, in order: the lines of its ``console`` blocks that a person would type."""
    blocks = re.findall(r"```console\n(.*?)```", _README.read_text(encoding="utf-8"), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def _newest() -> Path:
    packages = sorted(_PACKAGES.glob("hostagent_*.deb"), key=lambda path: path.stat().st_mtime)
    if not packages:
        raise SystemExit("no package in build/deb: make deb")
    return packages[-1]


def _story(made: Path, driver: str, package: Path, progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix="vagrant-", dir=cache()) as name, Virtualization(Path(name), progress) as libvirt:
        folder = Path(name)
        clean = folder / "hostagent"
        (clean / "build/deb").mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, capture_output=True, check=True, timeout=60).stdout
        subprocess.run(["tar", "-x", "-C", str(clean)], input=archive, check=True, timeout=60)
        shutil.copy(package, clean / "build/deb")
        settings = {"HOSTAGENT_BOX": _NAME, "HOSTAGENT_DRIVER": driver, "HOSTAGENT_CONSOLES": str(folder)}
        run = libvirt.runner(clean / "vagrant", settings)
        run(f"vagrant box add --name {_NAME} {made}", 120)
        try:
            for command in commands():
                run(command, 1500)
            run(f"vagrant ssh agent -c 'sudo bash -s' < {clean / _CHECKS}", 600)
            progress.say("again: provisioning a second time changes nothing that matters")
            run("vagrant provision", 900)
            run("vagrant ssh agent -c 'sudo hostagent verify'", 300)
        finally:
            run("vagrant destroy -f", 120)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
