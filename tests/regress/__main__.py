"""PostgreSQL's own ``pg_regress``: once directly, once as a governed workload with recording on. Exit 1 on a new failure.

Both runs log in as the database's superuser, over TLS, each on a stage of its own. Run as root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.regress.suite import RUNNER, prepared
from tests.stage import Service, Settings, World
from tests.stage.service import _WORKLOAD
from tests.stage.world import DATABASE_NAME, DATABASE_V4, DATABASE_V6, REPOSITORY, as_postgres

_INSIDE = "HOSTAGENT_REGRESS_INSIDE"
_LINE = re.compile(r"^(?:test\s+|\s{5})(\S+)\s+\.\.\. (ok|FAILED|failed)", re.MULTILINE)
_PASSWORD = "superuser-only"

_TARGET = """\
protocol: postgres
hosts: [{name}, {v4}, "{v6}"]
port: 5432
tls: verify
ca_file: {folder}/company-ca.pem
parameters: [intervalstyle]
login:
  user: postgres
  credential: {{file: {folder}/superuser-password}}
labels: {{env: regress}}
"""

# What we refuse whatever the policy says, and so these tests of PostgreSQL's cannot pass; what their output must then hold.
_REFUSED = "standard_conforming_strings must stay on"
_REFUSED_BY_DESIGN = ("strings", "plpgsql")


@dataclass(frozen=True)
class Run:
    """One run of the suite: each test's outcome ("ok" or "failed") and what it printed."""

    outcomes: dict[str, str]
    printed: dict[str, bytes]

    def failed(self, test: str) -> bool:
        """Whether ``test`` did not print what PostgreSQL's developers expect."""
        return self.outcomes.get(test) != "ok"


def main() -> int:
    """Enter private namespaces, then run the suite twice and compare."""
    if os.geteuid() != 0:
        print("make test-regress must be run as root: it builds network and mount namespaces of its own.", file=sys.stderr)
        return 77
    if _INSIDE not in os.environ:
        suite = prepared()
        command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "tests.regress"]
        return subprocess.call(command, env={**os.environ, _INSIDE: str(suite)})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    suite = Path(os.environ[_INSIDE])
    direct = _staged(suite, _direct, "direct")
    governed = _staged(suite, _governed, "governed")
    new = _new_failures(direct, governed)
    if new:
        # Plans depend on when vacuum came by, with us or without: only what fails again counts.
        print(f"again, because of {', '.join(new)}", flush=True)
        again = _new_failures(direct, _staged(suite, _governed, "governed again"))
        unsteady = sorted(set(new) - set(again))
        print(f"failed once and passed once: {', '.join(unsteady) or 'none'}")
        new = sorted(set(new) & set(again))
    return _report(direct, governed, new)


def _staged(suite: Path, run: Callable[[World, Path, Path], str], name: str) -> Run:
    """Run the suite on a fresh stage."""
    started = time.monotonic()
    with World() as world:
        copy, output = world.folder / "suite", world.folder / "output"
        shutil.copytree(suite, copy)
        output.mkdir()
        shutil.chown(output, "postgres", "postgres")
        said = run(world, copy, output)
        printed = {path.stem: path.read_bytes() for path in (output / "results").glob("*.out")}
        for differences in output.glob("regression.diffs"):
            kept = Path(tempfile.gettempdir()) / f"hostagent-regress-{name.replace(' ', '-')}.diffs"
            shutil.copy(differences, kept)
            print(f"{name}: what differed from the expected output is in {kept}")
    outcomes = {test: outcome.lower() for test, outcome in _LINE.findall(said)}
    passed = sum(outcome == "ok" for outcome in outcomes.values())
    print(f"{name}: {passed} of {len(outcomes)} passed in {time.monotonic() - started:.0f} s", flush=True)
    if len(outcomes) < 100:
        print(said[-4000:])
    return Run(outcomes, printed)


def _command(suite: Path, output: Path) -> list[str]:
    return [
        str(RUNNER), f"--inputdir={suite}", f"--outputdir={output}", f"--dlpath={suite}", "--bindir=/usr/lib/postgresql/15/bin",
        f"--schedule={suite}/parallel_schedule", "--max-concurrent-tests=20", f"--host={DATABASE_NAME}", "--port=5432", "--user=postgres",
    ]  # fmt: skip


def _environment(world: World, password: str) -> dict[str, str]:
    return {
        "PATH": "/usr/lib/postgresql/15/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PGPASSWORD": password,
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": str(world.folder / "company-ca.pem"),
    }


def _direct(world: World, suite: Path, output: Path) -> str:
    command = [*as_postgres(), *_command(suite, output)]
    result = subprocess.run(
        command, env=_environment(world, _PASSWORD), cwd=output, capture_output=True, text=True, check=False, timeout=1200
    )
    return result.stdout + result.stderr


def _governed(world: World, suite: Path, output: Path) -> str:
    secret = world.folder / "superuser-password"
    secret.write_text(_PASSWORD + "\n", encoding="utf-8")
    secret.chmod(0o600)
    workload = _WORKLOAD.format(company_ca=world.folder / "company-ca.pem")
    target = _TARGET.format(name=DATABASE_NAME, v4=DATABASE_V4, v6=DATABASE_V6, folder=world.folder)
    settings = Settings(
        policies={"allow-all.yaml": (REPOSITORY / "policy/examples/allow-all.yaml").read_text(encoding="utf-8")},
        workloads={"support-bot.yaml": f"{workload}paths:\n  - {{path: {output}, writable: true}}\n"},
        targets={"regress-db.yaml": target},
    )
    environment = ["env", "-C", str(output), *(f"{key}={value}" for key, value in _environment(world, "wrong").items())]
    with Service(world, settings, name="regress") as service:
        result = service.launch(*environment, *_command(suite, output), timeout=1500)
        said = result.stdout + result.stderr
        service.wait_sql("select 1 from sessions where closed is not null", 30)
        for row in service.sql("select decision, outcome, count(*) as n from statements group by all order by n desc"):
            print(f"recorded: {row['n']} statements, {row['decision']}, {row['outcome']}")
        verified = service.hostagent("audit", "verify", check=False)
        print("\n".join(verified.stdout.splitlines()[-1:]))
        if verified.returncode:
            said = ""  # evidence that does not hold is no pass
        crashes = [line for line in service.log.read_text(encoding="utf-8").splitlines() if "session failed" in line]
        print(f"sessions that failed inside: {len(crashes)}")
    return said


def _new_failures(direct: Run, governed: Run) -> list[str]:
    """Return the tests that went worse governed: not run, failed, or failed otherwise than they do directly."""
    return sorted(
        test
        for test in direct.outcomes
        if governed.failed(test)
        and governed.printed.get(test) != direct.printed.get(test)
        and not _refused_by_design(test, direct, governed)
    )


def _refused_by_design(test: str, direct: Run, governed: Run) -> bool:
    refused = _REFUSED.encode()
    return test in _REFUSED_BY_DESIGN and refused in governed.printed.get(test, b"") and refused not in direct.printed.get(test, b"")


def _report(direct: Run, governed: Run, new: list[str]) -> int:
    same = sum(governed.printed.get(test) == printed for test, printed in direct.printed.items())
    print(f"output identical to the direct run's, byte for byte: {same} of {len(direct.printed)} tests")
    both = sorted(test for test in direct.outcomes if direct.failed(test) and governed.failed(test) and test not in new)
    print(f"failing both ways, with the same output: {', '.join(both) or 'none'}")
    refused = [test for test in _REFUSED_BY_DESIGN if governed.failed(test) and _refused_by_design(test, direct, governed)]
    print(f"refused whatever the policy says ({_REFUSED}): {', '.join(refused) or 'none'}")
    print(f"new failures: {', '.join(new) or 'none'}")
    enough = len(direct.outcomes) >= 150
    if not enough:
        print("the direct run did not get through the suite: nothing is proved")
    return 1 if new or not enough else 0


if __name__ == "__main__":
    sys.exit(main())
