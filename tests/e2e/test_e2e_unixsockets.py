"""A target reached by its unix socket's path, unchanged clients: governed, masked, held and recorded as over TCP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import HOLDS, example
from tests.e2e.talk import Talk
from tests.stage import Service, Settings, World
from tests.stage.uids import COUNT, FIRST_UID
from tests.stage.world import DATABASE_NAME, wait_for

pytestmark = pytest.mark.e2e

BOTH = ("isolated", "shared")
_ASK = "select name, email from customers order by id limit 1"
_LOGIN = "login: {{user: {user}, credential: {{file: {secret}}}}}\nlabels: {{env: demo}}\n"


def _folder(world: World) -> str:
    return str(world.folder / "postgres")


@pytest.fixture(scope="module")
def settings(world: World) -> Settings:
    company_ca, secret = world.folder / "company-ca.pem", world.folder / "crm-password"
    login = _LOGIN.format(user="crm_proxy", secret=secret)
    policy = example("customer-data").replace("workload: support-bot", "groups: [support]")
    own = f"{_folder(world)}/.s.PGSQL.5432"
    return Settings(
        policies={"customer-data.yaml": policy, "holds.yaml": HOLDS},
        targets={
            # The same server three times: by a path that stands for its hosts, by its own, and through a socket that is not there.
            "far.yaml": f"protocol: postgres\nhosts: [{DATABASE_NAME}]\nsockets: [/run/postgresql/.s.PGSQL.5432, /tmp/.s.PGSQL.5432]\n"
            f"ca_file: {company_ca}\ndatabases: [crm]\n{login}",
            "near.yaml": f"protocol: postgres\nsockets: [{own}]\ndatabases: [crm]\n{login}",
            "absent.yaml": f"protocol: postgres\nsockets: [/run/nowhere/.s.PGSQL.5432]\n{login}",
        },
        workloads={
            f"{placement}.yaml": f"placement: {placement}\nidentity: {{kind: local, groups: [support], purpose: answer customer tickets}}\n"
            for placement in BOTH
        }
        | {"login-user.yaml": "user: nobody\nidentity: {kind: local, groups: [support], purpose: answer customer tickets}\n"},
    )


@pytest.fixture(scope="module")
def hosts(world: World) -> list[str]:
    return ["/run/postgresql", "/var/run/postgresql", "/tmp", _folder(world)]


@pytest.mark.parametrize("placement", BOTH)
def test_every_path_reaches_its_target_masked_and_denied_as_over_tcp(service: Service, hosts: list[str], placement: str) -> None:
    began = time.time()
    script = "; ".join(
        f'psql -XAt "host={host} dbname=crm user=crm_app password=wrong" -c "{_ASK}" -c "drop table customers" 2>&1' for host in hosts
    )
    asked = service.launch("sh", "-c", script, workload=placement, timeout=60)
    lines = asked.stdout.splitlines()
    assert lines.count("Ada Byron|[masked]") == 4, asked.stdout
    assert sum(line.startswith("ERROR:  hostagent: denied by rule nothing-destructive") for line in lines) == 4, asked.stdout
    question = (
        "select destination, target, transport, tls_client, attribution, direction, statements, denied, peer"
        f" from sessions where workload = '{placement}' and opened > make_timestamp({int(began * 1e6)}) order by opened"
    )
    rows: list[dict[str, object]] = []

    def complete() -> bool:
        rows[:] = service.sql(question)
        return len(rows) == 4 and all(row["denied"] == 1 for row in rows)

    wait_for(complete, "four sessions")
    run, tmp, own = "/run/postgresql/.s.PGSQL.5432", "/tmp/.s.PGSQL.5432", f"{hosts[3]}/.s.PGSQL.5432"
    assert [(row["destination"], row["target"]) for row in rows] == [(run, "far"), (run, "far"), (tmp, "far"), (own, "near")]
    common = {"transport": "unix", "tls_client": "", "direction": "outbound", "statements": 2, "denied": 1}
    assert all(common.items() <= row.items() for row in rows), rows
    assert all(str(row["peer"]).startswith(f"uid {FIRST_UID // COUNT}") for row in rows), rows


def test_a_driver_sees_the_same_server_and_a_denial_leaves_its_session_alive(service: Service, hosts: list[str]) -> None:
    for host in hosts:
        with Talk(service, workload="isolated", PGHOST=host, PGSSLMODE="prefer") as talk:
            assert "error" not in talk.connect()
            assert talk.sql("drop table customers").get("error") == "42501"
            assert talk.sql("select count(*) from customers").get("error") in (None, "25P02")


def test_a_statement_is_held_and_a_cancel_withdraws_it_over_the_servers_own_socket(service: Service, world: World) -> None:
    world.superuser_sql("create table if not exists held_rows (id int); grant all on held_rows to crm_proxy", database="crm")
    with Talk(service, workload="isolated", PGHOST=_folder(world), PGSSLMODE="prefer") as talk:
        talk.connect()
        number = talk.tell("sql", sql="delete from held_rows where id > 0", values=[])
        wait_for(lambda: any("held by rule held-long" in notice for notice in talk.notices()), "the hold")
        talk.tell("cancel")
        assert talk.answer(number).get("error") == "57014"


def test_tls_that_is_demanded_over_a_unix_socket_is_answered_as_the_server_does(service: Service) -> None:
    # libpq ignores sslmode over unix sockets; an SSLRequest all the same is answered with a plain no.
    script = (
        "import socket, struct\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(10)\ns.connect('/run/postgresql/.s.PGSQL.5432')\n"
        "s.sendall(struct.pack('>II', 8, 80877103))\nprint(s.recv(10))"
    )
    assert service.launch("/usr/bin/python3", "-c", script, workload="isolated").stdout.strip() == "b'N'"


def test_a_server_that_is_not_there_is_a_clear_error(service: Service) -> None:
    asked = service.launch("psql", "host=/run/nowhere dbname=crm user=crm_app", "-c", "select 1", workload="isolated")
    assert asked.returncode == 2
    assert "absent at /run/nowhere/.s.PGSQL.5432: No such file or directory" in asked.stderr


def test_a_server_that_wants_peer_authentication_is_a_clear_error(service: Service, world: World) -> None:
    hba = world.folder / "postgres/cluster/pg_hba.conf"
    before = hba.read_text(encoding="utf-8")
    try:
        hba.write_text(before.replace("local all all scram-sha-256", "local all all peer"), encoding="utf-8")
        world.superuser_sql("select pg_reload_conf()")
        near = f"host={_folder(world)} dbname=crm user=crm_app"

        def answer() -> str:
            return service.launch("psql", near, "-c", "select 1", workload="isolated").stderr

        wait_for(lambda: "refused the login that hostagent itself makes (SQLSTATE 28000)" in answer(), "the new rule")
    finally:
        hba.write_text(before, encoding="utf-8")
        world.superuser_sql("select pg_reload_conf()")


def test_the_targets_list_shows_the_paths(service: Service, world: World) -> None:
    listed = service.hostagent("target", "list").stdout
    assert f"near: postgres at {_folder(world)}/.s.PGSQL.5432; databases: crm; TLS: disable" in listed
    assert f"far: postgres at {DATABASE_NAME} port 5432, /run/postgresql/.s.PGSQL.5432, /tmp/.s.PGSQL.5432; " in listed


def _files_inside(service: Service, workload: str) -> tuple[str, str]:
    [leaf] = [each for each in _leaves(service) if each["workload"] == workload]
    return f"/proc/{leaf['pid']}/root/run/postgresql/.s.PGSQL.5432", str(leaf["leaf"])


def _leaves(service: Service) -> list[dict[str, object]]:
    report = json.loads(service.hostagent("status", "--json").stdout)
    leaves: list[dict[str, object]] = report["leaves"]
    return leaves


@contextlib.contextmanager
def _sleeping(service: Service, workload: str) -> Iterator[None]:
    command = [*service.command, "run", "--workload", workload, "--no-tty", "--", "sh", "-c", "echo up; exec sleep 60"]
    with subprocess.Popen(command, env=service.environment, cwd="/", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize(("workload", "outsider"), [("isolated", 0), ("login-user", 0), ("login-user", 65534)])
def test_an_outsider_who_enters_the_view_is_not_taken_for_the_workload(service: Service, workload: str, outsider: int) -> None:
    with _sleeping(service, workload):
        path, leaf = _files_inside(service, workload)
        dial = (
            "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(10)\n"
            "try:\n    s.connect(sys.argv[1])\n    print(s.recv(10))\nexcept OSError as error:\n    print(error.errno)"
        )
        done = subprocess.run(
            ["setpriv", f"--reuid={outsider}", f"--regid={outsider}", "--clear-groups", "--", "/usr/bin/python3", "-c", dial, path],
            text=True, capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        # Closed unread, reset, or never let in at all; never served.
        assert done.stdout.strip() in ("b''", "104", "13", "111"), done.stdout
        if done.stdout.strip() in ("b''", "104"):
            [row] = service.wait_sql(f"select distinct outcome, reason from recorded.connection where leaf = '{leaf}'")
            assert row == {"outcome": "denied", "reason": "dialled from outside the leaf"}


def test_a_proxy_that_was_killed_leaves_dials_refused_and_serves_the_same_path_again(service: Service) -> None:
    script = (
        "import socket, sys, time\n"
        "def dial():\n"
        "    s = socket.socket(socket.AF_UNIX)\n    s.settimeout(5)\n"
        "    try:\n        s.connect('/run/postgresql/.s.PGSQL.5432')\n        s.sendall(b'\\0\\0\\0\\x08\\x04\\xd2\\x16/')\n        return s.recv(1)\n"
        "    except TimeoutError:\n        return 'hung'\n    except OSError as error:\n        return error.errno\n"
        "seen = set()\nprint(dial(), flush=True)\nsys.stdin.readline()\n"
        "until = time.monotonic() + 30\n"
        "while time.monotonic() < until:\n    seen.add(dial())\n    if dial() == b'N' and len(seen) > 1:\n        break\n    time.sleep(0.005)\n"
        "print(dial(), 'hung' in seen, 13 in seen)"
    )
    command = [*service.command, "run", "--workload", "isolated", "--no-tty", "--", "/usr/bin/python3", "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=service.environment, cwd="/", text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "b'N'\n"
        os.kill(service.pid("proxyd"), 9)
        out, _ = process.communicate("\n", timeout=60)
    assert out == "b'N' False True\n"


def test_nothing_of_it_is_left_on_the_host(service: Service) -> None:
    wait_for(lambda: not _leaves(service), "every leaf's end")
    assert list(Path(service.folder, "run/sockets").iterdir()) == []
    with socket.socket(socket.AF_UNIX) as dial, pytest.raises(OSError, match="No such file"):
        dial.connect("/run/nowhere/.s.PGSQL.5432")
