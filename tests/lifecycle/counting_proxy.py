"""Stands in for proxyd under load: says the token to every connection and counts them, by leaf and by what was dialled.

``python -m tests.lifecycle.counting_proxy SOCKET LOG``, as the proxy's user. The token is the file ``LOG.token``. Connections end by
the client's reset, so that neither side keeps them in TIME_WAIT.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
from pathlib import Path

from tests.netns.standin_proxy import StandIn, original


class CountingStandIn(StandIn):
    def __init__(self, path: str, log: str) -> None:
        self.token = Path(f"{log}.token").read_bytes()
        self.counts: dict[str, int] = {}
        super().__init__(path, log)

    def accept(self, leaf: str, listener: socket.socket) -> None:
        for _ in range(64):
            try:
                connection, _ = listener.accept()
            except OSError:  # no more, or shut by enforcerd
                return
            self.greet(leaf, listener, connection)

    def greet(self, leaf: str, listener: socket.socket, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            destination = original(connection)
            host, _, port = destination.rpartition(":")
            if int(port) == listener.getsockname()[1]:
                self.write(direct=destination, leaf=leaf)
            connection.send(self.token)
        except OSError:
            connection.close()
            return
        self.counts[f"{leaf} {host}"] = self.counts.get(f"{leaf} {host}", 0) + 1
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.bye(connection))

    def bye(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if connection.recv(4096):
                return
        self.selector.unregister(connection)
        connection.close()


if __name__ == "__main__":
    CountingStandIn(sys.argv[1], sys.argv[2]).run()
