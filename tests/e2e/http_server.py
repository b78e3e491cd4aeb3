"""Web servers, plain and TLS, for the database host. Says what it was asked, streams, and writes down every request.

Run as a program with certificate, key and log; prints ``listening`` when the ports are bound.
"""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path

TLS_PORT, OTHER_TLS_PORT, PLAIN_PORT, SILENT_PORT = 8443, 8444, 8080, 8446
_PIECE = b"x" * 65_536


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked; ``/bytes?N`` streams N bytes, ``/chunks`` comes in chunks, ``/until-close`` without an end."""

    protocol_version = "HTTP/1.1"
    log: Path

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        size = self._read()
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{self.command} {self.path}\n")
        with self.log.with_suffix(".credentials").open("a", encoding="utf-8") as log:
            log.write(f"{self.headers.get('Authorization')}\n")
        path, _, query = self.path.partition("?")
        if path == "/files/bytes":
            self._stream(int(query))
        elif path == "/files/chunks":
            self._head({"Transfer-Encoding": "chunked"}, b"4\r\none,\r\n3\r\ntwo\r\n0\r\n\r\n")
        elif path == "/files/until-close":
            self.close_connection = True
            self._head({}, b"until close")
        else:
            asked = {"method": self.command, "path": self.path, "headers": dict(self.headers), "size": size}
            body = json.dumps(asked).encode()
            self._head({"Content-Type": "application/json", "Content-Length": str(len(body))}, b"" if self.command == "HEAD" else body)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Answer every method alike."""
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _head(self, fields: dict[str, str], body: bytes) -> None:
        self.send_response(200)
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, size: int) -> None:
        self._head({"Content-Length": str(size)}, b"")
        while size > 0:
            self.wfile.write(_PIECE[:size])
            size -= len(_PIECE)

    def _read(self) -> int:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        total = 0
        while size := int(self.rfile.readline(), 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return total


def main(certificate: str, key: str, log: str) -> None:
    """Serve until ended."""
    Handler.log = Path(log)
    Handler.log.touch()
    for port in (TLS_PORT, OTHER_TLS_PORT, PLAIN_PORT):
        server = http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)
        if port != PLAIN_PORT:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            context.set_alpn_protocols(["http/1.1"])
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    # Never accepted: whoever begins TLS here waits.
    with socket.create_server(("0.0.0.0", SILENT_PORT)):
        print("listening", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:4])
