"""Who else changes our table: the kernel's notifications of nf_tables, one transaction at a time.

Layouts: linux/netfilter/nfnetlink.h, nf_tables.h. A transaction's messages come in order and end with NEWGEN, which names
the process. Ours are known by a word that only the present load carries (``announce``), not by process id, which is another
one in another pid namespace.
"""

from __future__ import annotations

import collections
import errno
import socket
import struct
from collections.abc import Iterator

from hostagent.enforcer.rules.netlink import attributes

_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_GROUP_NFTABLES = 7
_SUBSYSTEM = 10
_NEWGEN = 15
_NFPROTO_INET = 1
# In messages about chains, rules, sets, elements and objects too: their attribute 1 is the table's name.
_TABLE_NAME = 1
_GEN_PROC_PID = 2
_GEN_PROC_NAME = 3

_BUFFER = 8 << 20
_MAXIMUM_DATAGRAMS = 4096
_MAXIMUM_WORDS = 64


class TableWatch:
    """Hears every change of nf_tables in the network namespace in which it was made."""

    def __init__(self, table: str, buffer: int = _BUFFER) -> None:
        """Listen from now on for what happens to ``table`` (family inet); ``buffer`` in bytes.

        Raises:
            OSError: the kernel does not let us.
        """
        self._name = table.encode() + b"\0"
        self._words: collections.deque[bytes] = collections.deque(maxlen=_MAXIMUM_WORDS)
        self._touched = False
        self._ours = False
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, 33, buffer)  # SO_RCVBUFFORCE
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop."""
        self._socket.close()

    def announce(self, word: str) -> None:
        """Say that a transaction of ours with ``word`` in it is about to be made. A word serves once."""
        self._words.append(word.encode())

    def read(self) -> list[str]:
        """Return whose transactions (``process (pid n)``) touched the table since the last call, except ours.

        Where the kernel dropped notifications, or gives none, nobody knows: that counts as one.
        """
        found: list[str] = []
        for _ in range(_MAXIMUM_DATAGRAMS):
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                break
            except OSError as error:
                lost = "notifications were lost" if error.errno == errno.ENOBUFS else error.strerror
                found.append(f"an unknown process ({lost})")
                self._touched = self._ours = False
                if error.errno != errno.ENOBUFS:
                    break
                continue
            found.extend(self._transactions(data))
        return found

    def _transactions(self, data: bytes) -> Iterator[str]:
        for kind, family, message in _messages(data):
            found = attributes(message)
            if kind != _NEWGEN:
                if family == _NFPROTO_INET and found.get(_TABLE_NAME) == self._name:
                    self._touched = True
                    self._ours = self._ours or self._is_ours(message)
                continue
            if self._touched and not self._ours:
                pid = int.from_bytes(found.get(_GEN_PROC_PID, b""), "big")
                name = found.get(_GEN_PROC_NAME, b"").rstrip(b"\0").decode(errors="replace")
                yield f"{name} (pid {pid})"
            self._touched = self._ours = False

    def _is_ours(self, message: bytes) -> bool:
        for word in self._words:
            if word in message:
                self._words.remove(word)
                return True
        return False


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, family and attributes of each nf_tables message in a datagram."""
    position = 0
    while position + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, position)
        if length < 20 or position + length > len(data):
            return
        if kind >> 8 == _SUBSYSTEM:
            yield kind & 0xFF, data[position + 16], data[position + 20 : position + length]
        position += (length + 3) & ~3
