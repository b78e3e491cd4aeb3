"""Serves ``/metrics`` on a loopback address: one thread, one client at a time, each with a deadline and a bounded request.

Whatever happens here, recording goes on: an address that is taken is tried again.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from hostagent.recording.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

_DEADLINE_S = 1.0
_MOST_REQUEST = 8192
_BACKLOG = 16
_AGAIN_S = 5.0


class Exporter:
    """Listens in the background from ``start`` to ``stop``. ``address`` is where, once it listens."""

    def __init__(self, listen: str, page: Callable[[], str]) -> None:
        """Serve ``page()`` at ``listen`` (``127.0.0.1:PORT`` or ``[::1]:PORT``, checked by the configuration)."""
        host, _, port = listen.rpartition(":")
        self._where = (host.strip("[]"), int(port))
        self._page = page
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self.address: tuple[str, int] | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has let go of the address."""
        self._stopping.set()
        self._thread.join(2 * _DEADLINE_S + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._listener() as listener:
                    self.address = listener.getsockname()[:2]
                    self._serve(listener)
            except OSError as error:
                log.error("metrics are not served at %s port %d: %s", *self._where, error)
                self._stopping.wait(_AGAIN_S)

    def _listener(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._where[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self._where)
            listener.listen(_BACKLOG)
            listener.settimeout(0.2)
        except OSError:
            listener.close()
            raise
        return listener

    def _serve(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection, contextlib.suppress(OSError):
                answer(connection, self._page)


def answer(connection: socket.socket, page: Callable[[], str]) -> None:
    """Read one request and answer it, within a second.

    Raises:
        OSError: the client left, or was too slow.
    """
    until = time.monotonic() + _DEADLINE_S
    request = b""
    while b"\r\n\r\n" not in request and len(request) < _MOST_REQUEST:
        connection.settimeout(max(0.001, until - time.monotonic()))
        chunk = connection.recv(_MOST_REQUEST - len(request))
        if not chunk or time.monotonic() > until:
            return
        request += chunk
    method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", ""
    elif path != b"/metrics":
        status, body = "404 Not Found", "see /metrics\n"
    else:
        status, body = "200 OK", page()
    content = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    connection.settimeout(_DEADLINE_S)
    connection.sendall(head.encode() + (b"" if method == b"HEAD" else content))
