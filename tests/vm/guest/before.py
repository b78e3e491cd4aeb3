"""What a machine has of files, rules, eBPF, cgroups and accounts: taken before hostagent was on it, and compared after its purge."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tests.vm.guest.conftest import sh

KEPT = Path("/root/before.json")
_TREES = ("/etc", "/usr", "/var/lib", "/opt", "/srv", "/home", "/boot")
# What dpkg, apt, systemd and the account tools keep for themselves, our own tree, the other firewalls that the suite uses.
_NOT = ("/var/lib/dpkg", "/var/lib/apt", "/var/lib/systemd/timers", "/var/lib/systemd/deb-systemd-helper-masked", "/var/lib/private", "/opt/hostagent", "/etc/ufw", "/var/lib/ufw", "/etc/firewalld", "/var/lib/dbus", "/var/lib/containers")
_COPIES = ("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-", "/etc/.pwd.lock", "/etc/.updated", "/var/lib/systemd/random-seed")


def state() -> dict[str, str]:
    """Return everything by its name."""
    found: dict[str, str] = {}
    for tree in _TREES:
        for folder, folders, files in os.walk(tree):
            folders[:] = [name for name in folders if f"{folder}/{name}" not in _NOT and name != "__pycache__"]
            for name in (*folders, *files):
                path = f"{folder}/{name}"
                if path not in _COPIES:
                    found[path] = _described(path)
    found["nft tables"] = sh("nft", "list", "tables")
    found["bpf"] = " ".join(sorted(path.name for path in Path("/sys/fs/bpf").iterdir()))
    found["cgroups"] = " ".join(sorted(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()))
    found["units"] = sh("systemctl", "list-units", "--all", "--plain", "--no-legend", "*hostagent*", "governed*", check=False)
    found["runtime"] = " ".join(sorted(str(path) for path in Path("/run").glob("hostagent*")))
    return found


def _described(path: str) -> str:
    status = os.lstat(path)
    kind = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{kind} {os.readlink(path)}"
    if not stat.S_ISREG(status.st_mode):
        return kind
    if path.startswith("/etc/"):  # some are written anew with what was in them
        return f"{kind} {hashlib.sha1(Path(path).read_bytes(), usedforsecurity=False).hexdigest()}"
    return f"{kind} {status.st_size} {status.st_mtime_ns}"
