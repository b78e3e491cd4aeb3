"""The box: a Debian 12 with its stock kernel, as Vagrant expects one, and with the packages that provisioning would fetch.

Built once per content of what goes into it, beside the image of ``make test-vm``. MBR and extlinux: GRUB needs a display.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from tests.vm.image import REPOSITORY, alone, cache, execute
from tests.vm.progress import PhaseError, Progress

HERE = Path(__file__).resolve().parent
_LISTS = (REPOSITORY / ".ci/packages.txt", HERE / "packages.txt")
_INGREDIENTS = (*_LISTS, HERE / "customize")
_SIZE_GB = 8
_START = 1024 * 1024  # of the only partition, in bytes
_SUITE = "bookworm"
_LIBVIRT_BOX = '{{"provider":"libvirt","format":"qcow2","virtual_size":{size}}}'
_MBR = Path("/usr/lib/EXTLINUX/mbr.bin")


def box(progress: Progress) -> Path:
    """Return the file of this tree's box, building it where it is not in the cache.

    Raises:
        PhaseError: a step of the build failed or took too long; nothing half-made is left in the cache.
    """
    folder = cache() / "boxes"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (*_INGREDIENTS, Path(__file__)))).hexdigest()[:20]
    done = folder / f"{digest}.box"
    with alone(folder / "lock"):
        if done.is_file():
            progress.say(f"box: {done} (cached)")
            return done
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as name:
            _build(Path(name), progress).rename(done)
        for path in folder.glob("*.box"):
            if path != done:
                path.unlink()
        progress.say(f"box: {done}, {done.stat().st_size >> 20} MB, built in {time.monotonic() - started:.0f} s")
    return done


def _build(making: Path, progress: Progress) -> Path:
    making.chmod(0o755)
    progress.say("box: installing Debian")
    words = [line.partition("#")[0] for path in _LISTS for line in path.read_text(encoding="utf-8").splitlines()]
    packages = ",".join(sorted({word for line in words for word in line.split()}))
    root, raw = making / "root", making / "box.raw"
    execute(
        [
            "mmdebstrap", "--variant=minbase", "--format=directory", f"--include={packages}", '--aptopt=Acquire::Retries "3"',
            '--dpkgopt=path-exclude=/usr/share/doc/*', f'--customize-hook={HERE / "customize"} "$1"', _SUITE, str(root),
        ],
        making,
    )  # fmt: skip
    progress.say("box: writing the disk")
    _disk(raw, root, making)
    execute(["qemu-img", "convert", "-O", "qcow2", str(raw), str(making / "box.img")], making)
    raw.unlink()
    (making / "metadata.json").write_text(_LIBVIRT_BOX.format(size=_SIZE_GB), encoding="utf-8")
    (making / "Vagrantfile").write_text('Vagrant.configure("2") { |config| config.vm.guest = :debian }\n', encoding="utf-8")
    product = making / "product.box"
    with tarfile.open(product, "w") as tar:
        for name in ("metadata.json", "Vagrantfile", "box.img"):
            tar.add(making / name, name)
    shutil.rmtree(root)
    return product


def _disk(raw: Path, root: Path, making: Path) -> None:
    """Write ``root`` as the one bootable partition of ``raw``. The kernel need not know partitions: a loop device begins at it."""
    with raw.open("wb") as file:
        file.truncate(_SIZE_GB << 30)
        file.write(_MBR.read_bytes())
    table = f"label: dos\nstart={_START // 512}, type=83, bootable\n"
    done = subprocess.run(["sfdisk", "-q", "--no-tell-kernel", str(raw)], input=table, text=True, capture_output=True, check=False, timeout=60)
    if done.returncode:
        raise PhaseError(f"sfdisk: {done.stderr}")
    blocks = ((_SIZE_GB << 30) - _START) // 4096
    execute(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^64bit", "-E", f"offset={_START}", "-d", str(root), str(raw), str(blocks)], making)
    at = making / "mounted"
    at.mkdir()
    # In a mount namespace of its own: an interrupted build leaves nothing mounted.
    script = 'mount -o loop,offset="$1" "$2" "$3" && extlinux --install "$3/boot/extlinux" && umount "$3"'
    execute(["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", str(_START), str(raw), str(at)], making)
