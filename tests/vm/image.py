"""The machine's disk: a Debian 12 with what the suites need, built once per content of what goes into it, and kept outside the tree."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.progress import PhaseError, Progress

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_LISTS = (REPOSITORY / ".ci/packages.txt", HERE / "packages.txt")
_LOCK = REPOSITORY / ".ci/requirements.lock"
_INGREDIENTS = (*_LISTS, _LOCK, HERE / "customize", HERE / "hostagent-test.service", HERE / "start")
_SIZE = "6G"
_SUITE = "bookworm"
_BACKPORTS = "bookworm-backports"
KERNELS = ("stock", "backports")
_OF_THE_KERNEL = {"linux-image-amd64", "linux-headers-amd64"}
# Measured: 13 s of wheels, 75 s of packages, 25 s of file system, on an idle machine; ten times that is a failure.
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Image:
    """Files to boot from. ``root`` is never written to: a run keeps its changes in a temporary file."""

    root: Path
    kernel: Path
    initrd: Path


def cache() -> Path:
    """Return the folder of images: ``HOSTAGENT_VM_CACHE`` or one below ``/var/cache``."""
    return Path(os.environ.get("HOSTAGENT_VM_CACHE", "/var/cache/hostagent-vm"))


def key(kernel: str = "stock") -> str:
    """Return what names an image: the kernel's kind, and the digest of everything it is made from, this module included."""
    digest = hashlib.sha256()
    for path in (*_INGREDIENTS, Path(__file__)):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    # Of the project file only what is installed from it: the rules of linters change every day.
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    digest.update(json.dumps([project["build-system"], project["project"], project["tool"]["setuptools"]]).encode())
    return f"{kernel}-{digest.hexdigest()[:20]}"


def image(progress: Progress, kernel: str = "stock") -> Image:
    """Return the image of this tree's lists and lock, building it where it is not in the cache.

    ``kernel``: one of ``KERNELS``, Debian's own of the release or the newest of its backports.

    Raises:
        PhaseError: a step of the build failed or took too long; nothing half-made is left in the cache.
    """
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "lock"):
        done = folder / key(kernel)
        if not done.is_dir():
            _build(done, kernel, progress)
            _forget(folder, done)
        else:
            progress.say(f"image: {done} (cached)")
    return Image(done / "root.img", done / "vmlinuz", done / "initrd.img")


def _build(done: Path, kernel: str, progress: Progress) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="building-", dir=done.parent) as name:
        making = Path(name)
        making.chmod(0o755)
        product = making / "product"
        product.mkdir()
        progress.say("image: fetching Python packages by hash")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-q", "--progress-bar", "off"]
        execute([*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(_LOCK), "-d", str(making / "wheels")], making)
        progress.say(f"image: installing {len(packages())} Debian packages and what they need")
        execute(_mmdebstrap(making, kernel), making)
        progress.say("image: writing the file system")
        for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd.img", "initrd.img-*")):
            (found,) = (making / "root/boot").glob(pattern)
            shutil.copyfile(found, product / name)
        execute(["mke2fs", "-q", "-t", "ext4", "-d", str(making / "root"), str(product / "root.img"), _SIZE], making)
        product.rename(done)
    progress.say(f"image: {done}, built in {time.monotonic() - started:.0f} s")


def packages() -> list[str]:
    """Return the Debian packages that the lists name."""
    lines = [line.partition("#")[0] for path in _LISTS for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted({word for line in lines for word in line.split()})


def _mmdebstrap(making: Path, kernel: str) -> list[str]:
    # A list of modules instead of a guess about this machine's hardware: the image boots on virtio and nothing else.
    modules = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list >"$1/etc/initramfs-tools/conf.d/virtio" && '
        'printf "virtio_pci\\nvirtio_blk\\next4\\n" >"$1/etc/initramfs-tools/modules"'
    )
    newer = kernel == "backports"
    included = [f"{name}/{_BACKPORTS}" if newer and name in _OF_THE_KERNEL else name for name in packages()]
    return [
        "mmdebstrap", "--variant=minbase", "--format=directory", f"--include={','.join(included)}",
        '--aptopt=Acquire::Retries "3"', '--dpkgopt=path-exclude=/usr/share/man/*', '--dpkgopt=path-exclude=/usr/share/doc/*',
        f"--essential-hook={modules}", f"--customize-hook={HERE / 'customize'} \"$1\" {REPOSITORY} {making / 'wheels'}",
        _SUITE, str(making / "root"), *(f"deb http://deb.debian.org/debian {suite} main" for suite in (_SUITE, _BACKPORTS) if newer),
    ]  # fmt: skip


def execute(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    words = folder / "words"
    with words.open("wb") as log:
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=False, timeout=_TIMEOUT_S
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code:
        said = "\n".join(words.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
        what = f"took more than {_TIMEOUT_S} s" if code == -1 else f"ended with status {code}"
        raise PhaseError(f"{said}\nimage: {command[0]} {what}")


def _forget(folder: Path, kept: Path) -> None:
    """Remove the images of former contents with the same kind of kernel: each takes more than a gigabyte."""
    for path in folder.glob(f"{kept.name.partition('-')[0]}-*"):
        if path.is_dir() and path != kept:
            shutil.rmtree(path)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
