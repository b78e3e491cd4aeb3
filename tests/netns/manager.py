"""Stands in for systemd around enforcerd: keeps the descriptors that it is asked to keep, and gives them to the next one.

As systemd does it: ``FDSTORE=1`` and ``FDSTOREREMOVE=1`` over ``NOTIFY_SOCKET``, then ``LISTEN_FDS`` from 3 on (sd_notify(3),
sd_listen_fds(3)). ``python -m tests.netns.manager NAMES DESCRIPTORS MODULE ARGUMENTS...`` is what the next one starts as.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from pathlib import Path

_MOST = 253


class Manager:
    """Call ``hear`` before what was said counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify.sock"
        self.kept: dict[str, list[int]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, _MOST)
                said = dict(line.split("=", 1) for line in data.decode().splitlines())
                if said.get("FDSTORE"):
                    self.kept.setdefault(said["FDNAME"], []).extend(descriptors)
                elif said.get("FDSTOREREMOVE"):
                    self.drop(said["FDNAME"])

    def drop(self, name: str) -> None:
        for descriptor in self.kept.pop(name, []):
            os.close(descriptor)

    def command(self) -> tuple[list[str], list[int]]:
        """Return the words that start a module with what is kept, and the descriptors to pass on."""
        pairs = [(name, each) for name, found in self.kept.items() for each in reversed(found)]
        words = ["tests.netns.manager", ":".join(name for name, _ in pairs), ",".join(str(each) for _, each in pairs)]
        return words, [each for _, each in pairs]

    def close(self) -> None:
        for name in list(self.kept):
            self.drop(name)
        self._socket.close()


def main(names: str, numbers: str, module: str, *arguments: str) -> None:
    given = [int(word) for word in numbers.split(",") if word]
    high = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 500) for each in given]
    for place, each in enumerate(high, start=3):
        os.dup2(each, place)
    os.environ |= {"LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names, "LISTEN_PID": str(os.getpid())}
    os.execv(sys.executable, [sys.executable, "-B", "-m", module, *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
