"""Log records: lines on standard error, or entries with fields where the process writes to systemd's journal.

The journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of ``KEY=value`` lines; a value with a line break is
written as key, line break, length (64 bits, little endian), value, line break.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys

_JOURNAL = "/run/systemd/journal/socket"
_FIELDS = {"flow": "HOSTAGENT_FLOW", "leaf": "HOSTAGENT_LEAF"}
"""What our log calls pass as ``extra``, and the name of its field."""


def configure(name: str) -> None:
    """Send this process's log records of INFO and above where they belong. ``name`` is the process's."""
    handler: logging.Handler
    if _writes_to_journal():
        handler = JournalHandler(name)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"%(asctime)s {name}: %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _writes_to_journal() -> bool:
    """Whether standard error is the stream that systemd connected (``JOURNAL_STREAM``, systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class JournalHandler(logging.Handler):
    """Writes entries with MESSAGE, PRIORITY, LOGGER, CODE_* and our own fields; a line with a priority prefix if it cannot."""

    def __init__(self, name: str, path: str = _JOURNAL) -> None:
        """``name`` becomes SYSLOG_IDENTIFIER; ``path`` is journald's socket."""
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))
        self._identifier = f"hostagent-{name}"
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. Never waits for journald."""
        try:
            message = self.format(record)
        except Exception:  # noqa: BLE001 - as every handler of logging does: a bad record must not end the process
            self.handleError(record)
            return
        try:
            self._socket.sendto(entry(self._identifier, record, message), self._path)
        except OSError:  # too large for a datagram, no journald, or it is slow
            for line in message.splitlines():
                sys.stderr.write(f"<{priority(record.levelno)}>{line}\n")


def entry(identifier: str, record: logging.LogRecord, message: str) -> bytes:
    """Return the datagram of one record."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(priority(record.levelno)),
        "SYSLOG_IDENTIFIER": identifier,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName,
    }
    fields |= {name: str(getattr(record, key)) for key, name in _FIELDS.items() if hasattr(record, key)}
    return b"".join(_field(name, value.encode(errors="replace")) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def priority(level: int) -> int:
    """Return the syslog priority (RFC 5424 §6.2.1) of a level of ``logging``."""
    for least, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return number
    return 7
