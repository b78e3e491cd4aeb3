"""A fresh Debian in a chroot, in the caller's own network and mount namespaces: a writable layer over the cached base."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Self

from tests.stage import Service, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, run

ROOT = Path("/mnt/chroot")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What dpkg, apt and the account tools keep for themselves.
_BOOKS = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "var/lib/systemd/deb-systemd-helper-masked")
_COPIES = ("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-")


class Chroot:
    """``with World() as world, Chroot(base): …``: the stage's folder is in it at the same path."""

    def __init__(self, base: Path) -> None:
        """Nothing happens before ``__enter__``."""
        self._base = base
        self._mounted: list[Path] = []

    def __enter__(self) -> Self:
        """Mount."""
        try:
            self._mount()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount; what was written is gone."""
        for path in reversed(self._mounted):
            subprocess.run(["umount", "-l", str(path)], check=False, stderr=subprocess.DEVNULL)

    def _mount(self) -> None:
        layer = Path("/mnt/layer")
        for folder in (ROOT, layer / "upper", layer / "work"):
            folder.mkdir(parents=True)
        options = f"lowerdir={self._base},upperdir={layer}/upper,workdir={layer}/work"
        self._put(ROOT, "mount", "-t", "overlay", "-o", options, "chroot", str(ROOT))
        for name, kind in (("proc", "proc"), ("sys", "sysfs"), ("sys/fs/cgroup", "cgroup2"), ("sys/fs/bpf", "bpf"), ("run", "tmpfs"), ("tmp", "tmpfs")):
            self._put(ROOT / name, "mount", "-t", kind, "chroot", str(ROOT / name))
        self._put(ROOT / "dev", "mount", "--rbind", "/dev", str(ROOT / "dev"))
        (ROOT / "mnt/stage").mkdir()
        self._put(ROOT / "mnt/stage", "mount", "--bind", "/mnt/stage", str(ROOT / "mnt/stage"))
        with (ROOT / "etc/hosts").open("a", encoding="utf-8") as hosts:
            hosts.write(f"127.0.0.1 localhost\n{DATABASE_V4} {DATABASE_NAME}\n{DATABASE_V6} {DATABASE_NAME}\n")

    def _put(self, path: Path, *command: str) -> None:
        run(*command)
        self._mounted.append(path)

    def run(self, *words: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, with nothing on its standard input."""
        done = subprocess.run(
            ["chroot", str(ROOT), *words], env={"PATH": _PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **environment},
            capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def install(self, package: str) -> str:
        """Install a package file as a person would, upgrading what is there; there is no network to fetch anything from."""
        target = ROOT / "tmp" / Path(package).name
        shutil.copy(package, target)
        try:
            return self.run("apt-get", "install", "-y", "--allow-downgrades", f"/tmp/{target.name}").stdout
        finally:
            target.unlink()

    def listing(self) -> dict[str, str]:
        """Return every file by its path: kind, mode, owner, and the digest of what is in it."""
        found: dict[str, str] = {}
        for folder, folders, files in os.walk(ROOT):
            for name in (*folders, *files):
                path = Path(folder, name)
                relative = str(path.relative_to(ROOT))
                if path.is_mount() or relative in _BOOKS:
                    if name in folders:
                        folders.remove(name)
                elif relative not in _COPIES:
                    found[relative] = _description(path)
        return found


def _description(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha1").hexdigest()
    else:
        content = os.readlink(path) if path.is_symlink() else ""
    return f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {content}"


class Packaged(Service):
    """The service of the package in the chroot, configured in /etc/hostagent."""

    def __init__(self, world: World, slice_name: str) -> None:
        """``_write`` is the operator's part: see the test."""
        super().__init__(world, settings=None, name="deb")  # type: ignore[arg-type]
        self.slice = slice_name
        self.folder.mkdir()

    def _write(self) -> None:
        return

    @property
    def command(self) -> list[str]:
        """The installed command."""
        return ["chroot", str(ROOT), "/usr/bin/hostagent"]

    @property
    def environment(self) -> dict[str, str]:
        """What a login would have."""
        return {"PATH": _PATH, "LANG": "C.UTF-8"}
