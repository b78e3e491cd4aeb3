"""Files that ordinary programs move through nginx and PostgreSQL: each a row with its hash, and policy says which may go."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import example
from tests.stage import Service, Settings, World
from tests.stage.world import DATABASE_NAME, DATABASE_V4

pytestmark = pytest.mark.e2e

_URL = f"http://{DATABASE_NAME}:8081"
_STORE = f"protocol: http\nhosts: [{DATABASE_NAME}]\nport: 8081\ntls: disable\n"
_CRM = f"""\
protocol: postgres
hosts: [{DATABASE_NAME}, {DATABASE_V4}]
tls: verify
ca_file: /mnt/stage/company-ca.pem
login: {{user: crm_proxy, credential: {{file: /mnt/stage/crm-password}}}}
"""
_POLICY = """\
version: 1
rules:
  - {id: archives, what: {transfer: {direction: download, names: "*.zip"}}, then: hold, approvers: hostagent-approvers}
  - {id: no-keys-leave, what: {transfer: {direction: upload, names: "*.pem"}}, then: deny, reason: keys stay here}
  - {id: no-large-uploads, what: {transfer: {direction: upload, size_over: 1MiB}}, then: deny}
  - {id: no-dumps, what: {transfer: {direction: download, names: "*.dump"}}, then: deny, reason: dumps are not for workloads}
"""
_NGINX = """\
user root; worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/tmp; client_max_body_size 0;
  types {{ application/json json; text/plain txt; }}
  default_type application/octet-stream;
  server {{ listen {address}:8081; root {folder}/files; dav_methods PUT; create_full_put_path on; }}
}}
"""


@pytest.fixture(scope="module")
def settings() -> Settings:
    """A file store and a database."""
    policies = {"all.yaml": example("allow-all"), "files.yaml": _POLICY}
    return Settings(policies=policies, targets={"store.yaml": _STORE, "crm-db.yaml": _CRM})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The stage with nginx as a file store on the database host."""
    with World() as built:
        folder = built.folder / "store"
        (folder / "files").mkdir(parents=True)
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, address=DATABASE_V4), encoding="utf-8")
        command = ["nsenter", f"--net=/proc/{built.holder}/ns/net", "nginx", "-c", str(folder / "nginx.conf")]
        with subprocess.Popen(command) as server:
            yield built
            server.terminate()


def _files(world: World) -> Path:
    return world.folder / "store/files"


def _shell(service: Service, script: str) -> str:
    done = service.launch("sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _rows(service: Service, target: str, count: int) -> list[dict[str, object]]:
    """Return the transfers with ``target``, oldest first, once there are so many."""
    there = f"from transfers where target = '{target}'"
    columns = "direction, name, media_type, detected_type, size, sha256, outcome, rules, target, workload"
    return service.wait_sql(f"select {columns} {there} and (select count(*) {there}) >= {count} order by seq")


def test_files_that_curl_moves_are_rows_with_their_hashes_and_rules_stop_some(world: World, service: Service) -> None:
    (_files(world) / "crm.dump").write_bytes(b"PGDMP")
    (_files(world) / "big").write_bytes(bytes(range(256)) * 20_000)
    shown = _shell(
        service,
        f"""
        cd /tmp; put() {{ curl -sS -m 30 --retry 5 --retry-connrefused -w '%{{http_code}} ' -o /dev/null "$@"; }}
        head -c 300000 /dev/zero > a.bin; head -c 2000000 /dev/zero > b.bin; echo secret > k.pem
        put -T a.bin {_URL}/in/a.bin
        put -T k.pem {_URL}/in/k.pem
        put -T b.bin {_URL}/in/b.bin
        put -T - -H 'Transfer-Encoding: chunked' {_URL}/in/chunked.bin < b.bin || true
        put -F 'f=@a.bin;type=application/zip' {_URL}/in/form
        put {_URL}/big; put {_URL}/crm.dump
        """,
    )
    assert shown.split() == ["201", "403", "403", "403", "404", "200", "403"]
    assert sorted(each.name for each in (_files(world) / "in").iterdir()) == ["a.bin"]
    rows = _rows(service, "store", 7)
    a_bin, big = hashlib.sha256(bytes(300_000)).hexdigest(), hashlib.sha256(bytes(range(256)) * 20_000).hexdigest()
    assert [(row["direction"], row["name"], row["outcome"]) for row in rows] == [
        ("upload", "/in/a.bin", "finished"), ("upload", "/in/k.pem", "denied"), ("upload", "/in/b.bin", "denied"), ("upload", "/in/chunked.bin", "cut"),
        ("upload", "a.bin", "finished"), ("download", "/big", "finished"), ("download", "/crm.dump", "denied"),
    ]  # fmt: skip
    assert [rows[at]["sha256"] for at in (0, 1, 4, 5)] == [a_bin, "", a_bin, big]
    assert (rows[4]["media_type"], rows[5]["size"], rows[0]["target"], rows[0]["workload"]) == ("application/zip", 5_120_000, "store", "support-bot")
    assert 0 < int(str(rows[3]["size"])) <= 1 << 20
    assert [rows[at]["rules"][0] for at in (1, 2, 6)] == ["no-keys-leave", "no-large-uploads", "no-dumps"]  # type: ignore[index]


def test_a_download_that_a_rule_holds_comes_once_when_it_is_approved_and_asked_for_again(world: World, service: Service) -> None:
    (_files(world) / "all.zip").write_bytes(b"PK\x03\x04" * 5)
    script = f"curl -sS -m 30 {_URL}/all.zip; echo; read go; curl -sS -m 30 {_URL}/all.zip | sha256sum"
    command = [*service.command, "run", "--workload", "support-bot", "--no-tty", "--", "sh", "-c", script]
    with subprocess.Popen(command, env=service.environment, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        held = json.loads(program.stdout.readline())
        assert (held["type"], held["rule"]) == ("urn:hostagent:held", "archives")
        assert "/all.zip" in service.hostagent("approvals", "show", held["ticket"], user="dana").stdout
        service.hostagent("approvals", "approve", held["ticket"], user="dana")
        got, _ = program.communicate("go\n", timeout=60)
    assert got.split()[0] == hashlib.sha256(b"PK\x03\x04" * 5).hexdigest()
    [row] = service.wait_sql("select rules, detected_type from transfers where name = '/all.zip' and outcome = 'finished'")
    assert (row["rules"][0], row["detected_type"]) == ("archives", "application/zip")  # type: ignore[index]


def test_psqls_copy_is_a_row_in_either_direction_with_the_hash_of_the_file(service: Service) -> None:
    shown = _shell(
        service,
        f"""
        cd /tmp; run() {{ psql -q "host={DATABASE_NAME} dbname=crm user=crm_app" -c "$1"; }}
        seq 1 5000 > in.csv; seq 1 400000 > large.csv
        run 'create table moved (n int)'
        run '\\copy moved from in.csv csv'
        run '\\copy (select n from moved order by n) to out.csv csv'
        run '\\copy moved from large.csv csv' || true
        run 'select count(*) from moved' -At; sha256sum in.csv out.csv
        """,
    )
    hashes = [line.split()[0] for line in shown.splitlines() if line.endswith(".csv")]
    rows = _rows(service, "crm-db", 3)
    assert [(row["direction"], row["name"], row["media_type"], row["outcome"]) for row in rows] == [
        ("upload", "moved", "text/csv", "finished"), ("download", "(query)", "text/csv", "finished"), ("upload", "moved", "text/csv", "cut"),
    ]  # fmt: skip
    assert [rows[0]["sha256"], rows[1]["sha256"]] == hashes
    assert "5000" in shown
    assert "405000" not in shown
