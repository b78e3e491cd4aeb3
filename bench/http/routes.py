"""Every way to the web server that is compared: direct, haproxy, mitmproxy, hostagent and hostagent compiled."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.http.load import Route
from bench.http.origin import PLAIN_PORT, RPC_PORT, TLS_PORT
from bench.routes import _Compiled, _here
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, wait_for

DIRECT, HAPROXY, MITMPROXY = "direct", "haproxy", "mitmproxy"
HOSTAGENT, COMPILED = "hostagent", "hostagent compiled"
PLAIN, TLS, RPC = "plain", "TLS", "gRPC"
"""Kinds of URL: without TLS, and with it on both sides of a proxy."""

_LOCK = Path(__file__).with_name("mitmproxy.lock")
_HAPROXY_PLAIN, _HAPROXY_TLS, _HAPROXY_RPC, _MITM_PLAIN, _MITM_TLS = 7080, 7443, 7445, 7180, 7543
_HAPROXY = """\
global
  maxconn 2000
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
  http-reuse always
listen plain
  bind 127.0.0.1:{plain}
  server origin {host}:{origin_plain}
listen tls
  bind 127.0.0.1:{tls} ssl crt {folder}/haproxy.pem alpn h2,http/1.1
  server origin {host}:{origin_tls} ssl verify required ca-file {authority} sni str({host}) verifyhost {host}
listen rpc
  bind 127.0.0.1:{rpc} ssl crt {folder}/haproxy.pem alpn h2
  server origin {host}:{origin_rpc} ssl verify required ca-file {authority} sni str({host}) verifyhost {host} alpn h2
"""
_TARGET = """\
protocol: http
hosts: [{host}]
port: {port}
{tls}
login: {{scheme: bearer, credential: {{file: {secret}}}}}
"""
_WORKLOAD = """\
launchers: [root]
identity: {kind: local, groups: [support], purpose: measuring}
"""
_POLICY = """\
version: 1
rules:
  - id: files
    what: {http: {methods: [GET, HEAD], paths: [/small, /medium, /large]}}
    then: allow
  - id: people
    what: {http: {methods: [GET], paths: [/people.json]}}
    then: allow
    mask: {detectors: [email], json: ["$..phone"]}
  - id: calls
    what: {http: {grpc: ["bench.Echo/*"]}}
    then: allow
  - id: no-salaries
    what: {http: {paths: ["/salaries/**"]}}
    then: deny
"""


@contextmanager
def plain_routes(world: World, mitmproxy: Path | None) -> Iterator[list[Route]]:
    """Yield the ways without hostagent; ``mitmproxy`` is the folder of its programs, None leaves it out."""
    processes = [_haproxy(world)]
    routes = [
        Route(DIRECT, _origin(), _here),
        Route(HAPROXY, _local(_HAPROXY_PLAIN, _HAPROXY_TLS, _HAPROXY_RPC), _here, processes[0].pid),
    ]
    ports = [_HAPROXY_PLAIN, _HAPROXY_TLS]
    if mitmproxy is not None:
        processes.append(_mitmproxy(world, mitmproxy))
        routes.append(Route(MITMPROXY, _local(_MITM_PLAIN, _MITM_TLS), _here, processes[1].pid))
        ports += [_MITM_PLAIN, _MITM_TLS]
    try:
        for port in ports:
            wait_for(lambda port=port: _accepts(port), f"the proxy on port {port}", 60)  # type: ignore[misc]
        yield routes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def governed_route(world: World, name: str) -> Iterator[Route]:
    """Yield the way through a hostagent of its own (``HOSTAGENT``, or ``COMPILED`` from the world's folder): policy in force, recording on."""
    authority = f"ca_file: {world.folder}/company-ca.pem\nhttp2: true"
    kinds = {"plain": (PLAIN_PORT, "tls: disable"), "tls": (TLS_PORT, authority), "rpc": (RPC_PORT, authority)}
    targets = {
        f"{kind}.yaml": _TARGET.format(host=DATABASE_NAME, port=port, tls=tls, secret=world.folder / "crm-password")
        for kind, (port, tls) in kinds.items()
    }
    settings = Settings(
        policies={"bench.yaml": _POLICY},
        targets=targets,
        workloads={"support-bot.yaml": _WORKLOAD},
        toml=f'table = "ha_http{int(name == COMPILED)}"\n',
    )
    kind = _Compiled if name == COMPILED else Service
    with kind(world, settings, name=f"bench-{name.replace(' ', '-')}") as service:
        yield Route(name, _origin(), lambda command: service.launch(*command), service.pid("proxyd"))


def mitmproxy_programs() -> Path:
    """Return the folder of mitmproxy's programs: an environment of its own, by hash, made once (``HOSTAGENT_BENCH_CACHE``). Needs the network then.

    Raises:
        RuntimeError: it could not be installed; the message holds pip's words.
    """
    cache = Path(os.environ.get("HOSTAGENT_BENCH_CACHE", "/var/cache/hostagent-bench"))
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / f"mitmproxy-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():
            making = cache / "making"
            pip = [str(making / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--require-hashes", "-r", str(_LOCK)]
            for command in (["/usr/bin/python3", "-m", "venv", "--clear", str(making)], pip):
                made = subprocess.run(command, capture_output=True, text=True, check=False)
                if made.returncode:
                    raise RuntimeError(f"mitmproxy cannot be installed: {made.stdout[-500:]}{made.stderr[-1500:]}")
            making.rename(done)
    return done / "bin"


def _haproxy(world: World) -> subprocess.Popen[bytes]:
    folder = world.folder / "rivals"
    folder.mkdir()
    bundle = folder / "haproxy.pem"
    bundle.write_bytes(b"".join((world.folder / "postgres" / name).read_bytes() for name in ("server.crt", "server.key")))
    config = folder / "haproxy.cfg"
    names = {"plain": _HAPROXY_PLAIN, "tls": _HAPROXY_TLS, "rpc": _HAPROXY_RPC, "origin_plain": PLAIN_PORT, "origin_tls": TLS_PORT}
    config.write_text(
        _HAPROXY.format(folder=folder, host=DATABASE_NAME, origin_rpc=RPC_PORT, authority=world.folder / "company-ca.pem", **names),
        encoding="utf-8",
    )
    return subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)], cwd="/")


def _mitmproxy(world: World, programs: Path) -> subprocess.Popen[bytes]:
    home = world.folder / "rivals/mitmproxy"
    shutil.rmtree(home, ignore_errors=True)
    modes = [
        f"reverse:http://{DATABASE_NAME}:{PLAIN_PORT}@127.0.0.1:{_MITM_PLAIN}",
        f"reverse:https://{DATABASE_NAME}:{TLS_PORT}@127.0.0.1:{_MITM_TLS}",
    ]
    settings = [f"confdir={home}", f"ssl_verify_upstream_trusted_ca={world.folder / 'company-ca.pem'}", "stream_large_bodies=1m"]
    words = [word for mode in modes for word in ("--mode", mode)] + [word for each in settings for word in ("--set", each)]
    # By the interpreter: the scripts name the folder that the environment was made in.
    main = "from mitmproxy.tools.main import mitmdump; mitmdump()"
    return subprocess.Popen(
        [str(programs / "python"), "-c", main, "-q", *words], cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def _origin() -> dict[str, str]:
    return {
        PLAIN: f"http://{DATABASE_NAME}:{PLAIN_PORT}",
        TLS: f"https://{DATABASE_NAME}:{TLS_PORT}",
        RPC: f"https://{DATABASE_NAME}:{RPC_PORT}",
    }


def _local(plain: int, tls: int, rpc: int = 0) -> dict[str, str]:
    return {PLAIN: f"http://127.0.0.1:{plain}", TLS: f"https://127.0.0.1:{tls}", **({RPC: f"https://127.0.0.1:{rpc}"} if rpc else {})}


def _accepts(port: int) -> bool:
    command: Sequence[str] = ("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")
    return not subprocess.run(command, capture_output=True, check=False).returncode
