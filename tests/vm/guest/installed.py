"""hostagent as it is installed on the machine, units and all: commands, documents, and what the suites about it look at."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.stage.world import ACCOUNTS, DATABASE_NAME, DATABASE_V4, DATABASE_V6, REPOSITORY, wait_for
from tests.vm.guest.conftest import Governed, sh

UNITS = ("hostagent-enforcerd", "hostagent-proxyd", "hostagent-recorderd")
COMMAND = ("/usr/bin/hostagent",)
CONFIG = Path("/etc/hostagent")
STAGE = Path("/mnt/stage")
SECRETS = Path("/srv/crm")
SLICE = Path("/sys/fs/cgroup/governed.slice")
REPORTS = Path("/etc/systemd/system/reports.service")
WORKLOAD = """\
launchers: [root, dana]
identity: {kind: local, groups: [support], purpose: units}
trust_files: [/mnt/stage/company-ca.pem]
"""
TARGET = f"""\
protocol: postgres
hosts: [{DATABASE_NAME}, {DATABASE_V4}, "{DATABASE_V6}"]
port: 5432
tls: verify
ca_file: /mnt/stage/company-ca.pem
databases: [crm]
users: [crm_app]
login:
  user: crm_proxy
  credential: {{file: /mnt/stage/crm-password}}
labels: {{env: demo}}
"""
REPORTS_UNIT = """\
[Unit]
Description=Reports every second
[Service]
ExecStart=/usr/bin/python3 -u -c "import signal,time,os,subprocess,sys\\nsignal.signal(signal.SIGHUP,lambda *_:print('reloaded'))\\nprint('args',sys.argv[1:],os.environ['COLOUR'],os.getuid())\\nprint(subprocess.run(['psql','-X','-At','host=crm.internal dbname=crm user=crm_app sslmode=require','-c','select 123456789+1'],capture_output=True,text=True).stdout)\\nwhile 1: time.sleep(1)" "two words" 100%% ${COLOUR}
ExecReload=/bin/kill -HUP $MAINPID
Environment=COLOUR=blue
Restart=on-failure
"""
TOO_SLOW = "it is too slow"
"""What enforcerd says when it refuses a launch because it does not keep up: an emulated machine that others slow down stands still for seconds."""
_TRIES = 10
_DIALS = """
import select, socket, sys, time
print("begun", flush=True)
start, counts = time.monotonic(), {}
while time.monotonic() - start < 570 and not select.select([sys.stdin], [], [], 0.05)[0]:
    for port in (5432, 443):
        began = time.monotonic()
        try:
            with socket.create_connection((sys.argv[1], port), timeout=150) as dialled:
                outcome = "taken" if port == 5432 else ("closed" if dialled.recv(1) == b"" else "LEAK")
        except OSError as error:
            outcome = type(error).__name__
        counts[f"{port} {outcome}"] = counts.get(f"{port} {outcome}", 0) + 1
        if time.monotonic() - began > 10:
            counts[f"slow {port} {outcome}: {time.monotonic() - began:.0f} s, {began - start:.0f} s after the first"] = 1
print(counts)
"""


def keep_secrets() -> Path:
    """Copy the stage's certificate and password to where they outlast a reboot; return the folder."""
    SECRETS.mkdir(mode=0o755, exist_ok=True)
    for name in ("company-ca.pem", "crm-password"):
        shutil.copy(STAGE / name, SECRETS / name)
    return SECRETS


def add_person() -> None:
    """Make the account dana, unless another suite has."""
    if sh("getent", "passwd", "dana", check=False) == "":
        sh("useradd", "--uid", str(ACCOUNTS["dana"]), "--user-group", "--create-home", "--shell", "/bin/bash", "dana")


def write_documents(toml: str, folder: Path = STAGE) -> None:
    """Write what an operator would: workloads support, support-shared and dana, the database, a policy that allows everything.

    ``folder``: where the database's certificate and password are; those of the stage go with a reboot, see ``keep_secrets``.
    """
    workload = WORKLOAD.replace(str(STAGE), str(folder))
    (CONFIG / "hostagent.toml").write_text(toml)
    (CONFIG / "workloads/support.yaml").write_text(workload)
    (CONFIG / "workloads/support-shared.yaml").write_text(workload + "placement: shared\n")
    (CONFIG / "workloads/dana.yaml").write_text(workload + "user: dana\n")
    (CONFIG / "targets/crm-db.yaml").write_text(TARGET.replace(str(STAGE), str(folder)))
    (CONFIG / "policy/allow-all.yaml").write_text((REPOSITORY / "policy/examples/allow-all.yaml").read_text())


def hostagent(*words: str, check: bool = True) -> str:
    """Run the installed command as root."""
    return sh("/usr/bin/hostagent", *words, check=check)


def show(unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit."""
    lines = sh("systemctl", "show", unit, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def up() -> bool:
    """Whether every unit has said that it is ready."""
    return all(show(unit, "ActiveState")["ActiveState"] == "active" for unit in UNITS)


def ask(workload: str, question: str) -> str:
    """Ask the database as a workload; return its bare answer."""
    query = ["psql", "-X", "-At", f"host={DATABASE_NAME} dbname=crm user=crm_app sslmode=require", "-c", question]
    for _ in range(_TRIES):
        try:
            return hostagent("run", "--workload", workload, "--no-tty", "--", *query)
        except AssertionError as error:
            if TOO_SLOW not in str(error):
                raise
    raise AssertionError(f"refused {_TRIES} times")


class Dials:
    """A workload that dials the database and a sink in a loop, until it is asked for its counts."""

    def __init__(self, workload: str) -> None:
        command = ["/usr/bin/hostagent", "run", "--workload", workload, "--no-tty", "--", "/usr/bin/python3", "-c", _DIALS, DATABASE_V4]
        for _ in range(_TRIES):
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
            )
            assert self.process.stdout is not None
            if self.process.stdout.readline() == "begun\n":
                return
            _, words = self.process.communicate(timeout=60)
            assert TOO_SLOW in words, words
        raise AssertionError(f"refused {_TRIES} times: {words}")

    def counts(self) -> dict[str, int]:
        """Return how many dials had which outcome; empty if it was ended."""
        said, _ = self.process.communicate(timeout=400)
        found: dict[str, int] = ast.literal_eval(said) if said else {}
        return found


def in_transaction(workload: str) -> Governed:
    """Return a workload with an open transaction."""
    for _ in range(_TRIES):
        slow = journal("hostagent-enforcerd", TOO_SLOW)
        made = Governed(COMMAND, workload)
        if made.ask("begin; select 1;") in ("BEGIN", "1"):
            return made
        made.__exit__()
        assert journal("hostagent-enforcerd", TOO_SLOW) > slow, "it could not be begun"
    raise AssertionError(f"refused {_TRIES} times")


@contextlib.contextmanager
def dialling(*workloads: str) -> Iterator[list[Dials]]:
    """Dials as each of the workloads, while the context lasts at most."""
    made: list[Dials] = []
    try:
        for workload in workloads:
            made.append(Dials(workload))  # noqa: PERF401 - each is ended even if the next one does not begin
        yield made
    finally:
        for each in made:
            if each.process.poll() is None:
                each.process.kill()
                each.process.communicate(timeout=60)


LATE = "no other proxy came; dials are refused until one does"


def judged(counts: list[dict[str, int]], late: int) -> None:
    """See that no dial leaked, and that none was refused but where a proxy stayed away for longer than dials wait.

    ``late`` is how often enforcerd had said so (``LATE``) before: an emulated machine that others slow down can take that long.
    """
    assert not any("LEAK" in key for found in counts for key in found), counts
    allowed = {"5432 taken"} | ({"5432 ConnectionRefusedError"} if journal("hostagent-enforcerd", LATE) > late else set())
    for found in counts:
        assert {key for key in found if key.startswith("5432")} <= allowed, counts
        assert found.get("5432 taken", 0) > 0, counts


def main_pid(unit: str) -> int:
    """Return the main process of a unit, 0 while it has none."""
    return int(show(unit, "MainPID")["MainPID"])


def come_back(unit: str, former: int) -> None:
    """Wait until systemd has started a unit anew and all of them are ready."""
    wait_for(lambda: main_pid(unit) not in (0, former) and up(), f"{unit} to come back", 300)


def ask_softly(workload: str, question: str) -> str:
    """Ask as a workload; what goes wrong is an empty answer."""
    try:
        return ask(workload, question)
    except AssertionError:
        return ""


def served() -> bool:
    """Whether there are leaves, and a proxy serves all of them."""
    said = hostagent("status", "--json", check=False)
    rows = json.loads(said)["leaves"] if said.startswith("{") else []
    return bool(rows) and all(row["served"] for row in rows)


def leaf_pids() -> dict[str, list[str]]:
    """Return the processes of every workload's scope."""
    return {path.name: sorted((path / "cgroup.procs").read_text().split()) for path in SLICE.glob("support-*.scope")}


def journal(unit: str, word: str) -> int:
    """Return how many lines of a unit's log have ``word``."""
    return sh("journalctl", "-u", unit, "--no-pager", "-o", "cat", "-b").count(word)


def leaves(workload: str) -> list[str]:
    """Return the scopes of a workload."""
    return [path.name for path in SLICE.iterdir() if re.fullmatch(f"{workload}-[0-9a-f]{{8}}\\.scope", path.name)]


def statements() -> int:
    """Return how many statements the evidence has, 0 while nobody can say."""
    said = hostagent("sql", "--json", "select count(*) as n from statements", check=False)
    return int(json.loads(said)[0]["n"]) if said.startswith("[") else 0
