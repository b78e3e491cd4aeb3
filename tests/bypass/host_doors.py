"""The host's daemons and users, as far as a hostile program cares: somebody who listens at each of their unix sockets.

Each answers whoever comes, and notes it down. They stand in private mounts: /run is covered, /tmp gets a folder of its own.
Two of them are reached by a second mount: a chroot has the host's /run, and a container serves in a folder of the host's.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Self

from tests.bypass.far_files import FarFiles
from tests.stage.uids import FIRST_UID

_CONTAINED = """
import os, socket, sys
os.umask(0)
listener = socket.socket(socket.AF_UNIX)
listener.bind("/srv/contained.sock")
listener.listen()
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"here"], [listener.fileno()])
sys.stdin.read()
"""


class HostDoors:
    """``reached`` is who was connected to (path, and first bytes if any came). Empty is what we want."""

    def __init__(self, view: Path) -> None:
        """``view`` is a folder that workloads see (read-only), for the sockets that do not lie in /run or /tmp."""
        self.view = view
        self.reached: list[str] = []
        self.abstract = f"hostile-{id(self)}"
        self._temporary = Path(tempfile.mkdtemp(prefix="hostile-", dir="/tmp"))
        self._stop, self._stopped = socket.socketpair()
        self._kept = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def fifo(self) -> Path:
        """A FIFO that everybody may write to, and that we read."""
        return self.view / "odd" / "fifo"

    @property
    def paths(self) -> dict[str, list[str]]:
        """Where they are, by what they are."""
        view, temporary = self.view, self._temporary
        return {
            "resolvers": [
                *("/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/avahi-daemon/socket", "/run/dbus/system_bus_socket"),
                f"{view}/sss/pipes/nss",
            ],
            "managers": [
                *("/run/systemd/private", "/run/dbus/system_bus_socket", "/run/user/1901/bus", "/run/user/1901/systemd/private"),
                f"{view}/dana/bus",
            ],
            "terminals": [
                *("/run/screen/S-dana/1.pts", f"{temporary}/tmux-1901/default", f"{temporary}/ssh-XXXX/agent.1"),
                *(f"{view}/dana/.ssh/control-host", f"{view}/dana/.gnupg/S.gpg-agent"),
            ],
            "engines": [
                *("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/libvirt/libvirt-sock"),
                *("/run/crio/crio.sock", f"{view}/dana/.docker/run/docker.sock"),
            ],
            "databases": [
                *("/run/postgresql/.s.PGSQL.5432", "/run/mysqld/mysqld.sock", f"{temporary}/.s.PGSQL.5432", f"{view}/mysql/mysql.sock"),
            ],
            "twice": [f"{view}/chroot/run/dbus/system_bus_socket", f"{view}/volume/contained.sock"],
            "odd": [f"{view}/odd/{os.fsdecode(name)}" for name in (b" ", b"line\nend", b"no\xffutf8\x0b", b"\\012")],
        }

    @property
    def environment(self) -> dict[str, str]:
        """What the hostile program is told."""
        return {"HOSTILE_FIFO": str(self.fifo), "HOSTILE_DOORS": json.dumps(self.paths), "HOSTILE_VIEW": str(self.view), "HOSTILE_ABSTRACT": self.abstract}

    def __enter__(self) -> Self:
        """Open every door."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "hostile-run", "/run"], check=True)
        for path in {path for name, paths in self.paths.items() if name != "twice" for path in paths}:
            self._open(path)
        self._open_twice()
        self._far = self._kept.enter_context(FarFiles(self.view / "far", self.reached))
        self._mount("-t", "proc", "proc", str(self.view / "proc"))
        self._open(f"{self.view}/descriptor")
        os.mkfifo(self.fifo)
        self.fifo.chmod(0o666)
        self._selector.register(os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK), selectors.EVENT_READ, "fifo")
        self._open(f"\0{self.abstract}")
        self._open(f"\0{self.abstract}-descriptor")
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close them all."""
        self._stop.send(b"x")
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
        self._kept.close()
        self._stop.close()
        self._stopped.close()
        self._selector.close()
        shutil.rmtree(self._temporary)
        subprocess.run(["umount", "-l", "/run"], check=False)

    def _mount(self, *words: str) -> None:
        Path(words[-1]).mkdir(parents=True)
        subprocess.run(["mount", *words], check=True)
        self._kept.callback(subprocess.run, ["umount", "-l", words[-1]], check=False)

    def _open_twice(self) -> None:
        self._mount("--bind", "/run", f"{self.view}/chroot/run")
        (self.view / "chroot").chmod(0o755)
        volume = self.view / "volume"
        volume.mkdir()
        volume.chmod(0o755)
        ours, theirs = socket.socketpair()
        bind = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /srv && exec "$@"', str(volume)]
        with ours, theirs:
            server = subprocess.Popen(
                [*bind, sys.executable, "-I", "-c", _CONTAINED, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.PIPE
            )
            self._kept.callback(server.communicate)
            theirs.close()
            ours.settimeout(20)
            _, descriptors, _, _ = socket.recv_fds(ours, 10, 1)
        listener = self._kept.enter_context(socket.socket(fileno=descriptors[0]))
        self._selector.register(listener, selectors.EVENT_READ, f"{volume}/contained.sock")

    def _open(self, path: str) -> None:
        listener = self._kept.enter_context(socket.socket(socket.AF_UNIX))
        if not path.startswith("\0"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            for folder in Path(path).parents[:3]:
                if str(folder).startswith((str(self.view), str(self._temporary), "/run/")):
                    folder.chmod(0o755)
        listener.bind(path)
        if not path.startswith("\0"):
            Path(path).chmod(0o777)
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ, path)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                if isinstance(key.fileobj, int):
                    self.reached.append(f"{key.data} {os.read(key.fileobj, 100)!r}")
                    continue
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):
                    self._answer(key.fileobj.accept()[0], key.data)

    def _answer(self, visitor: socket.socket, path: str) -> None:
        _, uid, _ = struct.unpack("=iII", visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        given, other = socket.socketpair()
        with visitor, given, other:
            if uid < FIRST_UID:  # the host's own programs, whose C library asks nscd
                return
            self.reached.append(path)
            visitor.settimeout(1)
            if path.endswith("descriptor"):
                socket.send_fds(visitor, [b"here"], [given.fileno()])
            else:
                visitor.sendall(b"welcome")
