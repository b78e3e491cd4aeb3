"""The stage of the bench: a database with data, and every way to it that is compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.load import PASSWORD, Route
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_V4, as_postgres, run

REPOSITORY = Path(__file__).resolve().parent.parent
DIRECT, FORWARDER, PGBOUNCER = "direct", "forwarder", "pgbouncer"
CUSTOMER_DATA, ALLOW_ALL = "hostagent, customer-data", "hostagent, allow-all"
COMPILED = "hostagent compiled, customer-data"
ACCOUNT, DATABASE_PORT = "crm_proxy", 5432
_FORWARDER_PORT, _PGBOUNCER_PORT = 6431, 6432

_TARGET = """\
protocol: postgres
hosts: ["{host}"]
port: 5432
tls: disable
databases: [crm]
users: [crm_app]
login:
  user: crm_proxy
  credential: {{file: {secret}}}
labels: {{env: demo}}
"""
_WORKLOAD = """\
launchers: [root]
identity:
  kind: local
  groups: [support]
  purpose: measuring
"""
_PGBOUNCER = """\
[databases]
crm = host={host} port=5432 dbname=crm user=crm_proxy password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = session
max_client_conn = 500
default_pool_size = 200
server_tls_sslmode = disable
log_connections = 0
log_disconnections = 0
stats_period = 3600
"""
_DATA = """
insert into customers (name, email, phone, card_number, country)
    select 'Person ' || n, 'person' || n || '@example.com', '+1 202-555-' || lpad((n % 10000)::text, 4, '0'),
           '4111 1111 1111 1111', 'US' from generate_series(1, {masked}) n;
create unlogged table events_1m (id integer, device text, reading text, place text, seen date);
insert into events_1m select n, 'device ' || n % 1000, n * 7 % 100 || '.' || n % 99991, 'some street in some town', '2026-01-01'
    from generate_series(1, {rows}) n;
grant all on all tables in schema public to crm_proxy;
vacuum analyze;
"""


def fill(world: World, *, scale: int, rows: int, masked: int) -> None:
    """Put the data in: pgbench's tables at ``scale``, ``rows`` plain rows, and ``masked`` customers."""
    socket = str(world.folder / "postgres")
    run(*as_postgres(), "pgbench", "-i", "-q", "-s", str(scale), "-h", socket, "-U", "postgres", "crm")
    for statement in _DATA.format(rows=rows, masked=masked).strip().split(";\n"):
        world.superuser_sql(statement, database="crm")


def wire_bytes(world: World, table: str, columns: Sequence[str]) -> int:
    """Return the size of all rows of ``table`` as DataRow messages in text format, in bytes."""
    size = " + ".join(f"octet_length({column}::text) + 4" for column in columns)
    return int(world.superuser_sql(f"select sum(7 + {size}) from {table}", database="crm"))


@contextmanager
def plain_routes(world: World) -> Iterator[list[Route]]:
    """Yield the ways without hostagent."""
    forwarder = subprocess.Popen(
        [sys.executable, "-m", "bench.forwarder", str(_FORWARDER_PORT), DATABASE_V4, str(DATABASE_PORT)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    bouncer = _pgbouncer(world)
    try:
        assert forwarder.stdout is not None
        if forwarder.stdout.readline() != b"ready\n":
            raise RuntimeError("the forwarder did not start")
        yield [
            Route(DIRECT, DATABASE_V4, DATABASE_PORT, ACCOUNT, _here),
            Route(FORWARDER, "127.0.0.1", _FORWARDER_PORT, ACCOUNT, _here, forwarder.pid),
            Route(PGBOUNCER, "127.0.0.1", _PGBOUNCER_PORT, ACCOUNT, _here, bouncer.pid),
        ]
    finally:
        for process in (forwarder, bouncer):
            process.kill()
            process.wait()


def _pgbouncer(world: World) -> subprocess.Popen[bytes]:
    folder = world.folder / "pgbouncer"
    folder.mkdir()
    config = folder / "pgbouncer.ini"
    config.write_text(_PGBOUNCER.format(host=DATABASE_V4, password=PASSWORD, port=_PGBOUNCER_PORT), encoding="utf-8")
    for path in (folder, config):
        shutil.chown(path, "postgres", "postgres")
    return subprocess.Popen([*as_postgres(), "pgbouncer", "-q", str(config)], cwd="/")


def _here(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    return subprocess.run(list(command), env=environment, cwd="/", text=True, capture_output=True, check=False)


class _Compiled(Service):
    """A service that runs from the compiled copy of the package."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands: the compiled copy before this checkout."""
        inherited = super().environment
        return {**inherited, "PYTHONPATH": f"{self.world.folder / 'compiled'}:{inherited['PYTHONPATH']}"}


@contextmanager
def governed_route(world: World, name: str, policy: str, *, compiled: bool = False) -> Iterator[Route]:
    """Yield the way through a hostagent of its own, with the example ``policy`` in force and recording on.

    ``compiled``: from the copy that ``bench.compiled`` made in the world's folder.
    """
    kind = _Compiled if compiled else Service
    label = f"{policy}-compiled" if compiled else policy
    document = (REPOSITORY / "policy" / "examples" / f"{policy}.yaml").read_text(encoding="utf-8")
    settings = Settings(
        policies={f"{policy}.yaml": document},
        targets={"crm-db.yaml": _TARGET.format(host=DATABASE_V4, secret=world.folder / "crm-password")},
        workloads={"support-bot.yaml": _WORKLOAD},
        toml=f'table = "ha_{label.replace("-", "_")[:8]}{len(label)}"\n',
    )
    with kind(world, settings, name=f"bench-{label}") as service:
        yield Route(
            name, DATABASE_V4, DATABASE_PORT, "crm_app", lambda command: service.launch(*command), service.pid("proxyd")
        )
