"""The servers that everybody is compared before: nginx, plain and TLS, and a small gRPC server, on the stage's far host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

from tests.stage import World
from tests.stage.world import DATABASE_V4, wait_for

PLAIN_PORT, TLS_PORT, RPC_PORT = 8080, 8443, 9445
SMALL, MEDIUM, LARGE, PEOPLE = "/small", "/medium", "/large", "/people.json"
MEDIUM_BYTES, LARGE_BYTES, PEOPLE_BYTES = 1 << 20, 1 << 30, 50_000
RPC = "/bench.Echo/Say"
_NGINX = """\
user root;
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000000;
  types {{ application/json json; }}
  default_type application/octet-stream;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen [::]:{plain} ipv6only=off;
    listen [::]:{tls} ssl http2 ipv6only=off;
    ssl_certificate {certificates}/server.crt;
    ssl_certificate_key {certificates}/server.key;
    root {folder}/www;
    location = /small {{ default_type text/plain; }}  # an answer; anything of a type that says nothing is a file, and recorded as one
  }}
}}
"""


@contextmanager
def serving(world: World, *, large: int) -> Iterator[None]:
    """Serve during the body; ``large`` is the size of ``LARGE`` in bytes."""
    folder = world.folder / "origin"
    www = folder / "www"
    www.mkdir(parents=True)
    (www / SMALL[1:]).write_bytes(b"small " * 170)
    (www / MEDIUM[1:]).write_bytes(b"x" * MEDIUM_BYTES)
    with (www / LARGE[1:]).open("wb") as file:
        file.truncate(large)  # holes: nothing of it takes memory
    (www / PEOPLE[1:]).write_text(people(), encoding="utf-8")
    names = {"folder": folder, "plain": PLAIN_PORT, "tls": TLS_PORT, "certificates": world.folder / "postgres"}
    (folder / "nginx.conf").write_text(_NGINX.format(**names), encoding="utf-8")
    inside = ["nsenter", f"--net=/proc/{world.holder}/ns/net"]
    certificate = [str(world.folder / "postgres" / name) for name in ("server.crt", "server.key")]
    commands = [["nginx", "-c", str(folder / "nginx.conf")], [sys.executable, "-m", "bench.http.origin", *certificate]]
    repository = Path(__file__).resolve().parents[2]
    processes = [subprocess.Popen([*inside, *command], cwd=repository, stderr=subprocess.DEVNULL) for command in commands]
    try:
        for port in (PLAIN_PORT, TLS_PORT, RPC_PORT):
            wait_for(lambda port=port: not _refused(port), f"the server on port {port}")  # type: ignore[misc]
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def people() -> str:
    """Return ``PEOPLE_BYTES`` of JSON, in which every person has a mail address, a telephone number and ordinary text."""
    found: list[dict[str, object]] = []
    size = 0
    while size < PEOPLE_BYTES:
        number = len(found)
        found.append(
            {
                "id": number,
                "name": f"Person {number}",
                "email": f"person{number}@example.com",
                "phone": f"+1 202-555-{number:04}",
                "address": {"street": f"{number} Main Street", "city": "Springfield", "country": "US"},
                "orders": [number * 7 % 1000, number * 13 % 1000],
                "note": "called about the delivery, was content with the answer and asks for a receipt",
            }
        )
        size += len(json.dumps(found[-1])) + 2
    return json.dumps(found)


def _refused(port: int) -> bool:
    return bool(subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/{DATABASE_V4}/{port}"], capture_output=True, check=False).returncode)


def _rpc(certificate: str, key: str) -> None:
    import grpc

    handlers = {"Say": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    server.add_secure_port(f"[::]:{RPC_PORT}", credentials)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _rpc(*sys.argv[1:3])
