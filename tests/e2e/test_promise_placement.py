"""Promises about where a workload stands: shared placement, targets on the host's own loopback, context, changed secrets."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from tests.e2e.conftest import example
from tests.e2e.talk import Talk, environment
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, wait_for

pytestmark = pytest.mark.e2e

_LOCAL_PORT = 5439
_WORKLOAD = """\
launchers: [root]
placement: {placement}
identity: {{kind: local, groups: [support], purpose: answer customer tickets}}
trust_files: [{company_ca}]
"""
_TARGET = """\
protocol: postgres
hosts: [{hosts}]
port: {port}
server_name: {server_name}
ca_file: {company_ca}
databases: [crm]
login: {{user: crm_proxy, credential: {{{credential}}}}}
labels: {{env: demo}}
"""
_CONTEXT = """\
version: 1
context:
  - {attributes: [change_freeze], file: FOLDER/context.json, max_age: 60}
  - {attributes: [incident], url: "http://127.0.0.1:871/context", max_age: 2}
rules:
  - {id: freeze, what: {effects: [update]}, when: {context: {change_freeze: on}}, then: deny, reason: there is a change freeze}
  - {id: incident, what: {effects: [delete]}, when: {context: {incident: "7"}}, then: deny, reason: there is an incident}
"""


class _Forwarder(threading.Thread):
    """The database on this host's own loopback: bytes to and from the database host. A governed one must not find another."""

    def __init__(self, family: socket.AddressFamily, address: str) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server((address, _LOCAL_PORT), family=family)

    def run(self) -> None:
        with self.listener:
            while True:
                try:
                    inside, _ = self.listener.accept()
                except OSError:
                    return
                threading.Thread(target=self._carry, args=(inside,), daemon=True).start()

    def _carry(self, inside: socket.socket) -> None:
        with inside, socket.create_connection((DATABASE_V4, 5432)) as outside:
            back = threading.Thread(target=self._pump, args=(outside, inside), daemon=True)
            back.start()
            self._pump(inside, outside)
            back.join(10)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def loopback_database(world: World) -> Iterator[None]:
    """PostgreSQL as a program on this host would find it: 127.0.0.1 and ::1, port 5439."""
    forwarders = [_Forwarder(socket.AF_INET, "127.0.0.1"), _Forwarder(socket.AF_INET6, "::1")]
    for forwarder in forwarders:
        forwarder.start()
    yield
    for forwarder in forwarders:
        forwarder.listener.shutdown(socket.SHUT_RDWR)
        forwarder.join(5)


@pytest.fixture(scope="module")
def settings(world: World, loopback_database: None) -> Settings:
    company_ca = world.folder / "company-ca.pem"
    vault = world.folder / "vault.env"
    vault.write_text("# the company's\nexport OTHER=1\nCRM_PASSWORD='S3cret-of-the-proxy-alone'\n", encoding="utf-8")
    vault.chmod(0o600)
    policy = example("customer-data").replace("workload: support-bot", "groups: [support]")
    wide = {"hosts": f'{DATABASE_NAME}, {DATABASE_V4}, "{DATABASE_V6}"', "port": 5432, "server_name": '""'}
    local = {"hosts": 'localhost, 127.0.0.1, "::1"', "port": _LOCAL_PORT, "server_name": DATABASE_NAME}
    return Settings(
        policies={"customer-data.yaml": policy},
        workloads={
            f"{placement}-bot.yaml": _WORKLOAD.format(placement=placement, company_ca=company_ca)
            for placement in ("isolated", "shared")
        },
        targets={
            "crm-db.yaml": _TARGET.format(**wide, company_ca=company_ca, credential=f"file: {world.folder / 'crm-password'}"),
            "local-db.yaml": _TARGET.format(**local, company_ca=company_ca, credential=f'env: "{vault}#CRM_PASSWORD"'),
        },
    )


class Context:
    """What two context providers say: a file, and HTTP on a port of this host's loopback. ``answer`` None is a failure."""

    def __init__(self, service: Service) -> None:
        self.file = service.folder / "context.json"
        self.answer: dict[str, object] | None = {"incident": "none"}
        self._document = service.config / "policy" / "context.yaml"
        context = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(context.answer).encode()
                self.send_response(200 if context.answer is not None else 503)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 871), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.say(change_freeze="off")
        self._document.write_text(_CONTEXT.replace("FOLDER", str(self.file.parent)), encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._document.unlink()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def say(self, *, age: float = 0, **attributes: str) -> None:
        """Replace the file in one step; ``age`` is how many seconds old it pretends to be."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(attributes), encoding="utf-8")
        os.utime(fresh, (time.time() - age, time.time() - age))
        fresh.rename(self.file)


def _becomes(talk: Talk, statement: str, error: str | None, seconds: float = 10.0) -> dict[str, object]:
    """Ask until the answer is as wanted, and return it."""
    answers: list[dict[str, object]] = []

    def look() -> bool:
        answers.append(talk.sql(statement))
        return answers[-1].get("error") == error

    wait_for(look, f"{error or 'success'} for {statement}", seconds)
    return answers[-1]


_ASK = "select name, email from customers order by id limit 1"


@pytest.mark.parametrize("placement", ["isolated", "shared"])
def test_both_placements_reach_targets_everywhere_in_both_families_and_are_masked(placement: str, service: Service) -> None:
    here = [(address, _LOCAL_PORT) for address in ("127.0.0.1", "::1", "localhost")]
    there = [(address, 5432) for address in (DATABASE_NAME, DATABASE_V4, DATABASE_V6)]
    script = "; ".join(
        f'psql -XAt "host={address} port={port}" -c "{_ASK}" -c "drop table customers" 2>&1' for address, port in (*here, *there)
    )
    asked = service.launch(*environment(service), "sh", "-c", script, workload=f"{placement}-bot", timeout=60)
    lines = asked.stdout.splitlines()
    assert lines.count("Ada Byron|[masked]") == 6, asked.stdout
    assert sum(line.startswith("ERROR:  hostagent: denied by rule nothing-destructive") for line in lines) == 6, asked.stdout


@pytest.fixture
def context(service: Service) -> Iterator[Context]:
    """A policy document with two providers: a file, and a service on this host's loopback that only root can bind."""
    with Context(service) as made:
        yield made


def test_context_from_a_file_governs_live_sessions_and_its_absence_means_no(context: Context, service: Service) -> None:
    change = "update orders set status = status where id = 1"
    with Talk(service, workload="isolated-bot") as talk:
        talk.connect()
        context.say(change_freeze="off")
        _becomes(talk, change, None)
        context.say(change_freeze="on")
        assert "there is a change freeze" in str(_becomes(talk, change, "42501")["message"])
        context.say(change_freeze="off")
        _becomes(talk, change, None)
        context.file.unlink()
        _becomes(talk, change, "42501")
        context.say(change_freeze="off")
        _becomes(talk, change, None)
        context.say(change_freeze="off", age=61)
        _becomes(talk, change, "42501")


def test_context_from_a_local_service_governs_and_ages(context: Context, service: Service) -> None:
    change = "delete from orders where id = -1"
    with Talk(service, workload="isolated-bot") as talk:
        talk.connect()
        context.answer = {"incident": "none"}
        _becomes(talk, change, None)
        context.answer = {"incident": 7}
        assert "there is an incident" in str(_becomes(talk, change, "42501")["message"])
        context.answer = {"incident": "none"}
        _becomes(talk, change, None)
        context.answer = None
        _becomes(talk, change, "42501")
