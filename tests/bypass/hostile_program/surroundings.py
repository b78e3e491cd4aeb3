"""Other processes, the machinery, and what can be read or written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from attempts import attempt


@attempt("processes")
def _processes() -> str:
    """What of other processes can be read, and who can be signalled."""
    found = []
    own = os.getpid()
    for entry in sorted(Path("/proc").iterdir()):
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        for part in ("environ", "mem", "maps", "auxv", "io", "stack", "syscall", "pagemap"):
            try:
                with (entry / part).open("rb") as file:
                    file.read(1)
                found.append(f"{entry.name}/{part}")
            except OSError:
                pass
        for link in ("root", "cwd", "exe", "ns/net", "ns/mnt"):
            try:
                os.readlink(entry / link)
                found.append(f"{entry.name}/{link}")
            except OSError:
                pass
        try:
            os.listdir(entry / "fd")
            found.append(f"{entry.name}/fd")
        except OSError:
            pass
        try:
            os.kill(int(entry.name), 0)
            found.append(f"{entry.name}/kill")
        except OSError:
            pass
    return " ".join(found)


@attempt("signals")
def _signals() -> str:
    reached = []
    for pid in range(1, 40000):
        if pid == os.getpid():
            continue
        try:
            os.kill(pid, 0)
            reached.append(str(pid))
        except OSError:
            pass
    return " ".join(reached)


@attempt("descriptors")
def _descriptors() -> str:
    return " ".join(sorted(f"{fd}:{os.readlink(f'/proc/self/fd/{fd}').split(':')[0]}" for fd in os.listdir("/proc/self/fd") if int(fd) < 3)) + " " + " ".join(
        fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}") and not os.readlink(f"/proc/self/fd/{fd}").startswith("/proc")
    )


def _read_all(folders: list[str]) -> str:
    found = []
    for folder in folders:
        try:
            found += [str(each) for each in Path(folder).rglob("*")]
            found += [f"{folder}:{name}" for name in os.listdir(folder)]
        except OSError:
            pass
    return " ".join(found)


attempt("service-folders")(lambda: _read_all(os.environ["HOSTILE_FOLDERS"].split(":")))


@attempt("service-files")
def _service_files() -> str:
    found = []
    for path in os.environ["HOSTILE_FILES"].split(":"):
        try:
            Path(path).read_bytes()
            found.append(path)
        except OSError:
            pass
    return " ".join(found)


@attempt("service-sockets")
def _service_sockets() -> str:
    found = []
    for path in os.environ["HOSTILE_SOCKETS"].split(":"):
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as dial:
                try:
                    dial.connect(path.replace("@", "\0"))
                    found.append(path)
                except OSError:
                    pass
    return " ".join(found)


@attempt("writable-places")
def _writable() -> str:
    """Every folder of the view in which a file can be made."""
    found = []
    for folder, folders, _ in os.walk("/"):
        if folder in ("/proc", "/sys"):
            folders.clear()
            continue
        if folder.count("/") > 3:
            folders.clear()
        if os.access(folder, os.W_OK | os.X_OK):
            try:
                name = f"{folder.rstrip('/')}/.hostile"
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600))
                os.unlink(name)
                found.append(folder)
                folders.clear()
            except OSError:
                pass
    return " ".join(sorted(found))


@attempt("proc-writable")
def _proc_writable() -> str:
    found = []
    for folder in ("/proc/sys", "/sys"):
        for root, folders, files in os.walk(folder):
            if root.count("/") > 6:
                folders.clear()
            for name in files:
                if os.access(f"{root}/{name}", os.W_OK):
                    try:
                        os.close(os.open(f"{root}/{name}", os.O_WRONLY))
                        found.append(f"{root}/{name}")
                    except OSError:
                        pass
    for name in ("/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/proc/1/oom_score_adj", "/proc/irq/default_smp_affinity"):
        try:
            os.close(os.open(name, os.O_RDWR))
            found.append(name)
        except OSError:
            pass
    return " ".join(found)


@attempt("devices")
def _devices() -> str:
    return " ".join(sorted(os.listdir("/dev")))


@attempt("device-made")
def _device_made() -> str:
    os.mknod("/tmp/disk", 0o600 | 0o060000, os.makedev(8, 0))
    return "ok"
