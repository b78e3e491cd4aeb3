"""Tells systemd how a process of ours is: ready, alive, stopping (sd_notify(3), one datagram of ``KEY=value`` lines).

It also keeps descriptors for the next process of the same unit (``FDSTORE=1``), which finds them as sd_listen_fds(3) says.

Outside systemd every call does nothing. The watchdog's word is only ever sent by whoever runs the process's real loop, so
that a loop that hangs is found out.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

_FIRST = 3
"""SD_LISTEN_FDS_START."""
_PER_TIMEOUT = 4
"""Words per watchdog timeout: three may be lost before the process counts as hung."""


class Notifier:
    """The process's line to its service manager."""

    def __init__(self) -> None:
        """Read ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` and take them out of the environment: no child may speak for us."""
        path = os.environ.pop("NOTIFY_SOCKET", "")
        timeout = os.environ.pop("WATCHDOG_USEC", "")
        meant = os.environ.pop("WATCHDOG_PID", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        ours = not meant or meant == str(os.getpid())
        self.interval_s = int(timeout) / 1e6 / _PER_TIMEOUT if self._path and ours and timeout.isdigit() else 0.0
        """Seconds between two calls of ``alive``; 0: nobody watches."""
        self._due = 0.0
        self._kept = _inherited()

    @property
    def listening(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self._path)

    def take(self) -> Mapping[str, Sequence[int]]:
        """Return, once, the descriptors that were kept, by name; they are the caller's."""
        kept, self._kept = self._kept, {}
        return kept

    def keep(self, name: str, descriptors: Sequence[int]) -> None:
        """Have systemd keep duplicates under ``name``, hung up or not (``FDPOLL=0``, systemd 246)."""
        self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", descriptors)

    def drop(self, name: str) -> None:
        """Have systemd let go of what it keeps under ``name``."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def ready(self) -> None:
        """Requests are served from now on."""
        self._send("READY=1")

    def stopping(self, status: str) -> None:
        """The process was told to stop and is about to; ``status`` is for a person."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The loop turns. May be called as often as it does; speaks only when it is time."""
        if self.interval_s and (now := time.monotonic()) >= self._due:
            self._due = now + self.interval_s
            self._send("WATCHDOG=1")

    def _send(self, text: str, descriptors: Sequence[int] = ()) -> None:
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(1.0)
                line.connect(self._path)
                socket.send_fds(line, [text.encode()], descriptors)
        except OSError as error:  # then systemd finds us hung and starts us anew, which is what it is for
            log.warning("systemd does not hear: %s", error)


def _inherited() -> dict[str, list[int]]:
    """Return the descriptors that systemd gave this process, by name, and take their variables out of the environment."""
    count, names = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_FDNAMES", "")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, list[int]] = {}
    for descriptor, name in zip(range(_FIRST, _FIRST + int(count)), names.split(":"), strict=False):
        os.set_inheritable(descriptor, False)
        found.setdefault(name, []).append(descriptor)
    return found
