"""Servers that speak HTTP/2, for the database host: an ASGI one (hypercorn), gRPC (grpcio) and nginx, each over TLS.

Run as a program with certificate, key and a folder to write in; prints ``listening`` when all ports are bound. ``asked.log`` in that folder
has a line for every request that came to the ASGI server.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
from hypercorn.asyncio import serve
from hypercorn.config import Config

ASGI_PORT, OLD_PORT, RPC_PORT, NGINX_PORT, MUTUAL_PORT = 9443, 9444, 9445, 9446, 9447

_NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log {folder}/nginx-asked.log;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen {port} ssl http2;
    listen [::]:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    http2_max_concurrent_streams 3;
    keepalive_requests 40;
    root {folder}/www;
    default_type text/plain;
  }}
  server {{
    listen {mutual} ssl http2;
    listen [::]:{mutual} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_client_certificate {folder}/client.crt;
    ssl_verify_client on;
    location / {{ return 200 "$ssl_client_s_dn $server_protocol"; }}
  }}
}}
"""

Messages = Callable[[], Awaitable[dict[str, object]]]
Send = Callable[[dict[str, object]], Awaitable[None]]


class App:
    """Says what it was asked; ``/people`` has addresses, in pieces of one byte; ``/bytes?N`` streams N bytes; ``/events`` are some."""

    def __init__(self, log: Path) -> None:
        self.log = log

    async def __call__(self, scope: dict[str, object], receive: Messages, send: Send) -> None:
        if scope["type"] == "websocket":
            await _chat(receive, send)
        if scope["type"] != "http":
            return
        size, more = 0, True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            size += len(bytes(message.get("body") or b""))  # type: ignore[arg-type, call-overload]
            more = bool(message.get("more_body"))
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}  # type: ignore[attr-defined]
        query = bytes(scope["query_string"]).decode()  # type: ignore[call-overload]
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{scope['http_version']} {scope['method']} {scope['path']}\n")
        asked = {"version": scope["http_version"], "method": scope["method"], "path": scope["path"], "headers": headers, "size": size}
        kind, pieces = "application/json", iter([json.dumps(asked).encode()])
        if scope["path"] == "/people":
            pieces = (bytes([letter]) for letter in b'{"mail": "ann@example.com", "iban": "DE02"}')
        elif scope["path"] == "/bytes":
            kind, pieces = "application/octet-stream", _bytes(int(query))
        elif scope["path"] == "/events":
            kind, pieces = "text/event-stream", iter([b"event: a\ndata: ann@exam", b"ple.com\n\ndata: b\n\n"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _chat(receive: Messages, send: Send) -> None:
    """Send every message back, and an address behind it."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        for text in (message.get("text"), "ann@example.com"):
            await send({"type": "websocket.send", "text": text})


def _bytes(size: int) -> Iterator[bytes]:
    for at in range(0, size, 65_536):
        yield b"x" * min(65_536, size - at)


def _config(port: int, certificate: str, key: str, *alpn: str) -> Config:
    config = Config()
    config.bind = [f"[::]:{port}"]
    config.certfile, config.keyfile, config.alpn_protocols = certificate, key, list(alpn)
    config.accesslog = config.errorlog = None
    return config


def _rpc(certificate: str, key: str) -> grpc.Server:
    def stream(request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(3):
            yield request + b"%d" % number

    def both(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request.upper()

    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda request, _: b"said " + request),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Delete": grpc.unary_unary_rpc_method_handler(lambda request, _: b"deleted " + request),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stage.Greeter", handlers),))
    credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    server.add_secure_port(f"[::]:{RPC_PORT}", credentials)
    server.start()
    return server


async def _main(certificate: str, key: str, folder: Path) -> None:
    (folder / "www").mkdir(parents=True, exist_ok=True)
    for number in range(30):
        (folder / f"www/{number}").write_text(f"file {number}", encoding="utf-8")
    (folder / "www/large").write_bytes(b"y" * 20_000_000)
    folder.chmod(0o755)
    _client_certificate(folder)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=NGINX_PORT, mutual=MUTUAL_PORT, certificate=certificate, key=key), encoding="utf-8")
    (folder / "asked.log").touch()
    rpc = _rpc(certificate, key)
    with subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-g", "user root;"], stderr=subprocess.DEVNULL) as nginx:
        try:
            app = App(folder / "asked.log")
            old = serve(app, _config(OLD_PORT, certificate, key, "http/1.1"), shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]
            new = serve(app, _config(ASGI_PORT, certificate, key, "h2", "http/1.1"), shutdown_trigger=asyncio.Event().wait)  # type: ignore[arg-type]
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(old)
                tasks.create_task(new)
                for port in (ASGI_PORT, OLD_PORT, RPC_PORT, NGINX_PORT, MUTUAL_PORT):
                    await _bound(port)
                print("listening", flush=True)
        finally:
            nginx.terminate()
            rpc.stop(None).wait(5)


def _client_certificate(folder: Path) -> None:
    """Make a certificate for the proxy: ``client.pem`` is that and its key, ``client.crt`` what the server trusts."""
    words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=the-proxy"]
    key, certificate = folder / "client.key", folder / "client.crt"
    subprocess.run(["openssl", "req", *words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    (folder / "client.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    (folder / "client.pem").chmod(0o600)


async def _bound(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(_main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
