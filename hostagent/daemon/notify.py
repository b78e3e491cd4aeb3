"""Tells systemd how a process of ours is: ready, alive, stopping (sd_notify(3), one datagram of ``KEY=value`` lines).

Outside systemd every call does nothing. The watchdog's word is only ever sent by whoever runs the process's real loop, so
that a loop that hangs is found out.
"""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)

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

    def _send(self, text: str) -> None:
        if not self._path:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(1.0)
                line.sendto(text.encode(), self._path)
        except OSError as error:  # then systemd finds us hung and starts us anew, which is what it is for
            log.warning("systemd does not hear: %s", error)
