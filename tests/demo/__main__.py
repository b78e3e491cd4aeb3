"""Tells the story of one governed session. Run as root; everything happens in namespaces of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, World

_INSIDE = "HOSTAGENT_DEMO_INSIDE"


def main() -> int:
    """Enter private namespaces, then play."""
    if os.geteuid() != 0:
        print("make demo must be run as root: it builds network and mount namespaces of its own.", file=sys.stderr)
        return 77
    if _INSIDE not in os.environ:
        name = f"demo{os.getpid()}"
        before = _traces(name)
        status = subprocess.call(
            ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "tests.demo"],
            env={**os.environ, _INSIDE: name},
        )
        return status or _nothing_left(name, before)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return Demo().play()


class Demo:
    """The story. Every expectation is checked; a step that goes otherwise ends the demo with status 1."""

    def __init__(self) -> None:
        """Nothing happens before ``play``."""
        self._number = 0
        self._failures: list[str] = []
        self._started = time.monotonic()

    def play(self) -> int:
        """Play all steps; returns 0 when everything was as promised."""
        from tests.stage.service import Service, Settings

        self._title("A PostgreSQL with customer data on a database host, and hostagent on this one")
        with World() as world, Service(world, Settings(), os.environ[_INSIDE]) as service:
            self._say(f"database host: {DATABASE_NAME} ({DATABASE_V4}, {DATABASE_V6}), TLS by the company's own CA")
            for name in ("enforcerd", "proxyd", "recorderd"):
                pid = service.pid(name)
                self._say(f"{name:10} pid {pid}, {_privileges(pid)}")
            facts = self._run_workload(service)
            self._show_session(facts)
            self._show_attempts(facts, world)
            self._tell_in_sql(service)
        self._title(f"Done in {time.monotonic() - self._started:.0f} s")
        for failure in self._failures:
            print(f"  NOT AS PROMISED: {failure}")
        return 1 if self._failures else 0

    # -- the session -----------------------------------------------------------------------------------------------------

    def _run_workload(self, service: object) -> list[dict[str, object]]:
        from tests.stage.service import Service

        assert isinstance(service, Service)
        self._title("The workload starts: an ordinary program, its database's own address, a wrong password")
        program = str(service.world.repository / "tests/demo/workload.py")
        company_ca = str(service.world.folder / "company-ca.pem")
        command = ["/usr/bin/python3", program, DATABASE_NAME, company_ca, DATABASE_V4, DATABASE_V6]
        self._say(f"$ hostagent run --workload support-bot -- python3 workload.py {DATABASE_NAME} …")
        with self._approver(service):
            result = service.launch(*command, timeout=120)
        if result.returncode:
            self._expect(False, f"the workload ended with status {result.returncode}: {result.stdout[-500:]}{result.stderr[-1500:]}")
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]

    @contextmanager
    def _approver(self, service: object) -> Iterator[None]:
        """The second terminal: dana, of the approvers' group, looks at what is held and approves it."""
        from tests.stage.service import Service

        assert isinstance(service, Service)
        self.approval: list[str] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.2):
                listed = service.hostagent("approvals", "list", "--json", user="dana", check=False)
                tickets = json.loads(listed.stdout) if listed.returncode == 0 and listed.stdout.strip() else []
                for ticket in tickets:
                    name = ticket.get("ticket") or ticket.get("ticket_id")
                    shown = service.hostagent("approvals", "show", name, user="dana", check=False)
                    self.approval.append(f"$ hostagent approvals show {name}\n{shown.stdout.rstrip()}")
                    answer = service.hostagent("approvals", "approve", name, user="dana", check=False)
                    self.approval.append(f"$ hostagent approvals approve {name}\n{(answer.stdout + answer.stderr).strip()}")

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)

    def _show_session(self, facts: list[dict[str, object]]) -> None:
        step = {str(fact["step"]): fact for fact in facts}
        start = step.get("start", {})
        self._say(f"it runs as uid {start.get('uid')}, in cgroup {start.get('cgroup')}")
        self._title("A query is allowed")
        self._statement(step, "allowed")
        self._expect(bool(step.get("allowed", {}).get("rows")), "the allowed query returned no rows")
        self._title("Card numbers and e-mail addresses are masked: by column, and wherever they occur in text")
        self._statement(step, "masked")
        self._statement(step, "masked-note")
        seen = json.dumps([step.get("masked"), step.get("masked-note"), step.get("psql")])
        for secret in ("ada.byron@example.com", "4111 1111 1111 1111", "5555 5555 5555 4444"):
            self._expect(secret not in seen, f"{secret!r} reached the workload")
        self._expect("Ada Byron" in seen, "an unmasked column did not arrive")
        self._title("DROP TABLE is denied, and the session goes on")
        self._statement(step, "denied")
        self._expect(step.get("denied", {}).get("error") == "42501", "DROP TABLE was not denied")
        self._statement(step, "after-denial")
        self._title("A DELETE without WHERE is held, inside an open transaction, until a human has seen it")
        self._statement(step, "transaction")
        print(textwrap.indent("\n".join(self.approval), "      | "))
        self._statement(step, "held")
        self._expect(step.get("held", {}).get("tag") == "DELETE 12", "the held DELETE did not run as approved")
        self._say("the same transaction committed both the UPDATE and the DELETE")
        self._title("psql, from bash, inside the same workload")
        self._say(str(step.get("psql", {}).get("output")))

    def _show_attempts(self, facts: list[dict[str, object]], world: World) -> None:
        self._title("Attempts to go round the proxy")
        attempts = [fact for fact in facts if fact["step"] == "attempt"]
        for fact in attempts:
            self._say(f"{fact['name']:40} {fact['outcome']}")
            self._expect(str(fact["outcome"]) not in ("sent", "opened"), f"{fact['name']} got out")
            self._expect(not str(fact["outcome"]).startswith("answered"), f"{fact['name']} was answered")
        self._expect(len(attempts) >= 7, "not every attempt was made")
        lines = world.sink_lines()
        self._say(f"what the listening sinks on the database host saw: {lines or 'nothing'}")
        self._expect(not lines, "a sink saw traffic")
        left = world.superuser_sql("select count(*) from stale_carts", database="crm")
        self._say(f"and the database says: {left} rows left in stale_carts, customers still there")

    def _tell_in_sql(self, service: object) -> None:
        from tests.stage.service import Service

        assert isinstance(service, Service)
        self._title("The story, told by SQL over the recorded sessions")
        service.wait_sql("select 1 from sessions where closed is not null", 15)
        time.sleep(2)
        questions = Path(__file__).with_name("questions.sql").read_text(encoding="utf-8")
        for question in [part.strip() for part in questions.split(";") if part.strip()]:
            print(textwrap.indent(question, "    > "))
            answer = service.hostagent("sql", question, check=False)
            self._expect(answer.returncode == 0, f"the question failed: {answer.stderr.strip()}")
            print(textwrap.indent((answer.stdout + answer.stderr).rstrip(), "    "))
            print()
        verified = service.hostagent("audit", "verify", check=False)
        self._say(f"$ hostagent audit verify: {(verified.stdout + verified.stderr).strip()}")
        self._expect(verified.returncode == 0, "the evidence does not verify")

    # -- telling ---------------------------------------------------------------------------------------------------------

    def _title(self, text: str) -> None:
        self._number += 1
        print(f"\n{self._number:2}. {text}", flush=True)

    def _say(self, text: str) -> None:
        print(f"      {text}", flush=True)

    def _statement(self, step: dict[str, dict[str, object]], name: str) -> None:
        fact = step.get(name)
        if fact is None:
            self._expect(False, f"the workload did not get to step {name!r}")
            return
        self._say(f"workload> {fact['statement']}")
        rows = fact.get("rows")
        if isinstance(rows, list):
            for row in rows:
                self._say("   " + " | ".join(str(value) for value in row))
        elif fact.get("message"):
            for line in str(fact["message"]).splitlines():
                self._say(f"   {line}")
        else:
            self._say(f"   {fact.get('tag')}")

    def _expect(self, condition: bool, otherwise: str) -> None:
        if not condition:
            self._failures.append(otherwise)
            print(f"      !! {otherwise}", flush=True)


def _privileges(pid: int) -> str:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines() if ":\t" in line
    )
    capabilities = int(status["CapEff"], 16) | int(status["CapPrm"], 16)
    return f"uid {status['Uid'].split()[0]}, {'root capabilities' if capabilities else 'no capabilities'}"


def _traces(name: str) -> dict[str, set[str]]:
    """Return what the demo called ``name`` could leave behind on this machine."""
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()}
    roots = [Path(root) for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    cgroups = {str(path) for root in roots for path in root.glob(f"*{name}*")}
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    processes = subprocess.run(["pgrep", "-fa", f"hostagent-{name}"], capture_output=True, text=True, check=False).stdout
    return {
        "mounts": mounts,
        "cgroups": cgroups,
        "nft tables": set(tables.splitlines()),
        "processes": set(processes.splitlines()),
    }


def _nothing_left(name: str, before: dict[str, set[str]]) -> int:
    left = {kind: found - before[kind] for kind, found in _traces(name).items() if found - before[kind]}
    if left:
        print(f"LEFT BEHIND: {left}", file=sys.stderr)
        return 1
    print("      nothing is left running or mounted, nor in nft or cgroups")
    return 0


if __name__ == "__main__":
    sys.exit(main())
