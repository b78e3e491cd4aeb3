"""Real drivers through the whole service: each must see exactly what it sees without us, and all of it is recorded."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import CLIENTS, example, python_of
from tests.e2e.talk import environment
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME

pytestmark = pytest.mark.e2e

PASSWORD = "S3cret-of-the-proxy-alone"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(policies={"allow-all.yaml": example("allow-all")})


def _scripts(world: World) -> dict[str, list[str]]:
    clients = str(world.repository / CLIENTS.relative_to(CLIENTS.parents[2]))
    python = python_of(world)
    return {
        "psycopg": [python, f"{clients}/psycopg_client.py"],
        "asyncpg": [python, f"{clients}/asyncpg_client.py"],
        "psql": ["bash", f"{clients}/psql_client.sh"],
        "pg_dump": ["bash", f"{clients}/dump_client.sh"],
        "node": ["node", "--no-deprecation", f"{clients}/node/client.cjs", str(world.folder / "node")],
    }


def _direct(world: World, command: list[str]) -> str:
    """Run a client against the database itself, with the real account, past everything."""
    settings = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PGHOST": DATABASE_NAME,
        "PGDATABASE": "crm",
        "PGUSER": "crm_proxy",
        "PGPASSWORD": PASSWORD,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(world.folder / "company-ca.pem"),
    }
    result = subprocess.run(command, env=settings, cwd="/", capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, f"the direct run failed: {result.stdout[-2000:]}{result.stderr[-2000:]}"
    return result.stdout + result.stderr


def _governed(service: Service, command: list[str]) -> str:
    result = service.launch(*environment(service, LANG="C.UTF-8"), *command, timeout=120)
    log = service.log.read_text(encoding="utf-8")[-2000:]
    assert result.returncode == 0, f"the governed run failed: {result.stdout[-2000:]}{result.stderr[-2000:]}\n{log}"
    return result.stdout + result.stderr


def _same(world: World, service: Service, client: str) -> list[str]:
    command = _scripts(world)[client]
    direct = _direct(world, command).splitlines()
    assert len(direct) > 10
    assert not [line for line in direct if '"TypeError' in line or '"AssertionError' in line], "the client itself is broken"
    governed = _governed(service, command).splitlines()
    assert governed == direct
    return direct


@pytest.mark.parametrize("client", ["psycopg", "asyncpg", "psql", "pg_dump"])
def test_a_driver_sees_what_it_sees_without_us(client: str, world: World, service: Service) -> None:
    _same(world, service, client)


def test_node_sees_what_it_sees_without_us(node_modules: Path, world: World, service: Service) -> None:
    shutil.copytree(node_modules, world.folder / "node")
    _same(world, service, "node")


def test_all_of_it_was_recorded(world: World, service: Service) -> None:
    asked = ["select 'first' as word", "select 1 / 0 as word", "select 'the last word' as word"]
    words = [word for statement in asked for word in ("-c", statement)]
    assert service.launch(*environment(service, PGAPPNAME="the one"), "psql", "-X", *words, timeout=60).returncode == 0
    mine = "session in (select session from sessions where application = 'the one')"
    service.wait_sql(f"select 1 from statements where {mine} and outcome is not null having count(*) = 3", 30)
    rows = service.sql(f"select decision, outcome, tag, sqlstate, rules from statements where {mine} order by seq")
    everything = {"decision": "allow", "rules": ["everything"]}
    assert rows == [
        {**everything, "outcome": "ok", "tag": "SELECT 1", "sqlstate": ""},
        {**everything, "outcome": "error", "tag": "", "sqlstate": "22012"},
        {**everything, "outcome": "ok", "tag": "SELECT 1", "sqlstate": ""},
    ]
    of_all = service.sql("select decision, outcome, count(*) as n from statements group by all")
    assert {row["decision"] for row in of_all} == {"allow"}
    assert {row["outcome"] for row in of_all} <= {"ok", "error", "aborted", "cancelled"}
    assert service.sql("select * from unaccounted") == []
    assert "The evidence holds." in service.hostagent("audit", "verify").stdout
    assert world.sink_lines() == []
