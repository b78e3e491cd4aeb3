"""Attacks 43 and 44 where the way is a governed one: a target's unix socket that is declared, a port that may be connected to."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bypass.attacked import Attacked, bpf_setting
from tests.bypass.attacks import HERE
from tests.stage import Service, Settings
from tests.stage.uids import COUNT, FIRST_UID
from tests.stage.world import AGENT_V4, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


_PORT, _OTHER = 8085, 8086
_DOCUMENT = "identity: {kind: local, groups: [support], purpose: attack}\n"
_TARGET = """\
protocol: postgres
sockets: [{folder}/.s.PGSQL.5432]
databases: [crm]
users: [crm_app]
login: {{user: crm_proxy, credential: {{file: {secret}}}}}
labels: {{env: demo}}
"""


@pytest.fixture(scope="module")
def declared(attacked: Attacked) -> Iterator[Service]:
    """A second service on the same host, whose documents declare the socket and the port."""
    folder, secret = attacked.world.folder / "postgres", attacked.world.folder / "crm-password"
    settings = Settings(
        policies={"attack.yaml": (attacked.service.config / "policy/attack.yaml").read_text(encoding="utf-8")},
        targets={"near.yaml": _TARGET.format(folder=folder, secret=secret)},
        workloads={
            "isolated.yaml": f"{_DOCUMENT}inbound: [{{port: {_PORT}, listen: {AGENT_V4}, opaque: true}}]\n",
            "shared.yaml": f"{_DOCUMENT}placement: shared\n",
        },
        toml=f'table = "ha_sockets"\nuid_first = {FIRST_UID + COUNT // 2}\n{bpf_setting()}',
    )
    with Service(attacked.world, settings, name="sockets") as service:
        yield service


# Every way to the server's own socket, past ours; and to more than the target names, through ours.
_RAID = """
import glob, json, os, socket, struct, subprocess, sys
path, folder = sys.argv[1], os.path.dirname(sys.argv[1])
def greet(name):
    try:
        with socket.socket(socket.AF_UNIX) as dial:
            dial.settimeout(10)
            dial.connect(name)
            body = struct.pack(">I", 196608) + b"user\\0postgres\\0database\\0postgres\\0\\0"
            dial.sendall(struct.pack(">I", len(body) + 4) + body)
            return dial.recv(4096).decode(errors="replace")
    except OSError as error:
        return type(error).__name__
names = [f"/proc/{pid}/root{path}" for pid in ("1", "self", "thread-self")] + [f"{folder}/../{os.path.basename(folder)}/.s.PGSQL.5432"]
names += [os.path.join(place, name) for place in (folder, "/run", "/tmp") for name in os.listdir(place)]
names += glob.glob(os.environ["RUNTIME"] + "/sockets/*") + [os.environ["RUNTIME"] + "/sockets"]
print(json.dumps({
    "greeted": {name: greet(name) for name in names},
    "seen": os.listdir(folder),
    "moved": [subprocess.run(each, capture_output=True).returncode != 0 for each in
              (["rm", "-f", path], ["mv", path, path + "x"], ["ln", "-sf", "/tmp/mine", path], ["mv", folder, folder + "x"], ["umount", path])],
    "query": subprocess.run(["psql", "-XAt", f"host={folder} dbname=crm user=crm_app password=x", "-c", "select count(*) > 0 from customers"],
                            capture_output=True, text=True).stdout,
    "drop": subprocess.run(["psql", "-XAt", f"host={folder} dbname=crm user=crm_app password=x", "-c", "drop table customers"],
                           capture_output=True, text=True).stderr,
}))
"""


@pytest.mark.attack("44")
@pytest.mark.parametrize("placement", HERE)
def test_a_declared_socket_leads_to_the_proxy_and_nothing_else(attacked: Attacked, declared: Service, placement: str) -> None:
    path = f"{attacked.world.folder}/postgres/.s.PGSQL.5432"
    runtime = f"RUNTIME={declared.folder}/run"
    done = declared.launch("env", runtime, attacked.python, "-c", _RAID, path, workload=placement, timeout=90)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["query"] == "t\n", found
    assert "denied" in found["drop"], found
    assert found["seen"] == [".s.PGSQL.5432"], found
    assert found["moved"] == [True] * 5, found
    # postgres is nobody that the target's document lets in; the server itself would have let its superuser's name try.
    reached = {name: came for name, came in found["greeted"].items() if not came.endswith(("Error", "Refused")) and "hostagent" not in came}
    assert {name: came for name, came in reached.items() if came} == {}, found
    rows = declared.wait_sql(f"select distinct target, transport, destination from sessions where workload = '{placement}'")
    assert rows == [{"target": "near", "transport": "unix", "destination": path}]


_SERVE = """
import os, socket, sys
listeners = [socket.create_server(("0.0.0.0", int(port))) for port in sys.argv[1:]]
for listener in listeners:
    if os.fork() == 0:
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"exfiltrated-0123456789")
            connection.close()
print("up", flush=True)
os.wait()
"""


@contextlib.contextmanager
def _served(service: Service, attacked: Attacked, placement: str) -> Iterator[None]:
    words = ["run", "--workload", placement, "--no-tty", "--", attacked.python, "-c", _SERVE, str(_PORT), str(_OTHER)]
    with subprocess.Popen([*service.command, *words], env=service.environment, cwd="/", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def _pull(port: int) -> bytes:
    try:
        with socket.create_connection((AGENT_V4, port), timeout=3) as dial:
            return dial.recv(100)
    except OSError:
        return b""


@pytest.mark.attack("43")
@pytest.mark.parametrize("placement", HERE)
def test_what_is_pulled_out_through_a_port_is_declared_and_on_record(attacked: Attacked, declared: Service, placement: str) -> None:
    isolated = placement == "isolated"
    with _served(declared, attacked, placement):
        assert _pull(_OTHER) == b""
        assert _pull(_PORT) == (b"exfiltrated-0123456789" if isolated else b"")
    question = f"select destination, direction, protocol, bytes_up, bytes_down from sessions where workload = '{placement}' and direction = 'inbound'"
    wait_for(lambda: len(declared.sql(question)) == int(isolated), "the row")
    wanted = {"destination": f"{AGENT_V4}:{_PORT}", "direction": "inbound", "protocol": "opaque", "bytes_up": 22, "bytes_down": 0}
    assert declared.sql(question) == ([wanted] if isolated else [])


def test_nothing_of_the_second_service_stays(declared: Service) -> None:
    folder = Path(declared.folder, "run/sockets")
    wait_for(lambda: not folder.exists() or os.listdir(folder) == [], "every leaf's end")
