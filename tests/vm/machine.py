"""One run of the virtual machine: no network at all, the tree in on one disk, the results out on another, the console in a file."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.vm.image import REPOSITORY, Image
from tests.vm.progress import PhaseError, Progress

REBOOT = "reboot"
"""In a plan: not a suite."""
_QEMU = "qemu-system-x86_64"
_RESULTS_BYTES = 64 << 20
# A kernel that says nothing for so long does not start; one that could would have said something in a second.
_PROBE_S = 15
_BOOT_S = 300
# No test is silent for longer: pytest ends the slowest before that.
_SILENCE_S = 2700  # all numbered attacks are made before the first of them is judged
_MARK = "hostagent-vm: "
# What of the console is progress: our own words, one line per test, and how each suite ended. All of it is in the log.
_TOLD = re.compile(r"hostagent-vm: |.*::.* (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) |=+ (.* in .*|test session starts) =+$")


@dataclass(frozen=True)
class Limits:
    """Resources of the machine. ``total_s`` counts from power-on to power-off."""

    total_s: int
    memory_mb: int = 4096
    processors: int = 2


def accelerator(image: Image) -> str:
    """Return ``kvm`` if a kernel really starts under it, else ``tcg``.

    An open /dev/kvm is not enough: under some hypervisors it creates machines whose kernels never begin.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    command = [
        _QEMU, "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(image.kernel), "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    try:
        # Without a disk the kernel panics as soon as it is up, and qemu ends.
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False).stdout
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if b"Kernel panic" in said else "tcg"


def run(
    image: Image, plan: Mapping[str, Sequence[str]], output: Path, limits: Limits, progress: Progress, files: Mapping[str, Path] = MappingProxyType({})
) -> None:
    """Run the plan's suites in the machine and unpack what they hand over into ``output``, with ``serial.log``.

    Args:
        image: what to boot.
        plan: pytest's arguments for each suite, by its name; at ``REBOOT`` the machine starts anew and goes on with the next.
        output: a folder; what is in it is removed first.
        limits: of the machine.
        progress: is told what the machine says.
        files: what else the machine finds in its tree's folder ``.vm-files``, by name.

    Raises:
        PhaseError: it did not start, went silent, took too long, or ended without handing anything over.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    chosen = accelerator(image)
    progress.say(f"machine: {limits.processors} processors by {chosen}, {limits.memory_mb} MB, no network")
    with tempfile.TemporaryDirectory(prefix="hostagent-vm-") as name:
        folder = Path(name)
        _tree(folder / "tree.tar", plan, files)
        with (folder / "results.tar").open("wb") as results:
            results.truncate(_RESULTS_BYTES)
        once = [] if REBOOT in plan else ["-no-reboot"]
        _boot([*_command(image, folder, output / "serial.log", chosen, limits), *once], folder, output / "serial.log", limits, progress)
        _unpack(folder / "results.tar", output)


def _tree(path: Path, plan: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> None:
    """Write what the machine tests: the tree as committed, and the plan."""
    with path.open("wb") as file:
        done = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, stdout=file, stderr=subprocess.PIPE, check=False, timeout=60)
    if done.returncode:
        raise PhaseError(f"git archive: {done.stderr.decode(errors='replace')}")
    text = "".join(f"{name} {shlex.join(arguments)}\n" for name, arguments in plan.items()).encode()
    with tarfile.open(path, "a") as tar:
        entry = tarfile.TarInfo(".vm-plan")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        for name, file in files.items():
            tar.add(file, f".vm-files/{name}")


def _command(image: Image, folder: Path, serial: Path, chosen: str, limits: Limits) -> list[str]:
    speed = ["-accel", "kvm", "-cpu", "host"] if chosen == "kvm" else ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
    # Against what the processor leaks nothing is tried here, and every mitigation costs an emulated processor much.
    words = "root=/dev/vda rw console=ttyS0 quiet mitigations=off panic=-1 systemd.show_status=0"
    return [
        _QEMU, *speed, "-m", str(limits.memory_mb), "-smp", str(limits.processors), "-nodefaults", "-display", "none",
        "-nic", "none", "-device", "virtio-rng-pci", "-serial", f"file:{serial}",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", words,
        "-drive", f"file={image.root},if=virtio,format=raw,snapshot=on",
        "-drive", f"file={folder / 'tree.tar'},if=virtio,format=raw,readonly=on",
        "-drive", f"file={folder / 'results.tar'},if=virtio,format=raw",
    ]  # fmt: skip


def _boot(command: list[str], folder: Path, serial: Path, limits: Limits, progress: Progress) -> None:
    """Run the machine to its power-off, repeating its console; it is ended whatever happens."""
    words = folder / "qemu.log"
    with words.open("wb") as log:
        environment = {**os.environ, "TMPDIR": str(folder)}  # for what it writes to its root disk
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            _follow(machine, serial, limits, progress)
        finally:
            if machine.poll() is None:
                machine.kill()
            machine.wait(30)
    if machine.returncode:
        raise PhaseError(f"{_QEMU}: status {machine.returncode}: {words.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _follow(machine: subprocess.Popen[bytes], serial: Path, limits: Limits, progress: Progress) -> None:
    started = heard = time.monotonic()
    position, rest, up = 0, "", False
    while True:
        ended = machine.poll() is not None
        new = _read(serial, position)
        position += len(new)
        if new:
            heard = time.monotonic()
            *lines, rest = (rest + new.decode(errors="replace")).replace("\r", "").split("\n")
            for line in lines:
                up = up or line.startswith(_MARK)
                if up and _TOLD.match(line):
                    progress.say(line)
        if ended:
            return
        now = time.monotonic()
        if now - started > limits.total_s:
            raise PhaseError(f"machine: not done after {limits.total_s} s")
        if not up and now - started > _BOOT_S:
            raise PhaseError(f"machine: not up after {_BOOT_S} s; its console is in {serial}")
        if now - heard > _SILENCE_S:
            raise PhaseError(f"machine: silent for {_SILENCE_S} s; its console is in {serial}")
        time.sleep(0.2)


def _read(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(1 << 20)
    except FileNotFoundError:
        return b""


def _unpack(path: Path, output: Path) -> None:
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is not None:  # plain files of one folder, whatever else the machine may have packed
                    (output / Path(entry.name).name).write_bytes(content.read())
    except tarfile.TarError as error:
        raise PhaseError(f"machine: it ended and handed nothing over ({error}); its console is in {output / 'serial.log'}") from None
